"""Rules that only warn: what does not keep new work from running, or is no proof that anything is broken."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta

from sluicegate.schemas.health.latches import NOTHING_TO_JUDGE, UNKNOWN, Finding
from sluicegate.schemas.health.readings import DeviceState, DriverState, GpuReading, XidSeen
from sluicegate.schemas.health.rules.look import THROTTLE_MINUTES, Look, judge_each
from sluicegate.schemas.health.xids import REPEATED_AT, REPEATED_WITHIN_H, XidVerdict, name_of, verdict_of

MANY_REMAPPED_ROWS = 512
THROTTLED_MINUTES = 6
LINKS_FORGIVEN_S = 300.0
"""After a boot links are still coming up: 214 of 288 hosts once called that a fatal fault."""


def throttled(look: Look) -> Finding:
    """For the better part of 6 of the last 10 whole minutes; the one that has begun does not count."""

    def minutes(gpu: GpuReading) -> int:
        return sum(2 * hits > looks for _, hits, looks in look.past.throttled.get(gpu.uuid, ())[:-1])

    return judge_each(
        look,
        lambda gpu: None if gpu.clock_event_reasons is None else minutes(gpu) >= THROTTLED_MINUTES,
        lambda gpu: (
            f"its clocks were held down by heat or power in {minutes(gpu)} of the last {THROTTLE_MINUTES} minutes"
        ),
    )


def remap(look: Look) -> Finding:
    """New work may run beside a pending remap."""

    def is_bad(gpu: GpuReading) -> bool | None:
        rows = gpu.remapped_rows
        return bool(gpu.is_remap_pending) or (rows is not None and rows >= MANY_REMAPPED_ROWS)

    def say(gpu: GpuReading) -> str:
        pending = ["a row waits to be remapped (reset it when convenient)"] if gpu.is_remap_pending else []
        rows = gpu.remapped_rows or 0
        many = [f"{rows} remapped rows >= {MANY_REMAPPED_ROWS}"] if rows >= MANY_REMAPPED_ROWS else []
        return ", ".join(pending + many)

    return judge_each(look, is_bad, say)


def retirement(look: Look) -> Finding:
    """Before Ampere: as a pending remap."""
    return judge_each(
        look,
        lambda gpu: bool(gpu.is_retirement_pending),
        lambda gpu: "pages wait to be retired (reset it when convenient)",
    )


def links(look: Look) -> Finding:
    """Not while the host has just booted."""
    uptime_s = look.readings.host.uptime_s
    if uptime_s is not None and uptime_s < LINKS_FORGIVEN_S:
        return UNKNOWN
    return judge_each(
        look,
        lambda gpu: None if gpu.links_down is None else gpu.links_down > 0,
        lambda gpu: f"{gpu.links_down} of its links are down",
        numbers="linksDown",
        value=lambda gpu: gpu.links_down,
    )


def inventory(look: Look) -> Finding:
    """Fewer than there should be, and this worker's own are all there."""
    count, expected = look.readings.gpu_count, look.readings.expected_gpu_count
    if count is None or expected is None:
        return NOTHING_TO_JUDGE
    is_own = any(gpu.state is DeviceState.MISSING for gpu in look.readings.gpus)
    if count >= expected or is_own:
        return Finding(is_bad=False, is_well=True)
    return Finding(
        is_bad=True,
        reason=f"the driver lists {count} GPUs of {expected}; those that this worker may use are there",
        numbers={"gpuCount": count, "expectedGpuCount": expected},
    )


def xid_seen(look: Look) -> Finding:
    """An Xid that nobody knows, that is fatal only in some cases, or an application's that comes again and again."""
    told = {gpu.uuid: _told(look, gpu) for gpu in look.readings.gpus}
    return judge_each(look, lambda gpu: bool(told[gpu.uuid]), lambda gpu: ", ".join(told[gpu.uuid]))


def _told(look: Look, gpu: GpuReading) -> list[str]:
    since = look.readings.at - timedelta(hours=REPEATED_WITHIN_H)
    recent = [seen for seen in gpu.xids if seen.at > since]
    counts = Counter(seen.code for seen in recent)
    return [
        f"Xid {code} ({name_of(code)}) {count} times in 24 h"
        for code, count in sorted(counts.items())
        if _warns(look, gpu, code, recent)
    ]


def _warns(look: Look, gpu: GpuReading, code: int, recent: list[XidSeen]) -> bool:
    match verdict_of(code, look.thresholds.xids):
        case XidVerdict.WARN:
            return True
        case XidVerdict.FATAL:
            return not gpu.recovery_action
        case XidVerdict.REPEATED:
            return sum(seen.code == code for seen in recent) >= REPEATED_AT
        case _:
            return False


def unattributed(look: Look) -> Finding:
    """Whose memory it is cannot be told: then `capacity.gpu_memory` is not judged."""
    is_judged = not look.thresholds.counts_total and bool(look.readings.gpus)
    if not is_judged or look.readings.is_attributable is not False:
        return Finding(is_bad=False, is_well=True)
    reason = (
        "whose processes use the GPUs cannot be seen from here, so their memory is not judged: run the container with"
        " --pid=host, or set SLUICEGATE_CAPACITY_USE=total"
    )
    return Finding(is_bad=True, reason=reason)


_DRIVER_SAID = {
    DriverState.FORBIDDEN: "this user may not ask the GPU driver: nothing about GPUs is judged",
    DriverState.FAILING: "the GPU driver answers with errors: nothing about GPUs is judged",
}


def driver(look: Look) -> Finding:
    """It is there, and cannot be asked."""
    state = look.readings.driver
    if state in _DRIVER_SAID:
        return Finding(is_bad=True, reason=_DRIVER_SAID[state], numbers={"driver": state.value})
    return Finding(is_bad=False, is_well=True)
