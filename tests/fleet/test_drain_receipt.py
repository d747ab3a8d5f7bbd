"""The drain receipt of real workers: what finished, what yielded, and what was lost (R-C5)."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest

from sluicegate.control.process.stack import Stack
from sluicegate.schemas.times import to_wire
from tests.fleet.harness import Fleet
from tests.fleet.rabbit import Rabbit
from tests.fleet.waiting import until
from tests.marks import long


def hold(fleet: Fleet, mode: str) -> tuple[str, int]:
    """Hold the one worker; the scope, and the version that this made. (Others of the stack may have been killed.)"""
    scope = f"worker:{fleet.workers['w1'].nodename}"
    return scope, fleet.client.pause(mode=mode, reason="test", scope=scope).body.system.version


def receipt_of(fleet: Fleet, version: int) -> dict[str, Any]:
    """The receipt; empty while there is none."""
    found = fleet.client.audit({"action": "drain_completed"}).body.events
    own = [event.details for event in found if event.details["holdVersion"] == version]
    assert len(own) <= 1
    return own[0] if own else {}


@pytest.mark.parametrize("pool", ["prefork", long("threads")])
def test_tasks_that_yield_and_tasks_that_wait_are_not_told_as_finished(stack: Stack, pool: str) -> None:
    """By the worker's own heartbeat; none of them can have ended."""
    with Fleet(stack, pool=pool) as fleet:
        fleet.watch()
        fleet.start(slots=2)
        fleet.wait_open()
        fleet.send("steps_yield", 100, 0.1)
        fleet.send("steps_wait", 100, 0.1)
        until("both are under way", lambda: len({done.seq for done in fleet.items()}) == 2)
        scope, version = hold(fleet, "quiesce")
        try:
            made = until("the receipt is on record", partial(receipt_of, fleet, version))
        finally:
            fleet.client.resume(reason="test", scope=scope, force=True)
    counts = {name: made[name] for name in ("finished", "yielded", "waiting", "lost")}
    assert counts == {"finished": 0, "yielded": 1, "waiting": 1, "lost": 0}
    assert made["ending"] == "quiesced"


def test_one_task_ends_and_the_other_goes_down_with_its_worker(stack: Stack) -> None:
    """The worker is killed during the drain, and its next life says nothing of what it ran."""
    with Fleet(stack) as fleet:
        fleet.watch()
        fleet.start(slots=2)
        fleet.wait_open()
        short, long = fleet.send("nap", 3.0), fleet.send("nap", 600.0)
        fleet.wait_started(2)
        scope, version = hold(fleet, "drain")
        try:
            until("the short one has ended", lambda: fleet.ended() == {short})
            until("that has been said", lambda: [w.running for w in fleet.words("w1")] == [1])
            until("the control plane has seen it", lambda: fleet.client.read(scope).body.metrics.running == 1)
            fleet.workers["w1"].kill()
            fleet.restart("w1")
            made = until("the receipt is on record", partial(receipt_of, fleet, version))
        finally:
            fleet.client.resume(reason="test", scope=scope, force=True)
    assert {name: made[name] for name in ("finished", "yielded", "waiting")} == {
        "finished": 1,
        "yielded": 0,
        "waiting": 0,
    }
    ((nodename, tasks),) = [(row["nodename"], row["lostTasks"]) for row in made["workers"]]
    assert nodename == fleet.workers["w1"].nodename
    assert [(task["name"], "replaced" in task["how"]) for task in tasks] == [("fleet.nap", True)]
    assert long not in fleet.ended()


def test_a_drain_becomes_a_quiesce_at_its_deadline_and_frees_the_slots(stack: Stack) -> None:
    """R-B6: before it the tasks go on, after it they stop at their next checkpoint."""
    with Fleet(stack) as fleet:
        fleet.watch()
        fleet.start(slots=2)
        fleet.wait_open()
        fleet.send("steps_yield", 200, 0.1)
        fleet.send("steps_wait", 200, 0.1)
        until("both are under way", lambda: len({done.seq for done in fleet.items()}) == 2)
        scope = f"worker:{fleet.workers['w1'].nodename}"
        by = datetime.now(UTC) + timedelta(seconds=2)
        order = fleet.client.pause(mode="drain", reason="test", scope=scope, deadline=to_wire(by), then="quiesce")
        placed = order.body.system.version
        try:
            made = until("the receipt is on record", partial(receipt_of, fleet, placed + 1))
            items = fleet.items()
            fleet.stays_still(for_s=0.5)
            assert fleet.items() == items
            (came,) = [
                event for event in fleet.client.audit({"action": "hold_escalated"}).body.events if event.scope == scope
            ]
        finally:
            fleet.client.resume(reason="test", scope=scope, force=True)
    assert max(done.at_us for done in items) > by.timestamp() * 1e6 - 5e5
    assert (came.version, came.created_at >= by) == (placed + 1, True)
    assert len(came.details["running"]) == 2
    assert {name: made[name] for name in ("finished", "yielded", "waiting", "lost")} == {
        "finished": 0,
        "yielded": 1,
        "waiting": 1,
        "lost": 0,
    }


