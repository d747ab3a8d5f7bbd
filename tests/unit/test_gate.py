"""The gate: closed means closed, acknowledged means complete, and each is said once."""

from __future__ import annotations

import logging
import threading
from dataclasses import replace
from datetime import UTC, datetime
from uuid import UUID

import pytest

from sluicegate.schemas.beats import WorkerState
from sluicegate.schemas.holds.hold import Hold, Holds
from sluicegate.schemas.holds.ramps import Ramp
from sluicegate.schemas.modes import Mode
from sluicegate.schemas.scopes import GLOBAL, Scope, Subject
from sluicegate.schemas.snapshots import Edition, Snapshot
from sluicegate.workers.cell import Cell
from sluicegate.workers.gate import Gate

NOW = datetime(2026, 3, 1, tzinfo=UTC)


def make() -> Gate[str]:
    return Gate(Cell(), Subject(host="h", worker="w1@h"), wake=lambda: None, on_applied=lambda: None)


def state(version: int, *modes: Mode, scope: Scope = GLOBAL) -> Snapshot:
    holds = frozenset(
        Hold(id=UUID(int=n), scope=scope, mode=mode, reason="upgrade", actor="alice", created_at=NOW, source=str(n))
        for n, mode in enumerate(modes)
    )
    return Snapshot(
        namespace="default", epoch=1, holds=Holds(version=version, active=holds), publication=version, issued_at=NOW
    )


def test_it_is_closed_until_the_first_state():
    gate = make()
    started: list[str] = []
    assert not gate.pass_through(started.append, "a")
    assert started == []
    gate.put_in_force(state(1))
    assert gate.pass_through(started.append, "b")
    assert started == ["b"]


def test_it_closes_at_the_flip_and_not_at_the_acknowledgement():
    gate = make()
    gate.put_in_force(state(1))
    gate.put_in_force(state(2, Mode.DRAIN))
    assert not gate.pass_through(lambda _: None, "a")
    assert gate.applied.edition < Edition(1, 2)
    assert gate.state is WorkerState.PAUSING


def test_s1_what_starts_after_the_gate_opened_starts_after_the_time_that_is_named_for_it():
    """The consumer begins between the flip and the acknowledgement, and threads start what it brings at once."""
    gate = make()
    gate.put_in_force(state(2, Mode.DRAIN))
    gate.acknowledge(gate.standing)
    gate.put_in_force(state(3))
    started: list[datetime] = []
    assert gate.pass_through(lambda _: started.append(datetime.now(UTC)), "a")
    gate.acknowledge(gate.standing)
    assert gate.applied.at is not None
    assert gate.applied.at <= started[0]


def test_s1_a_hold_is_in_force_when_it_is_acknowledged_and_not_before():
    gate = make()
    gate.put_in_force(state(2, Mode.DRAIN))
    complete = datetime.now(UTC)
    gate.acknowledge(gate.standing)
    assert gate.applied.at is not None
    assert gate.applied.at >= complete


def test_an_acknowledgement_of_what_is_no_longer_in_force_says_nothing():
    gate = make()
    gate.put_in_force(state(2, Mode.DRAIN))
    old, _ = gate.take_duty()
    gate.put_in_force(state(3))
    assert not gate.acknowledge(old)
    assert gate.applied.standing is None
    now, was_closed = gate.take_duty()
    assert was_closed, "a pause and its resume between two looks still leave something to hand back"
    assert gate.acknowledge(now)
    assert gate.applied.edition == Edition(1, 3)
    assert gate.state is WorkerState.RUNNING


def test_the_moment_of_an_acknowledgement_does_not_move_when_it_is_said_again():
    gate = make()
    gate.put_in_force(state(2, Mode.DRAIN))
    standing, _ = gate.take_duty()
    gate.acknowledge(standing)
    at = gate.applied.at
    gate.acknowledge(standing)
    assert gate.applied.at == at
    assert gate.state is WorkerState.PAUSED


def test_a_local_hold_closes_an_open_gate_and_never_opens_a_closed_one():
    """S3: local can only make it stricter."""
    gate = make()
    gate.put_in_force(state(1))
    gate.hold_locally("gpu lost")
    assert not gate.pass_through(lambda _: None, "a")
    gate.put_in_force(state(2, Mode.DRAIN))
    gate.hold_locally(None)
    assert not gate.pass_through(lambda _: None, "a")
    gate.put_in_force(state(3))
    assert gate.pass_through(lambda _: None, "a")


def test_lifting_a_local_hold_never_opens_a_worker_that_has_seen_no_state():
    gate = make()
    gate.hold_locally("gpu lost")
    gate.hold_locally(None)
    assert not gate.pass_through(lambda _: None, "a")


def test_who_lifts_a_local_hold_lifts_no_other():
    """R-G1: touch that is regained says nothing about a GPU."""
    gate = make()
    gate.put_in_force(state(1))
    gate.hold_locally("gpu lost", source="gpu")
    gate.hold_locally("no fresh state")
    assert gate.standing.local_reason == "gpu lost; no fresh state"
    gate.hold_locally(None)
    assert not gate.pass_through(lambda _: None, "a")
    gate.hold_locally(None, source="gpu")
    assert gate.pass_through(lambda _: None, "a")


