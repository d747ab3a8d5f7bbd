"""How readings are spelled: the lines of a probe, and the `resources` of a heartbeat. camelCase, units in names.

What is None is left out: the reader knows from its absence that it could not be read. A probe imports this and little
else, since it must stay small; who reads what others wrote finds that in `schemas.health.resources`.
"""

from __future__ import annotations

from typing import Any

from sluicegate.schemas.health.readings import GpuReading, Readings
from sluicegate.schemas.times import to_wire as instant

MAX_XIDS = 64
"""Of one GPU: the newest are told."""

# Attribute and wire name of each plain figure. A name's unit is its last word.
GPU_COUNTS = {
    "index": "index",
    "memory_total_bytes": "memoryTotalBytes",
    "memory_free_bytes": "memoryFreeBytes",
    "memory_reserved_bytes": "memoryReservedBytes",
    "memory_own_bytes": "memoryOwnBytes",
    "recovery_action": "recoveryAction",
    "ecc_uncorrected": "eccUncorrected",
    "remapped_rows": "remappedRows",
    "retired_pages": "retiredPages",
    "temperature_celsius": "temperatureCelsius",
    "slowdown_celsius": "slowdownCelsius",
    "slowdown_margin_celsius": "slowdownMarginCelsius",
    "clock_event_reasons": "clockEventReasons",
    "utilization_percent": "utilizationPercent",
    "power_milliwatts": "powerMilliwatts",
    "power_limit_milliwatts": "powerLimitMilliwatts",
    "links_down": "linksDown",
}
GPU_FLAGS = {
    "is_remap_failed": "remapFailed",
    "is_remap_pending": "remapPending",
    "is_retirement_pending": "retirementPending",
}
HOST_FIGURES = {
    "uptime_s": "uptimeS",
    "cores": "cores",
    "free_cores": "freeCores",
    "memory_total_bytes": "memoryTotalBytes",
    "memory_available_bytes": "memoryAvailableBytes",
}


def to_wire(readings: Readings) -> dict[str, Any]:
    """`readings` as JSON has them."""
    said: dict[str, Any] = {
        "number": readings.number,
        "at": instant(readings.at),
        "driver": str(readings.driver),
        "hadGpus": readings.had_gpus,
        "gpus": [_gpu_to_wire(gpu) for gpu in readings.gpus],
        "host": _named(readings.host, {"boot_id": "bootId"} | HOST_FIGURES),
    }
    others = {
        "driver_version": "driverVersion",
        "gpu_count": "gpuCount",
        "expected_gpu_count": "expectedGpuCount",
        "is_attributable": "attributable",
    }
    said |= _named(readings, others)
    if readings.notes:
        said["notes"] = list(readings.notes)
    return said


def _named(value: object, names: dict[str, str]) -> dict[str, Any]:
    told = ((wire, getattr(value, name)) for name, wire in names.items())
    return {wire: one for wire, one in told if one is not None}


def _gpu_to_wire(gpu: GpuReading) -> dict[str, Any]:
    said: dict[str, Any] = {"uuid": gpu.uuid, "state": str(gpu.state)}
    if gpu.name is not None:
        said["name"] = gpu.name
    said |= _named(gpu, GPU_COUNTS | GPU_FLAGS)
    if gpu.xids:
        said["xids"] = [{"code": xid.code, "at": instant(xid.at)} for xid in gpu.xids[-MAX_XIDS:]]
    return said
