"""Budgets: exact shares, edges of the clock, days of any length; and what their words say."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluicegate.schemas.errors import InvalidInput
from sluicegate.schemas.governors import specs
from sluicegate.schemas.governors.budgets import CLOSED, Budget, Spend, day_at, judge
from sluicegate.schemas.governors.decisions import Decision, Kind, Override
from sluicegate.schemas.governors.local_days import day_of, first_instant
from sluicegate.schemas.modes import Mode
from sluicegate.schemas.money import MILLION, compared, millionths, text_of

BERLIN = ZoneInfo("Europe/Berlin")
BUDGET = Budget(daily=100 * MILLION, zone="Europe/Berlin")


def decided(spent: object, at: datetime, budget: Budget = BUDGET) -> Decision:
    return judge(budget, Spend(spent=millionths(spent, "spent")), at, day_at(budget, at))


def berlin(hour: int, minute: int = 0, second: int = 0) -> datetime:
    return datetime(2026, 3, 2, hour, minute, second, tzinfo=BERLIN)


@pytest.mark.parametrize(
    ("spent", "at", "should_hold"),
    [
        ("89.99", berlin(12), False),
        ("90", berlin(12), True),
        ("95", berlin(17, 59, 59), True),
        ("95", berlin(18), False),
        ("95.99", berlin(22), False),
        ("96", berlin(21, 59, 59), False),
        ("96", berlin(22), True),
        ("96", berlin(23, 59, 59), True),
        ("99.999999", berlin(8), False),
        ("100", berlin(8), True),
    ],
)
def test_a_budget_holds_exactly_at_its_threshold(spent: str, at: datetime, should_hold: bool) -> None:
    """At the hour's, which changes at its second."""
    assert decided(spent, at).should_hold is should_hold


def test_each_edge_of_a_day_is_told_before_it_comes() -> None:
    """17:59:59 is told 18:00, that 22:00, that midnight, at which the day ends and its spend with it."""
    edges = []
    at = berlin(17, 59, 59).astimezone(UTC)
    for _ in range(4):
        edge = decided("95", at).next_at
        assert edge is not None
        edges.append(edge.astimezone(BERLIN).strftime("%d %H:%M:%S"))
        at = edge
    assert edges == ["02 18:00:00", "02 22:00:00", "03 00:00:00", "03 07:00:00"]


def test_where_one_mode_holds_all_day_there_is_no_next_transition() -> None:
    budget = Budget(daily=MILLION, zone="UTC", day_hours=tuple(range(24)), night_hours=())
    decision = decided("0", berlin(12), budget)
    assert decision.details["timeWindow"]["nextTransition"] is None
    assert decision.next_at == datetime(2026, 3, 3, tzinfo=UTC)


def test_the_decision_has_its_shape() -> None:
    """R-E3, field for field."""
    decision = decided("92", berlin(12))
    assert decision.reason == "Capacity threshold exceeded (92.0% >= 90.0%)"
    told = decision.details
    assert told["timeWindow"] == {
        "mode": "day",
        "startHour": 9,
        "endHour": 17,
        "isActive": True,
        "nextTransition": "2026-03-02T17:00:00.000000Z",
    }
    assert told["capacity"] == {"currentPercentage": 92.0, "threshold": 0.9, "shouldPause": True}
    assert told["nextResetTime"] == "2026-03-02T23:00:00.000000Z"


def test_a_zero_budget_holds_with_no_percentage() -> None:
    decision = decided("0", berlin(12), Budget(daily=0, zone="UTC"))
    assert decision.should_hold is True
    assert decision.details["capacity"]["currentPercentage"] is None


def test_nine_times_a_tenth_is_nine_tenths() -> None:
    """Not in binary fractions: 0.1 * 9 of 1.0 is less than 0.9 there."""
    spent = sum(millionths(0.1, "amount") for _ in range(9))
    budget = Budget(daily=MILLION, zone="UTC")
    now = datetime(2026, 3, 2, 12, tzinfo=UTC)
    assert judge(budget, Spend(spent=spent), now, day_at(budget, now)).should_hold is True


@pytest.mark.parametrize("said", [float("nan"), float("inf"), "-Infinity", "NaN", "0.1234567", True, None, 1e13])
def test_what_is_no_amount_is_refused(said: object) -> None:
    with pytest.raises(InvalidInput):
        millionths(said, "amount")


def test_figures_that_are_not_to_be_trusted_alarm_and_hold_nothing_new() -> None:
    """An existing hold is kept: the decision is to leave things as they are."""
    now = berlin(12)
    lost = Spend(spent=99 * MILLION, fault="the reports are older than 10 minutes", is_usable=False)
    decision = judge(BUDGET, lost, now, day_at(BUDGET, now))
    assert (decision.should_hold, decision.alarm) == (None, lost.fault)
    last_good = Spend(spent=91 * MILLION, fault="one was no number")
    decision = judge(BUDGET, last_good, now, day_at(BUDGET, now))
    assert (decision.should_hold, decision.alarm) == (True, last_good.fault)


