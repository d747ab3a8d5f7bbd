"""Rules about what is left for the next task: GPU memory, the host's memory, its cores."""

from __future__ import annotations

from sluicegate.schemas.health import texts
from sluicegate.schemas.health.latches import NOTHING_TO_JUDGE, UNKNOWN, Finding
from sluicegate.schemas.health.readings import DeviceState, GpuReading
from sluicegate.schemas.health.rules.look import Look
from sluicegate.schemas.health.thresholds import Mark


def available_bytes(gpu: GpuReading, *, counts_total: bool) -> int | None:
    """What this fleet may have of a GPU's memory: what is free, and unless `counts_total` what it has already.

    Of what is used only what strangers use counts against it: otherwise ordinary work would drain its own host.
    """
    free, total = gpu.memory_free_bytes, gpu.memory_total_bytes
    if free is None or not total:
        return None
    if counts_total:
        return free
    if gpu.memory_own_bytes is None:
        return None
    used = max(0, total - free - (gpu.memory_reserved_bytes or 0))
    return free + min(used, gpu.memory_own_bytes)


def gpu_memory(look: Look) -> Finding:
    """Held when every GPU that serves is below, or with `is_any_gpu` when one is."""
    serving = [gpu for gpu in look.readings.gpus if gpu.state is DeviceState.SERVING]
    if not serving:
        return UNKNOWN if look.past.had_gpus else NOTHING_TO_JUDGE
    mark, is_total = look.thresholds.gpu_memory, look.thresholds.counts_total
    left = [(gpu, available_bytes(gpu, counts_total=is_total)) for gpu in serving]
    known = [(gpu, free, gpu.memory_total_bytes or 0) for gpu, free in left if free is not None]
    below = [(gpu, free, total) for gpu, free, total in known if mark.is_below(free, total)]
    well = [gpu for gpu, free, total in known if mark.is_well(free, total)]
    is_whole = len(known) == len(serving)
    if look.thresholds.is_any_gpu:
        is_bad, is_open = bool(below), len(below) == 0 and is_whole
        is_well = len(well) == len(serving)
    else:
        is_bad, is_open = is_whole and len(below) == len(serving), len(known) > len(below)
        is_well = bool(well)
    if not is_bad:
        return Finding(is_bad=False if is_open else None, is_well=is_well)
    gpu, free, total = min(below, key=lambda one: one[1] / one[2])
    return Finding(
        is_bad=True,
        reason="; ".join(_said(*each, is_total=is_total, mark=mark) for each in below) + f"; {texts.resumes(mark)}",
        numbers={
            "gpus": ",".join(texts.gpu(each).removeprefix("GPU ") for each, _, _ in below),
            "availableBytes": free,
            "totalBytes": total,
            "ownBytes": gpu.memory_own_bytes,
            "threshold": mark.threshold / 10_000,
            "release": mark.release / 10_000,
        },
        about=frozenset(each.uuid for each, _, _ in below),
    )


def _said(gpu: GpuReading, free: int, total: int, *, is_total: bool, mark: Mark) -> str:
    ours = " or our own" if not is_total and free != gpu.memory_free_bytes else ""
    figures = f"{texts.gib(free)} of {texts.gib(total)} GiB free{ours}"
    return f"{texts.gpu(gpu)}: {figures} ({texts.compare(free, total, mark)})"


def memory(look: Look) -> Finding:
    """Of the host, or of the container."""
    host, mark = look.readings.host, look.thresholds.memory
    if host.memory_available_bytes is None or not host.memory_total_bytes:
        return UNKNOWN
    free, total = host.memory_available_bytes, host.memory_total_bytes
    said = f"host memory: {texts.gib(free)} of {texts.gib(total)} GiB free"
    return _of_host(free, total, mark, said, {"availableBytes": free, "totalBytes": total})


def cpu(look: Look) -> Finding:
    """In thousandths of a core."""
    host, mark = look.readings.host, look.thresholds.cpu
    if host.free_cores is None or not host.cores or host.cores <= 0:
        return UNKNOWN
    free, total = int(host.free_cores * 1000), int(host.cores * 1000)
    said = f"cores: {free / 1000:.2f} of {total / 1000:.2f} free"
    return _of_host(free, total, mark, said, {"freeCores": free / 1000, "cores": total / 1000})


def _of_host(free: int, total: int, mark: Mark, said: str, numbers: dict[str, int | float | str | None]) -> Finding:
    if not mark.is_below(free, total):
        return Finding(is_bad=False, is_well=mark.is_well(free, total))
    return Finding(
        is_bad=True,
        reason=f"{said} ({texts.compare(free, total, mark)}); {texts.resumes(mark)}",
        numbers={**numbers, "threshold": mark.threshold / 10_000, "release": mark.release / 10_000},
    )
