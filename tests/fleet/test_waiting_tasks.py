"""Tasks that wait on purpose when the pause comes: countdowns, retries, rate limits."""

from __future__ import annotations

import time

import pytest

from sluicegate.control.process.stack import Stack
from tests.fleet.harness import Fleet
from tests.fleet.waiting import until
from tests.marks import long


@pytest.mark.parametrize("acks_late", [False, long(True)], ids=["early", "late"])
def test_s1_s5_countdowns_that_fall_due_in_a_pause_wait(stack: Stack, acks_late: bool) -> None:
    """S1, S5: a worker that held them has given them back; they start after the resume, once each."""
    with Fleet(stack, acks_late=acks_late) as fleet:
        fleet.watch()
        fleet.start()
        fleet.wait_open()
        for _ in range(12):
            fleet.send("nap", 0.01, countdown_s=2.0)
        fleet.send_naps(6, 0.01)
        due_at = time.time() + 2.0
        until("the worker holds them", lambda: len(fleet.contents().unacked) >= 12)
        fleet.wait_started(6)
        fleet.pause()
        drained = fleet.wait_drained()
        assert [message.seq for message in drained.contents.queued] == list(range(12))
        until("they are overdue", lambda: time.time() > due_at + 0.5)
        assert fleet.started() == set(range(12, 18))
        fleet.resume()
        fleet.wait_done()
        verdict = fleet.check()
    assert verdict.broken == {}
    assert verdict.ended == 18


def test_s1_s6_a_countdown_not_yet_due_keeps_its_time_over_a_pause(stack: Stack) -> None:
    """S6: neither forgotten nor hastened by a short pause."""
    with Fleet(stack) as fleet:
        fleet.watch()
        fleet.start()
        fleet.wait_open()
        sent_at = time.time()
        fleet.send("nap", 0.01, countdown_s=3.0)
        until("the worker holds it", lambda: len(fleet.contents().unacked) == 1)
        fleet.pause()
        fleet.wait_drained()
        fleet.resume()
        fleet.wait_done()
        verdict = fleet.check()
        started_at = min(record.at_us for record in fleet.read_records()) / 1e6
    assert verdict.broken == {}
    assert started_at - sent_at >= 3.0


@pytest.mark.parametrize("acks_late", [False, long(True)], ids=["early", "late"])
def test_s1_s6_retries_due_in_a_pause_wait_and_none_is_burned(stack: Stack, acks_late: bool) -> None:
    """S6: every task ends on exactly the retry that it asked for."""
    with Fleet(stack, acks_late=acks_late) as fleet:
        fleet.watch()
        fleet.start()
        fleet.wait_open()
        for _ in range(6):
            fleet.send("stubborn", 3, 0.4)
        until("first runs have asked for a retry", lambda: len(fleet.read_records()) >= 12)
        for _ in range(2):
            fleet.pause()
            fleet.wait_drained()
            fleet.stays_still(for_s=0.8)
            fleet.wait_more_starts_after(fleet.resume)
        fleet.wait_done()
        verdict = fleet.check()
        notes = [record.note for record in fleet.read_records() if record.event == "end"]
    assert verdict.broken == {}
    assert verdict.starts == 6 * 4
    assert notes == ["3"] * 6


def test_s1_s5_rate_limited_tasks_wait(stack: Stack) -> None:
    """S1, S5: what stood in a rate limit's bucket goes back, and none of it starts before the resume."""
    with Fleet(stack) as fleet:
        fleet.watch()
        fleet.start()
        fleet.wait_open()
        for _ in range(20):
            fleet.send("limited", waits=True)
        fleet.wait_started(3)
        fleet.pause()
        fleet.wait_drained()
        before = len(fleet.started())
        assert before < 20
        fleet.stays_still(for_s=1.0)
        fleet.resume()
        fleet.wait_done()
        verdict = fleet.check()
    assert verdict.broken == {}
    assert verdict.ended == 20


def test_s5_s6_a_pause_longer_than_the_visibility_timeout_duplicates_nothing(stack: Stack) -> None:
    """S5, S6: nothing is left unacknowledged for the broker to give out again (visibility timeout 4 s).

    A second worker is started when the timeout has passed: kombu looks for what is overdue as it starts.
    """
    with Fleet(stack, visibility_s=4) as fleet:
        fleet.watch()
        fleet.start()
        fleet.wait_open()
        for _ in range(4):
            fleet.send("nap", 0.02, countdown_s=1.5)
        fleet.send_naps(60, 0.02)
        fleet.wait_started(10)
        call = fleet.pause()
        drained = fleet.wait_drained()
        assert not drained.contents.unacked
        until("the timeout has passed", lambda: time.time() > call.at_us / 1e6 + 5.0, within_s=10)
        fleet.start("w2")
        fleet.wait_acknowledged()
        again = fleet.contents()
        assert again.queued == drained.contents.queued
        fleet.resume()
        fleet.wait_done()
        verdict = fleet.check()
    assert verdict.broken == {}
    assert verdict.starts == 64


@pytest.mark.long
@pytest.mark.parametrize("acks_late", [False, True], ids=["early", "late"])
def test_s5_s6_a_pause_of_ten_visibility_timeouts_runs_nothing_twice(stack: Stack, acks_late: bool) -> None:
    """Plain tasks, countdowns that fall due meanwhile, and a second worker that would take what is overdue (2 s)."""
    with Fleet(stack, acks_late=acks_late, visibility_s=2) as fleet:
        fleet.watch()
        fleet.start()
        fleet.wait_open()
        fleet.send_naps(80, 0.02)
        fleet.wait_started(10)
        # Only now: what a worker holds for longer than the timeout is given out again by plain Celery, pause or no.
        for _ in range(6):
            fleet.send("nap", 0.02, countdown_s=0.5)
            fleet.send("nap", 0.02, countdown_s=8.0)
        call = fleet.pause()
        fleet.wait_drained()
        fleet.start("w2")
        fleet.wait_acknowledged()
        until("ten timeouts have passed", lambda: time.time() > call.at_us / 1e6 + 20.0, within_s=30)
        assert not fleet.contents().unacked
        fleet.resume()
        fleet.wait_done()
        verdict = fleet.check()
    assert verdict.broken == {}
    assert verdict.starts == 92
