"""What a probe reads of a worker's host and of the GPUs that the worker may use. Values alone.

Units stand in the names. None means that it could not be read, never zero; what is unknown is not judged.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


class DriverState(StrEnum):
    """What is known of the GPU driver of the host."""

    SERVING = "serving"
    """It answers; it may have no GPU."""
    ABSENT = "absent"
    """There is no driver library here."""
    NOT_LOADED = "not_loaded"
    """The library is here, and the kernel's driver is not loaded."""
    MISMATCH = "mismatch"
    """Library and kernel driver are of different versions."""
    FORBIDDEN = "forbidden"
    """This user may not ask it."""
    UNRESPONSIVE = "unresponsive"
    """A call has not come back."""
    FAILING = "failing"
    """It answers with an error that none of the other words says."""
    DISABLED = "disabled"
    """Probing is switched off."""


class DeviceState(StrEnum):
    """What is known of one GPU."""

    SERVING = "serving"
    """It answers."""
    LOST = "lost"
    """It fell off the bus."""
    RESET_REQUIRED = "reset_required"
    """It answers that it must be reset."""
    MISSING = "missing"
    """It was there once, or is named in CUDA_VISIBLE_DEVICES, and is not listed."""
    UNRESPONSIVE = "unresponsive"
    """A call about it has not come back."""
    FORBIDDEN = "forbidden"
    """This user may not ask about it."""
    FAILING = "failing"
    """It answers with an error that none of the other words says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class XidSeen:
    """One error event of a GPU, `at` by the host's clock. NVML never tells it again."""

    code: int
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuReading:
    """One GPU, or one MIG instance, that the worker may use. `index` is NVML's.

    `memory_own_bytes`: what the process trees of this namespace's workers on this host have of it; None where
    processes cannot be seen. `recovery_action`: NVML's field 230. `slowdown_margin_celsius`: how far below the
    slowdown line; where it is None, `temperature_celsius` is judged by `slowdown_celsius`. `xids`: all that were seen
    since the host booted. `clock_event_reasons`: NVML's bits.
    """

    uuid: str
    index: int | None = None
    name: str | None = None
    state: DeviceState = DeviceState.SERVING
    memory_total_bytes: int | None = None
    memory_free_bytes: int | None = None
    memory_reserved_bytes: int | None = None
    memory_own_bytes: int | None = None
    recovery_action: int | None = None
    xids: tuple[XidSeen, ...] = ()
    ecc_uncorrected: int | None = None
    is_remap_failed: bool | None = None
    is_remap_pending: bool | None = None
    remapped_rows: int | None = None
    retired_pages: int | None = None
    is_retirement_pending: bool | None = None
    temperature_celsius: int | None = None
    slowdown_celsius: int | None = None
    slowdown_margin_celsius: int | None = None
    clock_event_reasons: int | None = None
    utilization_percent: int | None = None
    power_milliwatts: int | None = None
    power_limit_milliwatts: int | None = None
    links_down: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class HostReading:
    """The host, or the container: what its cgroup allows where that is less. `boot_id` is the kernel's."""

    boot_id: str | None = None
    uptime_s: float | None = None
    cores: float | None = None
    free_cores: float | None = None
    memory_total_bytes: int | None = None
    memory_available_bytes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Readings:
    """All that one look of the probe found. `number` counts looks in one life of the probe; `at` is the host's clock.

    `gpu_count`: how many GPUs the driver lists on the host; `expected_gpu_count`: how many there should be, where that
    is known. `had_gpus`: were there any since this host booted? `is_attributable`: can it be told whose processes use
    the GPUs? `notes`: what the probe wants to be said once, each a line (CUDA's order unknown, processes not visible).
    """

    number: int
    at: datetime
    driver: DriverState
    driver_version: str | None = None
    gpus: tuple[GpuReading, ...] = ()
    gpu_count: int | None = None
    expected_gpu_count: int | None = None
    had_gpus: bool = False
    is_attributable: bool | None = None
    host: HostReading = HostReading()
    notes: tuple[str, ...] = ()
