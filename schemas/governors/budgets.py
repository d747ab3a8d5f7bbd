"""Budgets: what a day may cost, and at which share of that a fleet is held. Pure.

Everything is counted in whole millionths. A budget holds where `spent / daily >= threshold`; the threshold is one of
the day, of the night, or of the hours that belong to neither.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from sluicegate.schemas.governors.decisions import Decision
from sluicegate.schemas.governors.local_days import day_of, first_instant, next_change
from sluicegate.schemas.modes import Mode
from sluicegate.schemas.money import MILLION, compared, text_of
from sluicegate.schemas.scopes import GLOBAL, Scope
from sluicegate.schemas.times import to_wire, to_wire_or_none

DAY, NIGHT, OUTSIDE = "day", "night", "outside"
OPEN, CLOSED = "open", "closed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """What `scope` may cost in a local day. Amounts, thresholds and `hard` are in millionths.

    An hour of a list is the whole hour: 17 means up to 17:59. `outside`: hours in neither list use 1.0 (`open`) or hold
    (`closed`). From the share `hard` on the hold is a quiesce.
    """

    daily: int
    zone: str
    currency: str = "USD"
    scope: Scope = GLOBAL
    day_threshold: int = 900_000
    day_hours: tuple[int, ...] = tuple(range(9, 18))
    night_threshold: int = 960_000
    night_hours: tuple[int, ...] = (22, 23, 0, 1, 2, 3, 4, 5, 6)
    outside: str = OPEN
    hard: int | None = None
    is_enabled: bool = True

    def mode_at(self, hour: int) -> str:
        """Which of the three a local hour belongs to."""
        if hour in self.day_hours:
            return DAY
        return NIGHT if hour in self.night_hours else OUTSIDE

    def threshold_of(self, mode: str) -> int | None:
        """In millionths; None: closed, whatever was spent."""
        if mode == OUTSIDE:
            return None if self.outside == CLOSED else MILLION
        return self.day_threshold if mode == DAY else self.night_threshold


@dataclass(frozen=True, slots=True, kw_only=True)
class Spend:
    """What a day has cost so far, in millionths.

    `fault`: why the figures are not to be trusted; `spent` is then the last good one. `is_usable` False: they are so
    old, or so wrong, that nothing is to be held because of them.
    """

    spent: int
    fault: str | None = None
    is_usable: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Day:
    """The local day that is counted: from its first instant to the next one's."""

    day: date
    begins_at: datetime
    ends_at: datetime


def day_at(budget: Budget, now: datetime, begun: date | None = None) -> Day:
    """The day of `now`; `begun`: the one that was counted last."""
    zone = ZoneInfo(budget.zone)
    day = day_of(now, zone, begun)
    return Day(day=day, begins_at=first_instant(day, zone), ends_at=first_instant(day + timedelta(days=1), zone))


def judge(budget: Budget, spend: Spend, now: datetime, day: Day) -> Decision:
    """Is the budget of the day used up as far as its hour allows?"""
    zone = ZoneInfo(budget.zone)
    hour = now.astimezone(zone).hour
    mode = budget.mode_at(hour)
    threshold = budget.threshold_of(mode)
    counted = spend.spent
    is_over, reason = _compared(budget, counted, threshold)
    should_hold = is_over if spend.is_usable else None
    if should_hold is None:
        reason = f"what was spent is not known: {spend.fault}"
    edge = next_change(now, zone, lambda hour: budget.threshold_of(budget.mode_at(hour)))
    is_hard = budget.hard is not None and counted * MILLION >= budget.hard * budget.daily
    return Decision(
        should_hold=should_hold,
        reason=reason,
        details=_told(budget, spend, counted, (mode, threshold), edge, day, bool(should_hold)) | {"reason": reason},
        next_at=min(filter(None, (edge, day.ends_at))),
        alarm=spend.fault,
        mode=Mode.QUIESCE if is_hard else Mode.DRAIN,
    )


def _compared(budget: Budget, counted: int, threshold: int | None) -> tuple[bool, str]:
    if budget.daily == 0:
        return True, "the budget is zero"
    if threshold is None:
        return True, "closed at this hour"
    figures = compared(counted, budget.daily, threshold)
    if counted * MILLION >= threshold * budget.daily:
        return True, f"Capacity threshold exceeded ({figures})"
    return False, f"within the budget ({figures})"


def _told(
    budget: Budget,
    spend: Spend,
    counted: int,
    now_in: tuple[str, int | None],
    edge: datetime | None,
    day: Day,
    is_held: bool,
) -> dict[str, Any]:
    """The decision as JSON (R-E3), and the sums that it came from."""
    mode, threshold = now_in
    hours = {DAY: budget.day_hours, NIGHT: budget.night_hours}.get(mode, ())
    percentage = None if budget.daily == 0 else counted * 100 / budget.daily
    return {
        "shouldPause": is_held,
        "timeWindow": {
            "mode": mode,
            # Of a list as it was given: a night begins in the evening.
            "startHour": hours[0] if hours else None,
            "endHour": hours[-1] if hours else None,
            "isActive": mode != OUTSIDE,
            "nextTransition": to_wire_or_none(edge),
        },
        "capacity": {
            "currentPercentage": percentage,
            "threshold": None if threshold is None else threshold / MILLION,
            "shouldPause": is_held,
        },
        "nextResetTime": to_wire(day.ends_at),
        "day": day.day.isoformat(),
        "spent": text_of(spend.spent),
        "daily": text_of(budget.daily),
        "currency": budget.currency,
    }
