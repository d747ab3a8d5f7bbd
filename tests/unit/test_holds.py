"""Transitions and composition of holds (R-A2, R-A5, R-A8, R-G1), against docs/promises.md."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluicegate.schemas.errors import InvalidInput
from sluicegate.schemas.holds.hold import Cause, Hold, HoldKey, Holds, Then, check_reason
from sluicegate.schemas.holds.transitions import ChangeKind, escalate, expire, place, release
from sluicegate.schemas.modes import Mode
from sluicegate.schemas.scopes import GLOBAL, Subject
from tests.unit.strategies import NOW, hold_sets, holds, scopes


def manual(mode: Mode = Mode.DRAIN, **other) -> Hold:
    known: dict[str, Any] = {"id": UUID(int=1), "scope": GLOBAL, "reason": "upgrade", "actor": "alice"}
    return Hold(mode=mode, **({"created_at": NOW} | known | other))


@given(st.permutations([Mode.DRAIN, Mode.QUIESCE, Mode.DRAIN]), st.permutations(list(Cause)[:3]))
def test_composition_does_not_depend_on_the_order_of_placing(modes, causes):
    state = Holds(version=1)
    for number, (mode, cause) in enumerate(zip(modes, causes, strict=True)):
        state = place(state, manual(mode, cause=cause, id=UUID(int=number))).holds
    assert state.global_mode is Mode.QUIESCE
    assert state.version == 4


@given(st.lists(holds, max_size=6), st.randoms())
def test_the_set_after_placing_is_the_same_in_any_order(wishes, random):
    wishes = list({hold.key: hold for hold in wishes}.values())
    shuffled = wishes[:]
    random.shuffle(shuffled)

    def placed(order):
        state = Holds(version=1)
        for wish in order:
            state = place(state, wish).holds
        return state

    assert placed(wishes) == placed(shuffled)


@given(hold_sets, holds)
def test_placing_the_same_again_is_a_noop_and_bumps_nothing(state, wish):
    once = place(state, wish).holds
    again = place(once, replace(wish, id=UUID(int=7), actor="someone else"))
    assert again.is_noop
    assert again.holds == once


@given(hold_sets, holds)
def test_a_change_is_exactly_one_version(state, wish):
    change = place(state, wish)
    assert change.holds.version == state.version + (0 if change.is_noop else 1)


@given(hold_sets, holds, holds)
def test_an_altered_hold_keeps_its_id_and_its_beginning(state, first, second):
    before = place(state, first).holds
    standing = before.find(first.key)
    assert standing is not None
    second = replace(second, scope=first.scope, cause=first.cause, source=first.source)
    after = place(before, second).holds.find(first.key)
    assert after is not None
    assert (after.id, after.created_at) == (standing.id, standing.created_at)
    assert (after.mode, after.reason) == (second.mode, second.reason)


@given(hold_sets, st.data())
def test_releasing_one_leaves_every_other_as_it_was(state, data):
    keys = [hold.key for hold in state.active] or [HoldKey(scope=GLOBAL)]
    key = data.draw(st.sampled_from(keys))
    change = release(state, key, actor="bob", reason="done", now=NOW)
    assert change.holds.active == {hold for hold in state.active if hold.key != key}
    if not change.is_noop:
        assert change.hold is not None
        assert (change.hold.released_by, change.hold.released_reason) == ("bob", "done")


@given(hold_sets, scopes, st.sampled_from(Cause))
def test_releasing_what_is_not_there_is_a_noop(state, scope, cause):
    key = HoldKey(scope=scope, cause=cause, source="nobody")
    change = release(state, key, actor="bob", reason="done", now=NOW)
    assert change.is_noop
    assert change.holds == state


@given(hold_sets)
def test_expiry_takes_one_hold_at_a_time_until_none_is_due(state):
    versions = [state.version]
    while not (change := expire(state, now=NOW)).is_noop:
        assert change.kind is ChangeKind.EXPIRED
        assert change.hold is not None
        assert change.hold.is_expired(NOW)
        state = change.holds
        versions.append(state.version)
    assert versions == list(range(versions[0], versions[0] + len(versions)))
    assert not any(hold.is_expired(NOW) for hold in state.active)


def test_the_instant_of_expiry_counts_as_expired():
    hold = manual(expires_at=NOW)
    assert hold.is_expired(NOW)
    assert not hold.is_expired(NOW - timedelta(microseconds=1))


@given(hold_sets, st.data())
def test_deadlines_come_one_at_a_time_each_once_and_change_nothing_but_the_mode_and_say_when(state, data):
    """R-B6. What has expired, what has drained and what was escalated before stays as it is."""
    drained = data.draw(st.sets(st.sampled_from(sorted(hold.id for hold in state.active)))) if state.active else set()
    before, count = state, 0
    while not (change := escalate(state, now=NOW, drained=drained)).is_noop:
        count += 1
        assert change.hold is not None
        was = state.find(change.hold.key)
        assert was is not None
        assert was.deadline is not None
        assert was.deadline <= NOW
        assert change.hold == replace(was, mode=Mode.QUIESCE, escalated_at=NOW)
        assert change.holds.version == state.version + 1
        assert change.holds.active - {change.hold} == state.active - {was}
        state = change.holds
    due = {
        hold.id
        for hold in before.active
        if hold.is_overdue(NOW) and not hold.is_expired(NOW) and hold.id not in drained
    }
    assert count == len(due)
    assert {hold.id for hold in state.active - before.active} == due


def test_a_deadline_comes_at_its_instant_and_not_before():
    hold = manual(Mode.DRAIN, deadline=NOW, then=Then.QUIESCE)
    state = Holds(version=1, active=frozenset({hold}))
    assert escalate(state, now=NOW - timedelta(microseconds=1)).is_noop
    assert escalate(state, now=NOW).holds.global_mode is Mode.QUIESCE
    assert not any(hold.ends_tasks for hold in escalate(state, now=NOW).holds.active)
    for then in (Then.REQUEUE, Then.TERMINATE):
        ends = escalate(Holds(version=1, active=frozenset({replace(hold, then=then)})), now=NOW)
        assert ends.holds.global_mode is Mode.QUIESCE
        assert all(hold.ends_tasks for hold in ends.holds.active)
    unheard = Holds(version=1, active=frozenset({replace(hold, then="explode")}))
    assert escalate(unheard, now=NOW).is_noop, "a step of a later version"


def test_holds_of_several_causes_come_and_go_alone():
    """R-G1: capacity, manual quiesce, budget; capacity clears; resume; midnight."""
    state = Holds(version=1)
    for number, (cause, mode) in enumerate(
        [(Cause.CAPACITY, Mode.DRAIN), (Cause.MANUAL, Mode.QUIESCE), (Cause.BUDGET, Mode.DRAIN)]
    ):
        state = place(state, manual(mode, cause=cause, id=UUID(int=number))).holds

    def without(cause):
        return release(state, HoldKey(scope=GLOBAL, cause=cause), actor="x", reason="y", now=NOW).holds

    state = without(Cause.CAPACITY)
    assert state.global_mode is Mode.QUIESCE
    state = without(Cause.MANUAL)
    assert state.global_mode is Mode.DRAIN
    assert [hold.cause for hold in state.active] == [Cause.BUDGET]
    state = without(Cause.BUDGET)
    assert state.global_mode is Mode.RUN


@given(hold_sets, scopes)
def test_the_effective_mode_is_the_strongest_that_matches(state, scope):
    subject = Subject(host=scope.name)
    matching = [hold.mode for hold in state.active if hold.scope.matches(subject)]
    assert state.mode_for(subject) == max(matching, default=Mode.RUN)


@given(holds)
def test_a_hold_survives_the_wire(hold):
    assert Hold.from_wire(hold.to_wire()) == hold


@given(holds, st.data())
def test_a_hold_with_a_broken_field_is_refused_and_never_half_read(hold, data):
    wire = hold.to_wire()
    field = data.draw(st.sampled_from(sorted(wire)))
    junk = data.draw(st.sampled_from([[], {}, 3.5, True]))
    if field in ("releasedBy", "releasedReason"):
        return
    with pytest.raises(InvalidInput):
        Hold.from_wire(wire | {field: junk})


def test_a_hold_from_a_newer_version_still_holds():
    """A cause, a mode or a sequel that this version has never heard of must not make it obey nothing."""
    wire = manual().to_wire() | {"cause": "carbon", "mode": "freeze", "then": "page-someone"}
    hold = Hold.from_wire(wire)
    assert (hold.cause, hold.mode, hold.then) == ("carbon", Mode.QUIESCE, "page-someone")
    assert hold.to_wire()["cause"] == "carbon"


def test_two_active_holds_of_one_key_cannot_be():
    with pytest.raises(ValueError, match="same scope, cause and source"):
        Holds(version=1, active=frozenset({manual(), manual(Mode.QUIESCE)}))


@pytest.mark.parametrize("reason", ["", "   ", "\n\t", None, 5, "x" * 1001, "a\x00b"])
def test_a_reason_that_says_nothing_is_refused(reason):
    with pytest.raises(InvalidInput) as caught:
        check_reason(reason)
    assert caught.value.field == "reason"


def test_a_reason_loses_its_blanks_at_the_ends():
    assert check_reason("  upgrade \n") == "upgrade"
