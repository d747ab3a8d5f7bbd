"""What the probes of workers read, in words: the second table of `workers`. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from sluicegate.schemas.api.resources import GpuBody, HostResourcesBody, ResourcesBody
from sluicegate.schemas.api.workers import WorkerBody
from sluicegate.schemas.beats import WorkerState
from sluicegate.schemas.health.readings import DriverState

HEAD = ("WORKER", "DEVICE", "STATE", "MEMORY FREE", "IN USE", "HEAT", "POWER", "FAULTS")
_GIB = 1 << 30
_SAID = (DriverState.SERVING, DriverState.ABSENT, DriverState.DISABLED)
_FAULTS_SHOWN = 3


def rows(workers: Iterable[WorkerBody]) -> list[Sequence[object]]:
    """The rows under HEAD: the host of each worker that tells, and its GPUs."""
    found: list[Sequence[object]] = []
    for worker in workers:
        resources = worker.resources
        if resources is None or worker.state == WorkerState.GONE or resources.driver == DriverState.DISABLED:
            continue
        found.append((worker.nodename, "host", _driver(resources), *_host(resources.host), "-", "-", "-"))
        found += [(worker.nodename, _name(gpu), gpu.state, *_gpu(gpu)) for gpu in resources.gpus]
    return found


def warnings(workers: Iterable[WorkerBody]) -> Iterator[str]:
    """What a probe wants to be looked at, a line each."""
    for worker in workers:
        resources = worker.resources
        if resources is None or worker.state == WorkerState.GONE:
            continue
        if resources.driver not in _SAID:
            yield f"warning: {worker.nodename}: the GPU driver is {resources.driver.replace('_', ' ')}"
        for note in resources.notes:
            yield f"warning: {worker.nodename}: {note}"


def _driver(resources: ResourcesBody) -> str:
    if resources.driver == DriverState.ABSENT:
        return "no driver"
    return f"driver {resources.driver}"


def _name(gpu: GpuBody) -> str:
    return gpu.uuid if gpu.index is None else f"GPU {gpu.index}"


def _host(host: HostResourcesBody) -> tuple[str, str]:
    used = "-"
    if host.cores is not None and host.free_cores is not None:
        used = f"{host.cores - host.free_cores:.1f} of {host.cores:g} cores"
    return memory(host.memory_available_bytes, host.memory_total_bytes), used


def _gpu(gpu: GpuBody) -> tuple[str, str, str, str, str]:
    power = "-" if gpu.power_milliwatts is None else f"{gpu.power_milliwatts / 1000:.0f} W"
    return (
        memory(gpu.memory_free_bytes, gpu.memory_total_bytes),
        "-" if gpu.utilization_percent is None else f"{gpu.utilization_percent} %",
        "-" if gpu.temperature_celsius is None else f"{gpu.temperature_celsius} °C",
        power,
        _faults(gpu),
    )


def _faults(gpu: GpuBody) -> str:
    codes = [f"Xid {xid.code}" for xid in gpu.xids[-_FAULTS_SHOWN:]]
    more = len(gpu.xids) - len(codes)
    return ", ".join([*codes, *([f"{more} more"] if more > 0 else [])]) or "-"


def memory(free: int | None, total: int | None) -> str:
    """`1.9 of 24.0 GiB`; `-` where it is not known."""
    return "-" if free is None or not total else f"{free / _GIB:.1f} of {total / _GIB:.1f} GiB"
