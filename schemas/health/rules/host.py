"""Rules about what the host's workers share: the driver, and the probe itself."""

from __future__ import annotations

from sluicegate.schemas.health.latches import NOTHING_TO_JUDGE, Finding
from sluicegate.schemas.health.readings import DriverState
from sluicegate.schemas.health.rules.look import Look
from sluicegate.schemas.health.thresholds import Action

_UNSURE = (DriverState.UNRESPONSIVE, DriverState.DISABLED)


def _driver(look: Look, state: DriverState, reason: str) -> Finding:
    """Only where there were GPUs: a host that never had any runs."""
    driver = look.readings.driver
    if driver is state and look.past.had_gpus:
        return Finding(is_bad=True, reason=reason, numbers={"driver": driver.value}, about=frozenset((driver.value,)))
    if driver in _UNSURE and look.past.had_gpus:
        return Finding(is_bad=None)
    return Finding(is_bad=False, is_well=True)


def driver_down(look: Look) -> Finding:
    """NVML's error 9 on a host that had GPUs."""
    return _driver(
        look, DriverState.NOT_LOADED, "the GPU driver is not loaded on this host, which had GPUs; resumes when it is"
    )


def driver_mismatch(look: Look) -> Finding:
    """NVML's error 18: an upgrade half done."""
    said = "the GPU driver's library and its kernel module differ in version; resumes when they match (reboot the host)"
    return _driver(look, DriverState.MISMATCH, said)


def silent(look: Look) -> Finding:
    """What was read last says nothing of now."""
    if look.silent_for_s is None:
        return Finding(is_bad=False, is_well=True)
    if not needs_probe(look):
        return NOTHING_TO_JUDGE
    reason = f"the probe has said nothing for {look.silent_for_s:.0f} s; resumes when it reads again"
    return Finding(is_bad=True, reason=reason, numbers={"silentForSeconds": int(look.silent_for_s)})


def needs_probe(look: Look) -> bool:
    """Does this worker run on anything that is judged?"""
    rules = look.thresholds.rules
    return look.past.had_gpus or any(
        rules[name].action is not Action.OFF for name in ("capacity.memory", "capacity.cpu")
    )
