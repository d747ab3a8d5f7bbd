"""Quiesce: running tasks stop at their next checkpoint, and go on where they stopped (R-B5)."""

from __future__ import annotations

import signal
import time
from collections import Counter
from functools import partial

import psutil
import pytest

from sluicegate.control.process.stack import Stack
from tests.fleet import app as fleet_app
from tests.fleet.harness import Fleet
from tests.fleet.waiting import until
from tests.marks import long

STEP_S = 0.1
ITEMS = 20


def all_stopped(fleet: Fleet) -> bool:
    """By the workers' own word: nothing runs, but what waits at a checkpoint."""
    return all(worker.running == worker.waiting for worker in fleet.words())


def has_done(fleet: Fleet, count: int) -> bool:
    """Have so many items been done?"""
    return len(fleet.items()) >= count


def times_done(fleet: Fleet) -> Counter[tuple[int, int]]:
    """How often each item of each task has been done."""
    return Counter((done.seq, done.item) for done in fleet.items())


@pytest.mark.parametrize("acks_late", [False, long(True)], ids=["early", "late"])
@pytest.mark.parametrize("way", ["wait", "yield"])
@pytest.mark.parametrize("pool", ["prefork", long("threads"), long("gevent")])
def test_every_item_is_done_once_over_two_quiesces(stack: Stack, pool: str, way: str, acks_late: bool) -> None:
    """R-B5, S5, S6: no completed step repeats, none is skipped, and nothing goes on while it is quiesced."""
    with Fleet(stack, pool=pool, acks_late=acks_late) as fleet:
        fleet.watch()
        fleet.start(slots=2)
        fleet.wait_open()
        tasks = [fleet.send(f"steps_{way}", ITEMS, STEP_S) for _ in range(4)]
        for begun in (5, 30):
            until("some items are done", partial(has_done, fleet, begun))
            fleet.pause(mode="quiesce")
            fleet.wait_acknowledged()
            until("the running tasks have stopped", lambda: all_stopped(fleet), within_s=5)
            before = len(fleet.items())
            fleet.stays_still(for_s=0.6)
            assert len(fleet.items()) == before
            if way == "yield":
                until("all messages are back", lambda: not fleet.contents().unacked)
                assert not fleet.running()
            fleet.resume()
        fleet.wait_done()
        verdict = fleet.check()
        done = times_done(fleet)
    assert done == {(task, item): 1 for task in tasks for item in range(ITEMS)}
    assert not verdict.late_starts
    assert not verdict.lost
    assert not verdict.duplicated


@pytest.mark.long
def test_s6_a_task_that_waits_longer_than_the_visibility_timeout_is_not_given_out_again(stack: Stack) -> None:
    """Late acknowledgement, visibility timeout 3 s, a quiesce of 10 s, and a second worker that would take it."""
    with Fleet(stack, acks_late=True, visibility_s=3) as fleet:
        fleet.watch()
        fleet.start(slots=1)
        fleet.wait_open()
        task = fleet.send("steps_wait", 6, 0.1)
        until("it is under way", lambda: len(fleet.items()) >= 2)
        fleet.pause(mode="quiesce")
        fleet.wait_acknowledged()
        fleet.start("w2", slots=1)
        ends_at = time.monotonic() + 10
        until("the pause is long", lambda: time.monotonic() > ends_at, within_s=15)
        assert len(fleet.contents().unacked) == 1
        assert not fleet.contents().queued
        fleet.resume()
        until("it is done", lambda: fleet.ended() == {task})
        fleet.stays_still(for_s=1)
        assert times_done(fleet) == {(task, item): 1 for item in range(6)}
        assert fleet.count_starts() == 1