def test_hours_outside_both_lists_may_be_closed_and_a_hard_share_quiesces() -> None:
    budget = Budget(daily=100 * MILLION, zone="Europe/Berlin", outside=CLOSED, hard=MILLION)
    assert decided("0", berlin(20), budget).should_hold is True
    assert decided("95", berlin(12), budget).mode is Mode.DRAIN
    assert decided("100", berlin(12), budget).mode is Mode.QUIESCE


@given(part=st.integers(0, 2 * 10**9), whole=st.integers(1, 10**9), threshold=st.integers(0, MILLION))
def test_the_words_never_contradict_the_comparison(part: int, whole: int, threshold: int) -> None:
    """89.96 % of 90 is not printed as `90.0% >= 90.0%`."""
    share, sign, shown = compared(part, whole, threshold).split()
    is_over = part * MILLION >= threshold * whole
    assert sign == (">=" if is_over else "<")
    assert (float(share[:-1]) >= float(shown[:-1])) is is_over


@given(st.integers(-(10**15), 10**15))
def test_an_amount_is_the_same_when_it_was_written_and_read(amount: int) -> None:
    assert millionths(text_of(amount), "amount") == amount


def test_a_day_begins_at_the_first_instant_that_calendars_show_it() -> None:
    """Beirut skips midnight on 29 March 2026; days of Berlin have 23 and 25 hours."""
    beirut = ZoneInfo("Asia/Beirut")
    first = first_instant(date(2026, 3, 29), beirut)
    assert first.astimezone(beirut).hour == 1
    assert (first - timedelta(seconds=1)).astimezone(beirut).date() == date(2026, 3, 28)
    hours = [
        (first_instant(day + timedelta(days=1), BERLIN) - first_instant(day, BERLIN)).total_seconds() / 3600
        for day in (date(2026, 3, 29), date(2026, 10, 25))
    ]
    assert hours == [23, 25]


def test_a_clock_that_is_set_back_does_not_bring_back_a_day() -> None:
    """One that was wrong by days does not keep the fleet in the future."""
    late = datetime(2026, 3, 2, 22, 59, 59, tzinfo=UTC)
    assert day_of(late, BERLIN, date(2026, 3, 3)) == date(2026, 3, 3)
    assert day_of(late, BERLIN, date(2026, 3, 9)) == date(2026, 3, 2)


def test_an_override_ends_with_its_condition_or_its_time_and_not_because_nobody_knows() -> None:
    now = datetime(2026, 3, 2, tzinfo=UTC)
    override = Override(by="bob", reason="x", at=now, until=now + timedelta(hours=1))
    said = {word: override.ends(Decision(should_hold=word, reason=""), now) for word in (True, False, None)}
    assert said == {True: None, False: "its condition turned false", None: None}
    assert override.ends(Decision(should_hold=True, reason=""), override.until) == "its time is over"


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({}, "daily"),
        ({"daily": -1}, "daily"),
        ({"daily": 1, "dayHours": "9-24"}, "dayHours"),
        ({"daily": 1, "dayHours": "9-22"}, "nightHours"),
        ({"daily": 1, "dayThreshold": 90}, "dayThreshold"),
        ({"daily": 1, "zone": "Mars"}, "zone"),
        ({"daily": 1, "currency": "usd"}, "currency"),
        ({"daily": 1, "treshold": 1}, "treshold"),
    ],
)
def test_a_budget_that_cannot_be_is_refused_by_its_field(spec: dict[str, object], field: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        specs.parse(Kind.BUDGET, spec)
    assert refused.value.field == field


def test_a_share_that_was_meant_as_percent_is_told_so() -> None:
    with pytest.raises(InvalidInput, match=r"did you mean 0\.2"):
        specs.parse(Kind.CAPACITY, {"threshold": 20})
    with pytest.raises(InvalidInput, match="release"):
        specs.parse(Kind.CAPACITY, {"threshold": 0.95})


@pytest.mark.parametrize(
    ("kind", "spec"),
    [
        (Kind.WINDOW, {"cron": "0 2 * * *", "duration": "1h30m", "lead": "15m", "invert": True, "scope": "queue:a"}),
        (Kind.BUDGET, {"daily": "0.5", "nightHours": "22-6", "hard": 1.0}),
        (Kind.CAPACITY, {"threshold": 0.2, "resources": ["cpu", "memory"], "scope": "label:gpu=h100"}),
    ],
)
def test_what_is_written_is_read_as_it_was(kind: Kind, spec: dict[str, object]) -> None:
    governor = specs.parse(kind, spec)
    assert specs.parse(kind, specs.to_wire(governor)) == governor
