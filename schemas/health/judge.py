"""One look of the probe, judged by every rule: which holds the worker wants of itself, and what to say. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import NamedTuple

from sluicegate.schemas.health.latches import Finding, Latch, adopt, interrupt, step
from sluicegate.schemas.health.local_holds import LocalHold
from sluicegate.schemas.health.readings import DriverState, Readings
from sluicegate.schemas.health.rules.look import Look, Past, remember
from sluicegate.schemas.health.rules.table import RULES, Rule
from sluicegate.schemas.health.thresholds import Action, Thresholds
from sluicegate.schemas.holds.hold import MAX_REASON_CHARS
from sluicegate.schemas.scopes import Scope, ScopeKind

SILENT = "probe.silent"


class Place(NamedTuple):
    """Who judges: nodename and host of the worker. It may hold these, and nothing else."""

    worker: str
    host: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Warned:
    """A rule that only warns, or one whose action is `warn`: then `would_hold`."""

    rule: str
    text: str
    since: datetime
    would_hold: LocalHold | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """What is known from look to look: a latch for each rule, and what rules remember."""

    latches: Mapping[str, Latch] = field(default_factory=dict)
    past: Past = field(default_factory=Past)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What one look comes to: what is remembered for the next, the holds to be in force now, and the warnings."""

    memory: Memory
    holds: tuple[LocalHold, ...]
    warned: tuple[Warned, ...]


def judge(readings: Readings, thresholds: Thresholds, memory: Memory, place: Place, now_s: float) -> Verdict:
    """`now_s` is of a clock that only goes forward; `readings.at` tells when by the host's."""
    past = remember(memory.past, readings, int(now_s // 60))
    look = Look(readings=readings, thresholds=thresholds, past=past)
    latches = {
        name: step(
            memory.latches.get(name, Latch()), rule.judge(look), thresholds.rules[name], at=readings.at, now_s=now_s
        )
        for name, rule in _in_force(thresholds)
    }
    return _verdict(Memory(latches=latches, past=past), thresholds, place)


def judge_silence(
    last: Readings | None,
    silent_for_s: float,
    thresholds: Thresholds,
    memory: Memory,
    place: Place,
    at: datetime,
    now_s: float,
) -> Verdict:
    """No look came for longer than may be. What stands stays, and what was well has to be seen to be so again."""
    readings = last or Readings(number=0, at=at, driver=DriverState.DISABLED)
    look = Look(readings=readings, thresholds=thresholds, past=memory.past, silent_for_s=silent_for_s)
    latches = {
        name: step(latch, rule.judge(look), thresholds.rules[name], at=at, now_s=now_s)
        if name == SILENT
        else interrupt(latch)
        for name, rule in _in_force(thresholds)
        for latch in (memory.latches.get(name, Latch()),)
    }
    return _verdict(Memory(latches=latches, past=memory.past), thresholds, place)


def stand_by(holds: Iterable[LocalHold], thresholds: Thresholds, memory: Memory, now_s: float) -> Memory:
    """Take over what an earlier life of this worker held: it ends by its own rule; what is off is not taken over."""
    latches = dict(memory.latches)
    for hold in holds:
        rule = RULES.get(hold.rule)
        before = latches.get(hold.rule, Latch())
        if rule is None or thresholds.rules[hold.rule].action is not Action.HOLD or before.taken is not None:
            continue
        finding = Finding(is_bad=True, reason=hold.reason, numbers=dict(hold.numbers))
        latches[hold.rule] = adopt(before, finding, thresholds.rules[hold.rule], since=hold.since, now_s=now_s)
    had_gpus = memory.past.had_gpus or any(name.startswith("gpu.") and latch.taken for name, latch in latches.items())
    return replace(memory, latches=latches, past=replace(memory.past, had_gpus=had_gpus))


def clear(memory: Memory, rule: str | None, at: datetime) -> Memory:
    """An operator says that it is over, of one rule or of all: by what comes from now on it may be held anew."""
    names = [name for name in RULES if rule in (None, name)]
    past = replace(memory.past, cleared_at={**memory.past.cleared_at, **dict.fromkeys(names, at)})
    return Memory(latches={name: latch for name, latch in memory.latches.items() if name not in names}, past=past)


def _in_force(thresholds: Thresholds) -> list[tuple[str, Rule]]:
    return [(name, rule) for name, rule in RULES.items() if thresholds.rules[name].action is not Action.OFF]


def _verdict(memory: Memory, thresholds: Thresholds, place: Place) -> Verdict:
    holds, warned = [], []
    for name, latch in memory.latches.items():
        if latch.taken is None:
            continue
        rule, finding = RULES[name], latch.taken.finding
        hold = LocalHold(
            rule=name,
            cause=rule.cause,
            scope=Scope(ScopeKind.HOST, place.host) if rule.is_of_host else Scope(ScopeKind.WORKER, place.worker),
            reason=finding.reason[:MAX_REASON_CHARS],
            since=latch.taken.since,
            numbers=dict(finding.numbers),
        )
        if thresholds.rules[name].action is Action.HOLD:
            holds.append(hold)
        else:
            would = replace(hold, is_shadow=True) if rule.can_hold else None
            warned.append(Warned(rule=name, text=finding.reason, since=latch.taken.since, would_hold=would))
    return Verdict(memory=memory, holds=tuple(holds), warned=tuple(warned))