def test_a_local_hold_that_is_placed_while_the_worker_boots_counts_after_it():
    gate = make()
    gate.hold_locally("gpu lost", source="gpu")
    gate.put_in_force(state(1))
    assert not gate.pass_through(lambda _: None, "a")
    gate.hold_locally(None, source="gpu")
    assert gate.pass_through(lambda _: None, "a")


def test_a_hold_on_another_host_does_not_close_it():
    gate = make()
    gate.put_in_force(state(2, Mode.DRAIN, scope=Scope.parse("host:elsewhere")))
    assert gate.pass_through(lambda _: None, "a")
    gate.put_in_force(state(3, Mode.DRAIN, scope=Scope.parse("host:h")))
    assert not gate.pass_through(lambda _: None, "a")


def test_a_flip_waits_for_a_start_that_is_under_way():
    """S1: check and start are one critical section; a flip in the middle of a start returns after it."""
    gate = make()
    gate.put_in_force(state(1))
    entered, go_on = threading.Event(), threading.Event()
    order: list[str] = []

    def start(request: str) -> None:
        entered.set()
        go_on.wait(10)
        order.append(f"started {request}")

    starter = threading.Thread(target=gate.pass_through, args=(start, "a"))
    starter.start()
    assert entered.wait(10)

    def flip() -> None:
        gate.put_in_force(state(2, Mode.DRAIN))
        order.append("flipped")

    flipper = threading.Thread(target=flip)
    flipper.start()
    flipper.join(0.05)
    assert order == []
    go_on.set()
    starter.join(10)
    flipper.join(10)
    assert order == ["started a", "flipped"]


def test_a_pause_is_one_line_per_version_and_the_resume_one(caplog):
    """R-A11: an hour paused is one line, not one per poll."""
    gate = make()
    with caplog.at_level(logging.INFO):
        for snapshot in (state(1), state(2, Mode.DRAIN), state(3, Mode.QUIESCE), state(4)):
            gate.put_in_force(snapshot)
            for _ in range(5):
                gate.acknowledge(gate.take_duty()[0])
    assert [record.getMessage() for record in caplog.records] == [
        "sluicegate: running at version 1.1",
        "sluicegate: paused (drain) at version 1.2: upgrade (by alice)",
        "sluicegate: paused (quiesce) at version 1.3: upgrade (by alice)",
        "sluicegate: resumed at version 1.4",
    ]


def test_a_worker_leaves_a_ramp_in_its_turn_and_by_itself():
    """R-G4: counted from when it heard of it, whatever else is ordered meanwhile."""
    now = [100.0]
    subject = Subject(host="h", worker="b@h")
    gate: Gate[str] = Gate(Cell(), subject, wake=lambda: None, on_applied=lambda: None, clock=lambda: now[0])

    def ramped(version: int, *more: Mode) -> Snapshot:
        plain = state(version, Mode.DRAIN, *more)
        (first, *others) = plain.holds.sorted()
        ramp = Ramp(rate="1/s", span_s=3.0, order=("a@h", "b@h", "c@h"))
        return replace(plain, holds=replace(plain.holds, active=frozenset({replace(first, ramp=ramp), *others})))

    gate.put_in_force(state(2, Mode.DRAIN))
    assert gate.reopens_in_s() is None
    gate.put_in_force(ramped(3))
    modes = [gate.standing.mode]
    assert gate.reopens_in_s() == pytest.approx(1.0)
    now[0] += 0.6
    gate.put_in_force(ramped(4))
    now[0] += 0.3
    gate.take_turns()
    modes.append(gate.standing.mode)
    now[0] += 0.2
    gate.take_turns()
    modes.append(gate.standing.mode)
    assert modes == [Mode.DRAIN, Mode.DRAIN, Mode.RUN]
    assert (gate.standing.edition, gate.reopens_in_s()) == (Edition(1, 4), None)
    gate.put_in_force(ramped(5, Mode.QUIESCE))
    modes = [gate.standing.mode]
    gate.put_in_force(state(6, Mode.DRAIN))
    modes.append(gate.standing.mode)
    assert modes == [Mode.QUIESCE, Mode.DRAIN], "another hold is another matter, and so is a new pause"


def test_the_first_of_a_ramp_opens_at_once():
    gate = Gate[str](Cell(), Subject(host="h", worker="a@h"), wake=lambda: None, on_applied=lambda: None)
    plain = state(2, Mode.DRAIN)
    ramp = Ramp(rate="1/s", span_s=3.0, order=("a@h", "b@h", "c@h"))
    holds = frozenset(replace(hold, ramp=ramp) for hold in plain.holds.active)
    gate.put_in_force(replace(plain, holds=replace(plain.holds, active=holds)))
    assert gate.standing.is_open
