"""Every rule: what it judges by, what it does, and for how long. docs/gpu-rules.md has the same table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from sluicegate.schemas.health.latches import Finding
from sluicegate.schemas.health.rules import capacity, devices, host, warnings
from sluicegate.schemas.health.rules.look import Look
from sluicegate.schemas.health.thresholds import Action, RuleSetting
from sluicegate.schemas.holds.hold import Cause


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One rule. `is_of_host`: its hold is of the whole host, where others are of the worker alone.

    `can_hold`: False of those that only ever warn. `ends_contexts`: once it has held, what a process had on the GPU is
    dead, and only a new process can use it. `lets_go`: a drained worker has no business with its GPUs meanwhile.
    """

    name: str
    judge: Callable[[Look], Finding]
    cause: Cause
    default: RuleSetting
    is_of_host: bool = False
    can_hold: bool = True
    ends_contexts: bool = False

    @property
    def lets_go(self) -> bool:
        """Those of health: who repairs a GPU needs it free."""
        return self.cause is Cause.HEALTH


def _holds(
    name: str,
    judge: Callable[[Look], Finding],
    *,
    readings: int = 1,
    release_after_s: int = 30,
    action: Action = Action.HOLD,
    cause: Cause = Cause.HEALTH,
    is_of_host: bool = False,
    ends_contexts: bool = False,
) -> Rule:
    default = RuleSetting(action=action, readings=readings, release_after_s=release_after_s)
    return Rule(
        name=name, judge=judge, cause=cause, default=default, is_of_host=is_of_host, ends_contexts=ends_contexts
    )


def _warns(name: str, judge: Callable[[Look], Finding], *, readings: int = 1, release_after_s: int = 300) -> Rule:
    default = RuleSetting(action=Action.WARN, readings=readings, release_after_s=release_after_s)
    return Rule(name=name, judge=judge, cause=Cause.HEALTH, default=default, can_hold=False)


_CAPACITY = Cause.CAPACITY

_RULES = (
    _holds("gpu.recovery", devices.recovery, ends_contexts=True),
    _holds("gpu.lost", devices.lost, ends_contexts=True),
    _holds("gpu.missing", devices.missing, ends_contexts=True),
    _holds("gpu.unresponsive", devices.unresponsive),
    _holds("driver.down", host.driver_down, is_of_host=True, ends_contexts=True),
    _holds("driver.mismatch", host.driver_mismatch, is_of_host=True, ends_contexts=True),
    _holds("gpu.xid", devices.xid, ends_contexts=True),
    _holds("gpu.ecc", devices.ecc, ends_contexts=True),
    _holds("gpu.remap_failed", devices.remap_failed),
    _holds("gpu.retired", devices.retired),
    _holds("gpu.heat", devices.heat, readings=3, release_after_s=60),
    _holds("probe.silent", host.silent, cause=_CAPACITY),
    _holds("capacity.gpu_memory", capacity.gpu_memory, cause=_CAPACITY),
    _holds("capacity.memory", capacity.memory, action=Action.OFF, cause=_CAPACITY, is_of_host=True),
    _holds("capacity.cpu", capacity.cpu, action=Action.OFF, cause=_CAPACITY, is_of_host=True),
    _warns("gpu.throttle", warnings.throttled),
    _warns("gpu.remap", warnings.remap),
    _warns("gpu.retirement", warnings.retirement),
    _warns("gpu.links", warnings.links, readings=3),
    _warns("gpu.inventory", warnings.inventory),
    _warns("gpu.xid_seen", warnings.xid_seen),
    _warns("gpu.unattributed", warnings.unattributed),
    _warns("driver.answers", warnings.driver),
)

RULES: Mapping[str, Rule] = {rule.name: rule for rule in _RULES}
