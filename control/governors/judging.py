"""One governor judged at one instant: its policy asked with what the database and the fleet say."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from typing import Any

from sqlalchemy import Connection

from sluicegate.control.governors import spend_rows
from sluicegate.control.governors.rows import Stored
from sluicegate.control.governors.schedules import schedule_of
from sluicegate.schemas.errors import InvalidInput
from sluicegate.schemas.governors import budgets, capacity, specs, windows
from sluicegate.schemas.governors.budgets import Budget, Spend
from sluicegate.schemas.governors.capacity import Gate, Look
from sluicegate.schemas.governors.decisions import Decision, Kind
from sluicegate.schemas.governors.specs import Governor
from sluicegate.schemas.governors.windows import Window
from sluicegate.schemas.money import millionths
from sluicegate.schemas.scopes import GLOBAL, Scope
from sluicegate.schemas.times import to_wire_or_none


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What a governor wants. `wanted`: must its hold be there, once overrides and switches are counted in; None: leave.

    `override_ends`: why its override ends now. `memory`: what the row keeps of this judgement.
    """

    stored: Stored
    scope: Scope
    decision: Decision
    wanted: bool | None
    override_ends: str | None = None
    memory: Mapping[str, Any] = field(default_factory=dict)

    def told(self) -> dict[str, Any]:
        """The decision as JSON: with the hold's event, in the row, in answers."""
        decision = self.decision
        return {
            **decision.details,
            "shouldPause": decision.should_hold,
            "reason": decision.reason,
            "nextAt": to_wire_or_none(decision.next_at),
            "alarm": decision.alarm,
            "overridden": self.stored.override is not None and self.override_ends is None,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """What governors are judged by beside the database. `kinds`: those that are switched on.

    `look`: the fleet's room, where it was looked at; `usual`: the fleet's threshold of capacity, in millionths;
    `fault`: why reports of costs do not arrive, `is_stale`: for so long that nothing may be held by them.
    """

    kinds: Collection[Kind] = tuple(Kind)
    look: Look | None = None
    usual: int = 200_000
    fault: str | None = None
    is_stale: bool = False
    gates: Mapping[str, capacity.Memory] = field(default_factory=dict)


def judge(
    connection: Connection, namespace: str, stored: Stored, given: Given, now: datetime, *, is_held: bool
) -> tuple[Verdict, capacity.Memory | None]:
    """What `stored` wants at `now`, and what is to be remembered of a gate. One that cannot be read wants nothing."""
    try:
        governor = specs.parse(stored.kind, stored.spec)
        decision, memory, gate = _decided(connection, namespace, stored, governor, given, now, is_held=is_held)
    except InvalidInput as error:
        decision = Decision(should_hold=None, reason=f"cannot be judged: {error}", alarm=str(error))
        return Verdict(stored=stored, scope=GLOBAL, decision=decision, wanted=None), None
    if not governor.is_enabled or stored.kind not in given.kinds:
        decision = replace(decision, should_hold=False, reason="switched off", alarm=None)
        return Verdict(stored=stored, scope=governor.scope, decision=decision, wanted=False, memory=memory), gate
    override_ends = None if stored.override is None else stored.override.ends(decision, now)
    is_overridden = stored.override is not None and override_ends is None
    wanted = False if is_overridden else decision.should_hold
    if stored.override is not None and is_overridden:
        until = stored.override.until
        decision = replace(decision, next_at=min(filter(None, (decision.next_at, until))))
    verdict = Verdict(
        stored=stored,
        scope=governor.scope,
        decision=decision,
        wanted=wanted,
        override_ends=override_ends,
        memory=memory | {"alarm": decision.alarm},
    )
    return verdict, gate


def _decided(
    connection: Connection,
    namespace: str,
    stored: Stored,
    governor: Governor,
    given: Given,
    now: datetime,
    *,
    is_held: bool,
) -> tuple[Decision, dict[str, Any], capacity.Memory | None]:
    match governor:
        case Window():
            schedule = schedule_of(governor.cron, governor.zone)
            return windows.judge(governor, schedule.starts, now), {}, None
        case Budget():
            return (*_budget(connection, namespace, stored, governor, given, now), None)
        case Gate():
            return _gate(stored, governor, given, is_held=is_held)


def _budget(
    connection: Connection, namespace: str, stored: Stored, budget: Budget, given: Given, now: datetime
) -> tuple[Decision, dict[str, Any]]:
    begun = (stored.memory or {}).get("day")
    day = budgets.day_at(budget, now, None if begun is None else date.fromisoformat(begun))
    span = (day.begins_at, day.ends_at)
    spent = spend_rows.total(connection, namespace, stored.name, budget.currency, budget.scope, span)
    spend = Spend(spent=spent, fault=given.fault, is_usable=not given.is_stale)
    if spent < 0:
        # More was taken off than was spent: that is no figure, and the last good one stays.
        last = int((stored.memory or {}).get("spent") or 0)
        spend = Spend(spent=last, fault=f"the spend of {day.day} is negative", is_usable=not given.is_stale)
    return budgets.judge(budget, spend, now, day), {"day": day.day.isoformat(), "spent": spend.spent}


def _gate(
    stored: Stored, gate: Gate, given: Given, *, is_held: bool
) -> tuple[Decision, dict[str, Any], capacity.Memory | None]:
    if given.look is None:
        return Decision(should_hold=None, reason="the fleet has not been looked at yet", mode=gate.mode), {}, None
    before = given.gates.get(stored.name, capacity.Memory())
    decision, memory = capacity.judge(gate, given.look, before, is_held=is_held, usual=given.usual)
    return decision, {}, memory


def rehearse(governor: Governor, now: datetime, reading: Mapping[str, Any]) -> Decision:
    """What a governor would decide at `now`, for `reading`: of a budget `spent`; nothing is stored.

    Raises InvalidInput.
    """
    now = now.astimezone(UTC)
    match governor:
        case Window():
            return windows.judge(governor, schedule_of(governor.cron, governor.zone).starts, now)
        case Budget():
            return budgets.judge(governor, _read_spend(reading), now, budgets.day_at(governor, now))
        case Gate():
            workers = capacity.rooms_of(reading)
            since = now - timedelta(days=1)
            memory = capacity.Memory(nobody_since=None if workers else since)
            look = Look(workers=workers, now=now)
            return capacity.judge(governor, look, memory, is_held=False, usual=200_000)[0]


def _read_spend(reading: Mapping[str, Any]) -> Spend:
    """A figure that is none alarms, and holds nothing."""
    try:
        spent = millionths(reading.get("spent", 0), "spent")
    except InvalidInput as error:
        return Spend(spent=0, fault=str(error), is_usable=False)
    if spent < 0:
        return Spend(spent=0, fault="spent: is negative", is_usable=False)
    return Spend(spent=spent)
