"""Governors as the bodies of `schemas.api.governors`. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from sluicegate.control.governors.objects import Shown
from sluicegate.schemas.api.governors import (
    CapacityBody,
    GovernorBody,
    GovernorsAnswer,
    OverrideBody,
    RehearseAnswer,
)
from sluicegate.schemas.api.pausing import PauseAnswer
from sluicegate.schemas.governors.decisions import Decision, Kind


def governor_of(shown: Shown) -> GovernorBody:
    """One governor as JSON has it."""
    stored = shown.stored
    override = stored.override
    return GovernorBody(
        kind=str(stored.kind),
        name=stored.name,
        version=stored.version,
        spec=dict(stored.spec),
        managed_by=stored.managed_by,
        updated_at=stored.updated_at,
        updated_by=stored.updated_by,
        is_holding=bool(shown.holds),
        hold_ids=list(shown.holds),
        override=None
        if override is None
        else OverrideBody(by=override.by, reason=override.reason, at=override.at, until=override.until),
        decision=None if stored.decision is None else dict(stored.decision),
        judged_at=stored.judged_at,
    )


def governors_of(all_: Iterable[Shown]) -> GovernorsAnswer:
    """All of them, and what of the budgets is in force."""
    shown = list(all_)
    return GovernorsAnswer(governors=[governor_of(one) for one in shown], **dict(capacity_of(shown)))


def capacity_of(shown: Iterable[Shown]) -> CapacityBody:
    """Of all budgets the one that holds, or else the one that is nearest to its threshold (R-E7)."""
    budgets = [one for one in shown if one.stored.kind is Kind.BUDGET and one.stored.decision is not None]
    if not budgets:
        return CapacityBody()

    def nearness(one: Shown) -> tuple[bool, float]:
        told = (one.stored.decision or {}).get("capacity", {})
        percentage, threshold = told.get("currentPercentage"), told.get("threshold")
        return bool(one.holds), (percentage or 0.0) / 100 - (1.0 if threshold is None else threshold)

    first = max(budgets, key=nearness)
    told = (first.stored.decision or {}).get("capacity", {})
    return CapacityBody(
        is_paused_by_capacity=any(one.holds for one in budgets),
        capacity_percentage=told.get("currentPercentage"),
        capacity_threshold=told.get("threshold"),
        last_capacity_check=first.stored.judged_at,
    )


def with_capacity(state: PauseAnswer, shown: Iterable[Shown]) -> PauseAnswer:
    """A state whose metrics tell of the budgets too (R-E7)."""
    metrics = state.metrics.model_copy(update=dict(capacity_of(shown)))
    return state.model_copy(update={"metrics": metrics})


def rehearsed(decision: Decision) -> RehearseAnswer:
    """A decision that was only asked for."""
    return RehearseAnswer(
        should_pause=decision.should_hold,
        reason=decision.reason,
        mode=decision.mode.word,
        next_at=decision.next_at,
        alarm=decision.alarm,
        decision=dict(decision.details),
    )