def escalate(fleet: Fleet, then: str) -> dict[str, Any]:
    """Drain the one worker with a deadline that comes soon; the receipt of what followed it."""
    scope = f"worker:{fleet.workers['w1'].nodename}"
    by = datetime.now(UTC) + timedelta(seconds=1)
    order = fleet.client.pause(mode="drain", reason="test", scope=scope, deadline=to_wire(by), then=then)
    receipt = partial(receipt_of, fleet, order.body.system.version + 1)
    return until("the receipt is on record", receipt, within_s=30)


def counts_of(made: dict[str, Any]) -> dict[str, int]:
    return {name: made[name] for name in ("finished", "yielded", "waiting", "forced", "lost") if made[name]}


@pytest.mark.parametrize("broker", ["valkey", long("classic"), long("quorum")])
def test_s5_a_deadline_gives_running_tasks_back_to_the_head_with_their_cursor(
    stack: Stack, broker: str, request: pytest.FixtureRequest
) -> None:
    """R-B6, `requeue`: the slots are free, what ran stands in front, and goes on from the checkpoint it had come to.

    What came from a quorum queue stays in the worker's hand until the resume.
    """
    rabbit: Rabbit | None = None if broker == "valkey" else request.getfixturevalue("rabbit")
    with Fleet(stack, acks_late=True, prefetch=1, rabbit=rabbit, queue_type=broker) as fleet:
        fleet.watch()
        fleet.start(slots=2)
        fleet.wait_open()
        endless, steps = fleet.send("nap", 600.0), fleet.send("steps_wait", 100, 0.1)
        until("both are under way", lambda: fleet.started() == {endless, steps} and fleet.items())
        behind = fleet.send("nap", 0.01)
        made = escalate(fleet, "requeue")
        (worker,) = made["workers"]
        contents = fleet.contents()
        before = fleet.items()
        fleet.client.resume(reason="test", scope=f"worker:{fleet.workers['w1'].nodename}", force=True)
        until("it goes on", lambda: fleet.ended() == {steps, behind}, within_s=40)
        starts = [record.seq for record in fleet.read_records() if record.event == "start"]
        items = [item.item for item in fleet.items() if item.seq == steps]
        fleet.workers["w1"].kill()
    assert counts_of(made) == {"forced": 2}
    assert {task["how"] for task in worker["forcedTasks"]} == {"requeued"}
    assert [message.seq for message in contents.queued] == [endless, steps, behind]
    assert not contents.unacked
    assert starts.count(endless) == 2
    assert (sorted(starts[2:4]), starts[4:]) == ([endless, steps], [behind]), "before what was behind them"
    assert 0 < len(before) < 100
    assert sorted(items) == list(range(100)), "each item once"


@pytest.mark.parametrize("pool", ["prefork", long("gevent")])
def test_a_deadline_ends_running_tasks_for_good_and_spares_those_that_yield(stack: Stack, pool: str) -> None:
    """R-B6, `terminate`, with early acknowledgement: what was ended never comes again."""
    with Fleet(stack, pool=pool, prefetch=1) as fleet:
        fleet.watch()
        fleet.start(slots=2)
        fleet.wait_open()
        endless, steps = fleet.send("nap", 600.0), fleet.send("steps_yield", 60, 0.1)
        until("both are under way", lambda: fleet.started() == {endless, steps} and fleet.items())
        made = escalate(fleet, "terminate")
        (worker,) = made["workers"]
        contents = fleet.contents()
        fleet.client.resume(reason="test", scope=f"worker:{fleet.workers['w1'].nodename}", force=True)
        until("the other goes on", lambda: fleet.ended() == {steps}, within_s=40)
        starts = [record.seq for record in fleet.read_records() if record.event == "start"]
        items = [item.item for item in fleet.items()]
    assert counts_of(made) == {"forced": 1, "yielded": 1}
    assert [task["how"] for task in worker["forcedTasks"]] == ["terminated"]
    assert [message.seq for message in contents.queued] == [steps]
    assert starts.count(endless) == 1
    assert sorted(items) == list(range(60))
