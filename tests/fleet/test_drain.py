"""A busy fleet drains, holds and resumes: nothing starts, nothing is lost, nothing changes places."""

from __future__ import annotations

import pytest

from sluicegate.control.process.stack import Stack
from tests.fleet.harness import Fleet
from tests.marks import long

PAUSES = 3
LONG_S = 4.0


@pytest.mark.parametrize("acks_late", [False, True], ids=["early", "late"])
@pytest.mark.parametrize("prefetch", [long(1), 4])
def test_s1_s5_s6_l3_a_busy_worker_drains_and_resumes(stack: Stack, acks_late: bool, prefetch: int) -> None:
    """S1: no start after the acknowledgement. S5, S6: each task once, in the order sent. L3: all run in the end."""
    with Fleet(stack, acks_late=acks_late, prefetch=prefetch) as fleet:
        fleet.watch()
        fleet.start()
        fleet.wait_open()
        with fleet.fed(0.02):
            for _ in range(PAUSES):
                fleet.wait_more_started(30)
                fleet.pause()
                assert fleet.wait_drained().contents.queued
                fleet.resume()
        fleet.wait_done()
        verdict = fleet.check()
    assert verdict.broken == {}
    assert verdict.ended == len(fleet.sent)
    assert len(verdict.pauses) == PAUSES


def test_s1_s5_s6_two_busy_workers_drain_together(stack: Stack) -> None:
    """Across workers no task is displaced by more than was handed back; each one's own come back in order."""
    with Fleet(stack) as fleet:
        fleet.watch()
        for name in ("w1", "w2"):
            fleet.start(name, wait=False)
        fleet.wait_ready()
        fleet.wait_open()
        with fleet.fed(0.02):
            for _ in range(PAUSES):
                fleet.wait_more_started(50)
                fleet.pause()
                assert fleet.wait_drained().contents.queued
                fleet.resume()
        fleet.wait_done()
        verdict = fleet.check()
    assert verdict.broken == {}
    assert verdict.ended == len(fleet.sent)


def test_s1_long_tasks_finish_and_the_acknowledgement_does_not_wait_for_them(stack: Stack) -> None:
    """Drain lets running tasks finish: the worker acknowledges while they run, and is drained when they end."""
    with Fleet(stack) as fleet:
        fleet.watch()
        fleet.start()
        fleet.wait_open()
        fleet.send_naps(10, LONG_S)
        fleet.wait_started(2)
        call = fleet.pause()
        fleet.wait_acknowledged()
        assert len(fleet.running()) == 2
        assert not fleet.ended()
        fleet.wait_drained()
        fleet.stays_still(for_s=0.5)
        fleet.resume()
        fleet.wait_started(4)
        verdict = fleet.check()
        fleet.pause()
        fleet.wait_drained()
    assert not verdict.late_starts
    (pause,) = verdict.pauses
    assert pause.call == call
    assert pause.acknowledged_us is not None
    assert pause.acknowledged_us < LONG_S * 1_000_000


def test_l1_a_pause_takes_effect_within_half_a_second(stack: Stack) -> None:
    """R-A11: with push healthy. The bound is loose on purpose: `make soak` measures, this only guards."""
    with Fleet(stack) as fleet:
        fleet.watch()
        fleet.start()
        fleet.wait_open()
        times = []
        fleet.send_naps(100, 0.01)
        for started in (10, 30, 50):
            fleet.wait_started(started)
            fleet.pause()
            fleet.wait_drained()
            fleet.resume()
        fleet.wait_done()
        times = [pause.acknowledged_us for pause in fleet.check().pauses]
    assert len(times) == 3
    assert min(at for at in times if at is not None) < 500_000


def test_a_pause_of_an_idle_fleet_is_acknowledged_and_what_is_sent_meanwhile_waits(stack: Stack) -> None:
    with Fleet(stack) as fleet:
        fleet.watch()
        fleet.start()
        fleet.wait_open()
        fleet.pause()
        fleet.wait_acknowledged()
        fleet.send_naps(20, 0.001)
        fleet.stays_still(for_s=1.0)
        drained = fleet.wait_drained()
        assert [message.seq for message in drained.contents.queued] == list(range(20))
        fleet.resume()
        fleet.wait_done()
        verdict = fleet.check()
    assert verdict.broken == {}
