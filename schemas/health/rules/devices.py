"""Rules about the GPUs that a worker may use: what holds it."""

from __future__ import annotations

from datetime import timedelta

from sluicegate.schemas.health.latches import NOTHING_TO_JUDGE, UNKNOWN, Finding
from sluicegate.schemas.health.readings import DeviceState, DriverState, GpuReading, XidSeen
from sluicegate.schemas.health.rules.look import Look, judge_each
from sluicegate.schemas.health.xids import XidVerdict, name_of, verdict_of

_ACTIONS = {1: "reset the GPU", 2: "reboot the host", 3: "drain its peers", 4: "drain and reset the GPU"}

XID_OPEN_S = 30.0
"""How long an Xid counts although the driver's own verdict is that nothing is to be done: it may come later."""
MOST_RETIRED_PAGES = 63
HEAT_RELEASE_CELSIUS = 5


def recovery(look: Look) -> Finding:
    """The driver's own verdict, which clears itself."""

    def say(gpu: GpuReading) -> str:
        action = _ACTIONS.get(gpu.recovery_action or 0, "see NVIDIA's documentation of this action")
        return f"the driver asks for recovery action {gpu.recovery_action} ({action}); resumes when it asks for none"

    return judge_each(
        look,
        lambda gpu: None if gpu.recovery_action is None else gpu.recovery_action >= 1,
        say,
        numbers="recoveryAction",
        value=lambda gpu: gpu.recovery_action,
    )


def _of_state(look: Look, said: dict[DeviceState, str]) -> Finding:
    return judge_each(look, lambda gpu: gpu.state in said, lambda gpu: said[gpu.state])


def lost(look: Look) -> Finding:
    """One look is enough."""
    return _of_state(
        look,
        {
            DeviceState.LOST: "it fell off the bus; resumes when the driver serves it again (reset it or reboot)",
            DeviceState.RESET_REQUIRED: "the driver says that it must be reset; resumes when it has been",
        },
    )


def missing(look: Look) -> Finding:
    """Of those that the worker may use; of others `gpu.inventory` warns."""
    return _of_state(
        look, {DeviceState.MISSING: "this worker may use it, and the driver does not list it; resumes when it does"}
    )


def unresponsive(look: Look) -> Finding:
    """A call about one GPU, or the driver as a whole, has not come back."""
    if look.readings.driver is DriverState.UNRESPONSIVE and not look.readings.gpus:
        if not look.past.had_gpus:
            return NOTHING_TO_JUDGE
        reason = "the GPU driver does not answer; resumes when it does"
        return Finding(is_bad=True, reason=reason, about=frozenset(("driver",)))
    if look.readings.driver is DriverState.UNRESPONSIVE:
        reason = "a call of the GPU driver has not come back; resumes when it answers again"
        return Finding(is_bad=True, reason=reason, about=frozenset(("driver",)))
    return _of_state(
        look, {DeviceState.UNRESPONSIVE: "a call about it has not come back; resumes when it answers again"}
    )


def _open_xids(look: Look, gpu: GpuReading) -> list[XidSeen]:
    """Those that hold: of each code the newest.

    The driver's own verdict goes before the list, once it has had its time; without one only a reboot of the host, or
    an operator, ends what an Xid began.
    """
    now, cleared_at = look.readings.at, look.past.cleared_at.get("gpu.xid")
    found: dict[int, XidSeen] = {}
    for seen in gpu.xids:
        if cleared_at is not None and seen.at <= cleared_at:
            continue
        verdict = verdict_of(seen.code, look.thresholds.xids)
        is_asked = gpu.recovery_action is not None and gpu.recovery_action >= 1
        is_fresh = now - seen.at < timedelta(seconds=XID_OPEN_S)
        holds = verdict is XidVerdict.HOLD and (gpu.recovery_action is None or is_asked or is_fresh)
        if holds or (verdict is XidVerdict.FATAL and is_asked):
            found[seen.code] = max(seen, found.get(seen.code, seen), key=lambda one: one.at)
    return sorted(found.values(), key=lambda seen: seen.at)


