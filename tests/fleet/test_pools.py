"""The promises on the pools that run tasks within the worker's own process: threads, gevent, solo (R-B4)."""

from __future__ import annotations

import pytest

from sluicegate.control.process.stack import Stack
from tests.fleet import app as fleet_app
from tests.fleet.harness import Fleet
from tests.fleet.waiting import until
from tests.marks import long

SLOTS = {"threads": 2, "gevent": 2, "solo": 1}


@pytest.mark.parametrize("acks_late", [long(False), True], ids=["early", "late"])
@pytest.mark.parametrize("pool", SLOTS)
def test_s1_s4_s5_s6_l3_a_busy_worker_drains_is_killed_and_resumes(stack: Stack, pool: str, acks_late: bool) -> None:
    """Plain tasks, countdowns, retries and rate-limited ones, over two pauses and a restart while paused."""
    with Fleet(stack, pool=pool, acks_late=acks_late) as fleet:
        fleet.watch()
        fleet.start(slots=SLOTS[pool])
        fleet.wait_open()
        for _ in range(6):
            fleet.send("nap", 0.01, countdown_s=2.0)
            fleet.send("stubborn", 2, 0.3)
            fleet.send("limited", waits=True)
        fleet.send_naps(80, 0.02)
        fleet.wait_started(20)
        fleet.pause()
        assert fleet.wait_drained().contents.queued
        fleet.resume()
        fleet.wait_started(40)
        fleet.pause()
        before = fleet.wait_drained().contents
        (old,) = fleet.words()
        fleet.workers["w1"].kill()
        fleet.restart()
        until("the new life is seen", lambda: fleet.words()[0].incarnation != old.incarnation)
        fleet.wait_acknowledged()
        fleet.stays_still(for_s=0.5)
        assert fleet.contents() == before
        fleet.resume()
        fleet.wait_done()
        verdict = fleet.check()
    assert verdict.broken == {}
    assert verdict.ended == 98


@pytest.mark.parametrize("pool", ["threads", long("gevent")])
def test_s1_s5_where_long_tasks_have_all_slots_the_rest_goes_back_at_once(stack: Stack, pool: str) -> None:
    """A full pool: what lies in its queue, or waits on the main greenlet for a place in it, is handed back."""
    with Fleet(stack, pool=pool) as fleet:
        fleet.watch()
        fleet.start(slots=2)
        fleet.wait_open()
        fleet.send_naps(12, 3.0)
        fleet.wait_started(2)
        fleet.pause()
        fleet.wait_acknowledged()
        assert len(fleet.running()) == 2, "the acknowledgement does not wait for long tasks"
        until("the rest lies in the queue", lambda: len(fleet.contents().queued) == 10)
        assert [message.seq for message in fleet.contents().queued] == list(range(2, 12))
        fleet.wait_drained()
        fleet.stays_still(for_s=0.5)
        verdict = fleet.check()
    assert verdict.broken == {}


@pytest.mark.parametrize("pool", [long("threads"), "gevent"])
def test_s5_s6_a_worker_whose_pool_is_full_lives_through_a_lost_broker_while_paused(stack: Stack, pool: str) -> None:
    """R-B3: the connection returns, and nothing is consumed until the resume."""
    with Fleet(stack, pool=pool, acks_late=True) as fleet:
        fleet.watch()
        fleet.start(slots=2)
        fleet.wait_open()
        fleet.send_naps(40, 0.02)
        fleet.wait_started(10)
        fleet.pause()
        before = fleet.wait_drained().contents
        stack.valkey.stop()
        stack.valkey.start()
        until("the worker is back at its broker", fleet.ping, within_s=30)
        fleet.stays_still(for_s=0.5)
        assert fleet.contents() == before
        fleet.resume()
        fleet.wait_done()
        verdict = fleet.check()
    assert verdict.broken == {}
    assert verdict.ended == 40


@pytest.mark.long
@pytest.mark.parametrize(("pool", "mutant"), [("threads", "no_barrier"), ("threads", "checked_once")])
def test_the_checker_catches_a_broken_gate_in_a_pool_of_threads(stack: Stack, pool: str, mutant: str) -> None:
    """Without the barrier, or with the check at the hand-over alone, tasks start after the acknowledgement."""
    with Fleet(stack, pool=pool, environ={fleet_app.SLOW_START_MS: "80"}) as fleet:
        fleet.watch()
        fleet.start(slots=2, module=f"tests.fleet.mutants.{mutant}")
        fleet.wait_open()
        fleet.send_naps(200, 0.01)
        for pause in range(12):
            fleet.wait_started(8 * (pause + 1))
            fleet.pause()
            fleet.wait_drained()
            fleet.resume()
            fleet.wait_open()
            if "starts after acknowledgement" in fleet.check().broken:
                break
        verdict = fleet.check()
    assert "starts after acknowledgement" in verdict.broken
