"""Workers that die, leave, arrive or lose their broker while the fleet is paused."""

from __future__ import annotations

import re

import pytest

from sluicegate.control.stack import Stack
from tests.fleet.harness import Fleet
from tests.fleet.waiting import until


def _busy_then_drained(fleet: Fleet) -> None:
    fleet.watch()
    fleet.start()
    fleet.wait_open()
    fleet.send_naps(60, 0.02)
    fleet.wait_started(10)
    fleet.pause()
    fleet.wait_drained()


@pytest.mark.parametrize(
    ("how", "acks_late"),
    [("killed", False), ("killed", True), ("stopped", False)],
    ids=["killed-early", "killed-late", "stopped-early"],
)
def test_s1_s4_s5_a_worker_restarted_while_paused_starts_nothing(stack: Stack, how: str, acks_late: bool) -> None:
    """S1 binds later incarnations too; S4: a new one waits for a fresh state; S5: neither end loses a task."""
    with Fleet(stack, acks_late=acks_late) as fleet:
        _busy_then_drained(fleet)
        before = fleet.contents()
        (old,) = fleet.words()
        worker = fleet.workers["w1"]
        if how == "killed":
            worker.kill()
        else:
            worker.stop()
        fleet.restart()
        until("the new life is seen", lambda: fleet.words()[0].incarnation != old.incarnation)
        fleet.wait_acknowledged()
        fleet.stays_still(for_s=1.0)
        assert fleet.contents() == before
        fleet.resume()
        fleet.wait_done()
        verdict = fleet.check()
    assert verdict.broken == {}
    assert verdict.ended == 60


def test_s1_s4_a_worker_that_is_new_to_a_paused_fleet_starts_nothing(stack: Stack) -> None:
    with Fleet(stack) as fleet:
        fleet.watch()
        fleet.pause()
        fleet.send_naps(20, 0.001)
        fleet.start()
        fleet.wait_acknowledged()
        fleet.stays_still(for_s=1.0)
        assert len(fleet.contents().queued) == 20
        fleet.resume()
        fleet.wait_done()
        verdict = fleet.check()
    assert verdict.broken == {}


@pytest.mark.parametrize("acks_late", [False, True], ids=["early", "late"])
def test_s5_a_worker_killed_while_it_still_drains_loses_no_more_than_plain_celery(
    stack: Stack, acks_late: bool
) -> None:
    """S5: at most what was running, and with late acknowledgement not even that once the broker gives it out."""
    with Fleet(stack, acks_late=acks_late, visibility_s=4) as fleet:
        fleet.watch()
        fleet.start()
        fleet.wait_open()
        fleet.send_naps(12, 2.0)
        fleet.wait_started(2)
        fleet.pause()
        fleet.wait_acknowledged()
        fleet.workers["w1"].kill()
        contents = fleet.contents()
        assert {message.seq for message in contents.queued} == set(range(2, 12))
        assert {message.seq for message in contents.unacked} == ({0, 1} if acks_late else set())
        verdict = fleet.check()
    assert not verdict.late_starts
    assert not verdict.lost
    assert verdict.interrupted == (() if acks_late else (0, 1))


def test_s1_s5_a_paused_worker_whose_connections_are_cut_does_not_consume_again(stack: Stack) -> None:
    """R-B3: every connection to the broker is cut by `CLIENT KILL`; the worker returns, and stays shut."""
    with Fleet(stack) as fleet:
        _busy_then_drained(fleet)
        worker = fleet.workers["w1"]
        before = fleet.contents()
        for _ in range(2):
            connections = len(_connected(worker.process.output))
            fleet.redis.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            fleet.redis.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
            until(
                "the worker has connected again",
                lambda seen=connections: len(_connected(worker.process.output)) > seen,  # type: ignore[misc]
            )
            until("it answers", fleet.ping)
            fleet.stays_still(for_s=0.5)
        assert fleet.contents() == before
        fleet.resume()
        fleet.wait_done()
        verdict = fleet.check()
    assert verdict.broken == {}


def test_s1_s5_connections_cut_while_the_fleet_runs_do_not_break_a_later_pause(stack: Stack) -> None:
    """The consumer is made anew on each connection; the gate stands in front of the new one as well."""
    with Fleet(stack) as fleet:
        fleet.watch()
        fleet.start()
        fleet.wait_open()
        fleet.redis.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        until("it answers again", fleet.ping)
        fleet.send_naps(60, 0.02)
        fleet.wait_started(10)
        fleet.pause()
        fleet.wait_drained()
        fleet.resume()
        fleet.wait_done()
        verdict = fleet.check()
    assert verdict.broken == {}


def _connected(log: str) -> list[str]:
    return re.findall(r"Connected to redis", log)