def xid(look: Look) -> Finding:
    """Errors that the driver told, by the table of Xids."""
    gpus = look.readings.gpus
    if not gpus:
        return UNKNOWN if look.past.had_gpus else NOTHING_TO_JUDGE
    found = {gpu.uuid: _open_xids(look, gpu) for gpu in gpus}
    if not any(found.values()):
        return Finding(is_bad=False, is_well=True)

    def say(gpu: GpuReading) -> str:
        told = ", ".join(f"Xid {seen.code} ({name_of(seen.code)}) at {seen.at:%H:%M:%S}" for seen in found[gpu.uuid])
        if gpu.recovery_action is None:
            return f"{told}; resumes after a reboot of the host, or by `sluicegate health clear` once it was reset"
        return f"{told}; resumes when the driver asks for no recovery action"

    finding = judge_each(look, lambda gpu: bool(found[gpu.uuid]), say)
    codes = sorted({seen.code for each in found.values() for seen in each})
    return Finding(
        is_bad=True,
        reason=finding.reason,
        numbers={**finding.numbers, "xids": ",".join(map(str, codes))},
        about=frozenset(f"{uuid} {seen.code} {seen.at}" for uuid, each in found.items() for seen in each),
    )


def ecc(look: Look) -> Finding:
    """More uncorrected errors than at first where the driver asks for something; without its verdict any at all."""

    def is_bad(gpu: GpuReading) -> bool | None:
        if gpu.ecc_uncorrected is None:
            return None if gpu.state is not DeviceState.SERVING else False
        if gpu.recovery_action is None:
            return gpu.ecc_uncorrected > 0
        return gpu.recovery_action >= 1 and gpu.ecc_uncorrected > look.past.ecc_before.get(
            gpu.uuid, gpu.ecc_uncorrected
        )

    return judge_each(
        look,
        is_bad,
        lambda gpu: f"{gpu.ecc_uncorrected} uncorrected memory errors; resumes when it has been reset",
        numbers="eccUncorrected",
        value=lambda gpu: gpu.ecc_uncorrected,
    )


def remap_failed(look: Look) -> Finding:
    """Unknown before Ampere, and there it is no fault."""
    return judge_each(
        look,
        lambda gpu: _known(gpu, gpu.is_remap_failed),
        lambda gpu: "a row of its memory could not be remapped; resumes when the driver no longer says so (replace it)",
    )


def retired(look: Look) -> Finding:
    """Pages retired for good; on Ampere and later there are none."""
    return judge_each(
        look,
        lambda gpu: _known(gpu, None if gpu.retired_pages is None else gpu.retired_pages >= MOST_RETIRED_PAGES),
        lambda gpu: (
            f"{gpu.retired_pages} retired pages >= {MOST_RETIRED_PAGES}; it resumes on another GPU (replace it)"
        ),
        numbers="retiredPages",
        value=lambda gpu: gpu.retired_pages,
    )


def _known(gpu: GpuReading, answer: bool | None) -> bool | None:
    """What a serving GPU does not have is no fault; of one that does not serve nothing is known."""
    return False if answer is None and gpu.state is DeviceState.SERVING else answer


def margin_of(gpu: GpuReading) -> int | None:
    """How far below its slowdown line a GPU is, in degrees Celsius."""
    if gpu.slowdown_margin_celsius is not None:
        return gpu.slowdown_margin_celsius
    if gpu.temperature_celsius is None or gpu.slowdown_celsius is None:
        return None
    return gpu.slowdown_celsius - gpu.temperature_celsius


def heat(look: Look) -> Finding:
    """At the hardware's own slowdown line; well five degrees below it."""

    def is_bad(gpu: GpuReading) -> bool | None:
        margin = margin_of(gpu)
        return _known(gpu, None if margin is None else margin <= 0)

    def say(gpu: GpuReading) -> str:
        return f"{_degrees(gpu)}; resumes {HEAT_RELEASE_CELSIUS} °C below it"

    finding = judge_each(look, is_bad, say, numbers="slowdownMarginCelsius", value=margin_of)
    margins = [margin_of(gpu) for gpu in look.readings.gpus]
    if finding.is_well and any(margin is not None and margin < HEAT_RELEASE_CELSIUS for margin in margins):
        return Finding(is_bad=False)
    return finding


def _degrees(gpu: GpuReading) -> str:
    margin = margin_of(gpu) or 0
    if gpu.slowdown_margin_celsius is None:
        return f"{gpu.temperature_celsius} °C >= its slowdown line of {gpu.slowdown_celsius} °C"
    return f"{-margin} °C past its slowdown line" if margin < 0 else "at its slowdown line"