def test_on_a_solo_worker_a_waiting_task_has_the_rest_handed_back_first(stack: Stack) -> None:
    """It stands on the consumer's own thread, and does that one's work while it waits."""
    with Fleet(stack, pool="solo", acks_late=True) as fleet:
        fleet.watch()
        fleet.start(slots=1)
        fleet.wait_open()
        for _ in range(3):
            fleet.send("nap", 0.01, countdown_s=60)
        until("the worker holds the countdowns", lambda: len(fleet.contents().unacked) == 3)
        task = fleet.send("steps_wait", 10, 0.1)
        until("it is under way", lambda: len(fleet.items()) >= 2)
        fleet.pause(mode="quiesce")
        fleet.wait_acknowledged()
        until("the countdowns are back", lambda: len(fleet.contents().queued) == 3)
        fleet.resume()
        until("it is done", lambda: fleet.ended() == {task})
        assert times_done(fleet) == {(task, item): 1 for item in range(10)}


@pytest.mark.parametrize("acks_late", [False, long(True)], ids=["early", "late"])
def test_s5_s6_a_worker_told_to_stop_hands_back_what_yields_while_it_stops(stack: Stack, acks_late: bool) -> None:
    """SIGTERM, and a quiesce while the last tasks end: the consumer is gone by then, and the task goes on elsewhere."""
    with Fleet(stack, acks_late=acks_late) as fleet:
        fleet.watch()
        worker = fleet.start(slots=1)
        fleet.wait_open()
        task = fleet.send("steps_yield", ITEMS, STEP_S)
        until("it is under way", lambda: len(fleet.items()) >= 3)
        worker.send(signal.SIGTERM)
        until("it stops", lambda: "Warm shutdown" in worker.process.output)
        fleet.pause(mode="quiesce")
        until("it has stopped", lambda: not worker.is_running)
        worker.kill()
        assert len(fleet.items()) < ITEMS
        assert [message.seq for message in fleet.contents().queued] == [task]
        assert not fleet.contents().unacked
        fleet.restart()
        fleet.resume()
        until("it is done", lambda: fleet.ended() == {task})
        assert times_done(fleet) == {(task, item): 1 for item in range(ITEMS)}


def test_s5_s6_a_waiting_child_does_not_outlive_a_worker_that_is_killed_alone(stack: Stack) -> None:
    """No order reaches it any more: it would wait for ever. Its task goes on elsewhere, from its cursor."""
    environ = {fleet_app.ORPHANS: "1", fleet_app.MUTEX_S: "5"}
    with Fleet(stack, acks_late=True, visibility_s=4, environ=environ) as fleet:
        fleet.watch()
        worker = fleet.start(slots=1)
        fleet.wait_open()
        task = fleet.send("steps_wait", 8, 0.1)
        until("it is under way", lambda: len(fleet.items()) >= 2)
        fleet.pause(mode="quiesce")
        fleet.wait_acknowledged()
        until("it waits", lambda: fleet.words()[0].waiting == 1)
        (child,) = psutil.Process(worker.pid).children()
        worker.send(signal.SIGKILL)
        until("its child is gone too", lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)
        worker.kill()
        fleet.restart()
        fleet.resume()
        until("it is done", lambda: fleet.ended() == {task}, within_s=40)
        assert times_done(fleet) == {(task, item): 1 for item in range(8)}


@pytest.mark.parametrize("way", [long("wait"), "yield"])
def test_s5_a_killed_worker_repeats_no_item_before_the_cursor(stack: Stack, way: str) -> None:
    """Late acknowledgement: the task goes on elsewhere, from the cursor that it stored when it stopped."""
    with Fleet(stack, acks_late=True, visibility_s=4) as fleet:
        fleet.watch()
        fleet.start(slots=1)
        fleet.wait_open()
        task = fleet.send(f"steps_{way}", ITEMS, STEP_S)
        until("it is under way", lambda: len(fleet.items()) >= 5)
        fleet.pause(mode="quiesce")
        fleet.wait_acknowledged()
        until("it has stopped", lambda: all_stopped(fleet))
        fleet.workers["w1"].kill()
        fleet.restart()
        fleet.resume()
        until("it is done", lambda: fleet.ended() == {task}, within_s=40)
        assert times_done(fleet) == {(task, item): 1 for item in range(ITEMS)}
