"""The holds that a worker places on itself: by which rule, why, and what must change; how they travel. Values alone.

A worker's own hold is in force at its gate first. Its heartbeat tells of it, the control plane puts it on record as a
hold like any other, and releases that when the worker tells of it no more. `is_own` says which recorded holds are a
worker's own: those are in force there by its own rules, and not by the record.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Self

from sluicegate.schemas import telling
from sluicegate.schemas.errors import InvalidInput
from sluicegate.schemas.holds.hold import Cause, Hold, HoldKey
from sluicegate.schemas.modes import Mode
from sluicegate.schemas.scopes import Scope, ScopeKind, Subject
from sluicegate.schemas.times import from_wire, to_wire

OWN_CAUSES = (Cause.HEALTH, Cause.CAPACITY)
OWN_SCOPES = (ScopeKind.WORKER, ScopeKind.HOST)

MAX_LOCAL_HOLDS = 16
"""So many of one worker are told and recorded; all of them are in force at its gate."""
MAX_REASON_CHARS = 400
MAX_NUMBERS = 32
MAX_RULE_CHARS = 64
_RULE = re.compile(rf"[a-z0-9][a-z0-9_.:-]{{0,{MAX_RULE_CHARS - 1}}}")

Number = int | float | str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalHold:
    """A worker's own hold. `rule` is its source, such as `gpu.lost`; `cause` is health or capacity.

    `scope` is `worker:` with the worker's own nodename, or `host:` with its own host: nothing else may be held by one
    worker. `reason` says in words what was read and what must change. `numbers`: what the rule was judged by, each
    with its unit in its camelCase name. `since`: by the worker's clock. `is_shadow`: its rule only warns, so that
    nothing is held; it is told and recorded that it would be.
    """

    rule: str
    cause: Cause
    scope: Scope
    reason: str
    since: datetime
    mode: Mode = Mode.DRAIN
    numbers: dict[str, Number] = field(default_factory=dict)
    is_shadow: bool = False

    @property
    def key(self) -> HoldKey:
        """What the hold on record has, too: at most one of it is in force."""
        return HoldKey(scope=self.scope, cause=str(self.cause), source=self.rule)

    def to_wire(self) -> dict[str, Any]:
        """As heartbeats and the worker's own file have it; cut to what is taken of it."""
        return {
            "rule": self.rule,
            "cause": str(self.cause),
            "scope": str(self.scope),
            "mode": self.mode.word,
            "reason": _cut(self.reason),
            "since": to_wire(self.since),
            "numbers": dict(list(self.numbers.items())[:MAX_NUMBERS]),
            "shadow": self.is_shadow,
        }

    @classmethod
    def from_wire(cls, data: Any) -> Self:
        """The inverse of `to_wire`; raises InvalidInput, KeyError or TypeError for what no worker of ours tells."""
        rule, cause = data["rule"], data["cause"]
        if not isinstance(rule, str) or not _RULE.fullmatch(rule):
            raise InvalidInput("localHolds.rule", "is no name of a rule")
        if cause not in list(OWN_CAUSES):
            raise InvalidInput("localHolds.cause", "is none that a worker holds itself for")
        scope = Scope.parse(data["scope"], "localHolds.scope")
        if scope.kind not in OWN_SCOPES:
            raise InvalidInput("localHolds.scope", "is neither a worker nor a host")
        return cls(
            rule=rule,
            cause=Cause(cause),
            scope=scope,
            reason=_cut(_text(data["reason"], "localHolds.reason")),
            since=from_wire(data["since"], "localHolds.since"),
            mode=_mode(data["mode"]),
            numbers=_numbers(data["numbers"]),
            is_shadow=telling.flag(data["shadow"], "localHolds.shadow"),
        )


def listed(said: object) -> tuple[LocalHold, ...]:
    """What a heartbeat tells, at most MAX_LOCAL_HOLDS, each once; raises as `LocalHold.from_wire`."""
    found = telling.listed(said, "localHolds")
    if len(found) > MAX_LOCAL_HOLDS:
        raise InvalidInput("localHolds", f"has {len(found)} entries, at most {MAX_LOCAL_HOLDS} are taken")
    holds = {(one.key, one.is_shadow): one for one in map(LocalHold.from_wire, found)}
    return tuple(holds.values())


def is_own(hold: Hold, subject: Subject) -> bool:
    """Is `hold` the record of one that the worker `subject` placed on itself?

    One on its nodename always is, since nobody else places such. One on its host is where it has the worker's name as
    its actor: another worker of the host may have placed it, and then it is obeyed as any hold.
    """
    if hold.cause not in list(OWN_CAUSES) or subject.worker is None:
        return False
    if hold.scope == Scope(ScopeKind.WORKER, subject.worker):
        return True
    is_of_host = hold.scope.kind is ScopeKind.HOST and hold.scope.name == subject.host
    return is_of_host and hold.actor == actor_of(subject.worker)


def is_cleared(hold: Hold) -> bool:
    """Has somebody said that the worker must let this record of its own hold go (`sluicegate health clear`)?

    No worker's own hold has an end by the clock: one that has was given it by that. It is what every version reads.
    """
    return hold.expires_at is not None


def actor_of(nodename: str) -> str:
    """Whom the record names as having placed a worker's own hold."""
    return f"worker:{nodename}"


def owner_of(hold: Hold) -> str:
    """The nodename of the worker that placed it."""
    return hold.scope.name if hold.scope.kind is ScopeKind.WORKER else hold.actor.removeprefix(actor_of(""))


def in_own_scope(holds: Iterable[LocalHold], subject: Subject) -> tuple[LocalHold, ...]:
    """Those that the worker `subject` may place: on its own nodename and its own host."""
    return tuple(
        hold
        for hold in holds
        if hold.scope.name == (subject.worker if hold.scope.kind is ScopeKind.WORKER else subject.host)
    )


def _cut(reason: str) -> str:
    return reason if len(reason) <= MAX_REASON_CHARS else f"{reason[: MAX_REASON_CHARS - 1]}…"


def _text(said: object, name: str) -> str:
    if not isinstance(said, str) or not said.strip() or not telling.is_storable(said):
        raise InvalidInput(name, "is no text")
    return said


def _mode(word: object) -> Mode:
    """One that this version does not know counts as the strictest, as in a hold."""
    return {mode.word: mode for mode in Mode if mode}.get(str(word), max(Mode))


def _numbers(said: object) -> dict[str, Number]:
    found = telling.mapping(said, "localHolds.numbers")
    if len(found) > MAX_NUMBERS:
        raise InvalidInput("localHolds.numbers", f"has {len(found)} entries, at most {MAX_NUMBERS} are taken")
    return {telling.text(name, "localHolds.numbers"): _number(value) for name, value in found.items()}


def _number(said: object) -> Number:
    if said is None:
        return None
    if isinstance(said, str):
        return telling.storable(said)
    if isinstance(said, bool) or not isinstance(said, int | float) or not math.isfinite(said):
        raise InvalidInput("localHolds.numbers", "has what is neither a finite number nor a text")
    if abs(said) > telling.MAX_COUNT:
        raise InvalidInput("localHolds.numbers", "has a number that not every reader knows exactly")
    return said
