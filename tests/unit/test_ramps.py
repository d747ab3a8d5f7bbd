"""A ramp: who comes when (R-G4)."""

from __future__ import annotations

import dataclasses
from datetime import timedelta
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluicegate.schemas.errors import InvalidInput
from sluicegate.schemas.holds.hold import Hold, HoldKey, Holds, Then
from sluicegate.schemas.holds.ramps import MOST_LISTED, Ramp, Rate
from sluicegate.schemas.holds.transitions import ChangeKind, expire, place, reopen
from sluicegate.schemas.modes import Mode
from sluicegate.schemas.scopes import GLOBAL
from tests.unit.strategies import NOW

KEY = HoldKey(scope=GLOBAL)
HOLD = Hold(id=UUID(int=1), scope=GLOBAL, mode=Mode.DRAIN, reason="upgrade", actor="alice", created_at=NOW)


@pytest.mark.parametrize(
    ("text", "workers", "span_s"), [("10%/s", 7, 10.0), ("5/s", 20, 4.0), ("30/m", 3, 6.0), ("0.5/s", 2, 4.0)]
)
def test_a_rate_says_when_the_last_one_has_come(text: str, workers: int, span_s: float) -> None:
    ramp = Rate.parse(text).ramp([f"w{number}@h" for number in range(workers)])
    assert ramp.span_s == pytest.approx(span_s)
    assert Ramp.from_wire(ramp.to_wire()) == ramp


@pytest.mark.parametrize("text", ["", "10", "10%", "/s", "0/s", "0%/s", "-1/s", "10 % / s", "10%/h", "1e9/s", 10, None])
def test_what_is_no_rate_is_refused(text: object) -> None:
    with pytest.raises(InvalidInput, match="10%/s"):
        Rate.parse(text)


def test_a_ramp_longer_than_a_day_is_refused() -> None:
    with pytest.raises(InvalidInput, match="longer than a day"):
        Rate.parse("1/m").ramp([f"w{number}@h" for number in range(2000)])


def test_the_workers_come_one_after_another_at_equal_distances_and_the_first_at_once() -> None:
    ramp = Rate.parse("1/s").ramp(["c@h", "a@h", "b@h"])
    assert [ramp.delay_s(name) for name in ("a@h", "b@h", "c@h")] == [0.0, 1.0, 2.0]


@given(st.lists(st.text(max_size=20), min_size=1, max_size=20), st.text(max_size=20))
def test_everybody_comes_within_the_span(names: list[str], unknown: str) -> None:
    """Also a worker that came to the fleet after the resume."""
    ramp = Rate.parse("3/s").ramp(names)
    for name in (*names, unknown):
        assert 0 <= ramp.delay_s(name) < ramp.span_s


def test_of_a_large_fleet_nobody_is_listed_and_all_come_evenly() -> None:
    names = [f"celery@gpu-{number}" for number in range(MOST_LISTED * 2)]
    ramp = Rate.parse("10%/s").ramp(names)
    assert ramp.order == ()
    per_second = [sum(second <= ramp.delay_s(name) < second + 1 for name in names) for second in range(10)]
    assert sum(per_second) == len(names)
    assert min(per_second) > 150


def test_a_resume_with_a_ramp_keeps_the_hold_until_the_last_turn() -> None:
    """One version at its begin and one at its end; what its deadline would do is over."""
    hold = dataclasses.replace(HOLD, deadline=NOW, then=Then.REQUEUE, escalated_at=NOW)
    before = Holds(version=5, active=frozenset({hold}))
    change = reopen(before, KEY, Ramp(rate="1/s", span_s=3.0, order=("a", "b", "c")), now=NOW)
    assert (change.kind, change.holds.version) == (ChangeKind.RAMPED, 6)
    (ramped,) = change.holds.active
    assert (ramped.id, ramped.mode, ramped.expires_at) == (hold.id, Mode.DRAIN, NOW + timedelta(seconds=3))
    assert not ramped.ends_tasks
    assert expire(change.holds, now=NOW + timedelta(seconds=2.9)).is_noop
    ended = expire(change.holds, now=NOW + timedelta(seconds=3))
    assert ended.holds == Holds(version=7)
    assert ended.hold is not None
    assert ended.hold.released_reason == "reopened"


def test_a_hold_that_expires_before_its_ramp_is_over_still_does() -> None:
    hold = dataclasses.replace(HOLD, expires_at=NOW + timedelta(seconds=1))
    change = reopen(Holds(version=5, active=frozenset({hold})), KEY, Ramp(rate="1/s", span_s=3.0), now=NOW)
    assert {one.expires_at for one in change.holds.active} == {hold.expires_at}


def test_a_pause_during_a_ramp_holds_all_again() -> None:
    ramped = reopen(Holds(version=5, active=frozenset({HOLD})), KEY, Ramp(rate="1/s", span_s=3.0), now=NOW).holds
    again = place(ramped, dataclasses.replace(HOLD, id=UUID(int=2)))
    assert again.kind is ChangeKind.ALTERED
    assert [(hold.id, hold.ramp, hold.expires_at) for hold in again.holds.active] == [(HOLD.id, None, None)]


def test_what_does_not_hold_cannot_be_reopened() -> None:
    assert reopen(Holds(version=5), KEY, Ramp(rate="1/s", span_s=3.0), now=NOW).is_noop
