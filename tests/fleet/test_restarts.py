"""Workers that die, leave, arrive or lose their broker while the fleet is paused."""

from __future__ import annotations

import fcntl
import os
import re
import signal
import termios
from array import array
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from sluicegate.control.process.stack import Stack
from tests.fleet.harness import Fleet
from tests.fleet.waiting import stays, until
from tests.marks import long


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
    [long("killed", False), ("killed", True), long("stopped", False)],
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


@pytest.mark.parametrize("acks_late", [False, long(True)], ids=["early", "late"])
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


@pytest.mark.long
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


@pytest.mark.long
@pytest.mark.parametrize(
    "arguments", [("--max-tasks-per-child=3",), ("--autoscale=4,1",)], ids=["recycled", "autoscaled"]
)
def test_s1_s5_s6_children_that_come_and_go_stand_behind_the_same_gate(
    stack: Stack, arguments: tuple[str, ...]
) -> None:
    """Children forked after the start, by recycling or by autoscaling, obey what the first ones obey."""
    with Fleet(stack) as fleet:
        fleet.watch()
        fleet.start(slots=4, arguments=(*arguments, "--without-mingle", "--without-gossip"))
        fleet.wait_open()
        with fleet.fed(0.02, low=40):
            for _ in range(3):
                fleet.wait_more_started(30)
                fleet.pause()
                assert fleet.wait_drained().contents.queued
                fleet.resume()
        fleet.wait_done()
        verdict = fleet.check()
        pids = {record.pid for record in fleet.read_records()}
    assert verdict.broken == {}
    assert len(pids) > 1


def test_s1_the_acknowledgement_waits_for_a_child_that_has_its_task_and_cannot_begin(stack: Stack) -> None:
    """A job in a child's pipe cannot be called back: until it has begun, the worker is pausing, not paused."""
    with Fleet(stack) as fleet:
        fleet.watch()
        worker = fleet.start(slots=1)
        fleet.wait_open()
        (child,) = psutil.Process(worker.pid).children()
        # A child that has not said yet that it is up is given nothing.
        fleet.send_naps(1, 0.02)
        fleet.wait_done()
        child.suspend()
        fleet.send_naps(5, 0.02)
        until("the worker has taken four", lambda: len(fleet.contents().unacked) == 4)
        # A job that is not written yet would come back too, and rightly so.
        until("the child's pipe holds its job", lambda: _waits_in_a_pipe_of(child.pid))
        fleet.pause()
        until("the others are back", lambda: fleet.depth() == 4)
        stays("it does not acknowledge", lambda: fleet.words()[0].state != "paused", for_s=2.5)
        assert fleet.started() == {0}
        child.resume()
        fleet.wait_drained()
        assert fleet.started() == {0, 1}
        fleet.resume()
        fleet.wait_done()
        verdict = fleet.check()
    assert verdict.broken == {}


def _waits_in_a_pipe_of(pid: int) -> bool:
    """Does any pipe that the process has open hold something that nobody has read?"""
    waiting = array("i", [0])
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):
            if not os.readlink(link).startswith("pipe:"):
                continue
            end = os.open(link, os.O_RDONLY | os.O_NONBLOCK)
            try:
                fcntl.ioctl(end, termios.FIONREAD, waiting)
            finally:
                os.close(end)
            if waiting[0]:
                return True
    return False


def test_l4_a_worker_that_is_frozen_acknowledges_nothing_until_it_thaws(stack: Stack) -> None:
    """L4: it is pending all the while; what its children had begun ends by itself."""
    with Fleet(stack) as fleet:
        fleet.watch()
        worker = fleet.start()
        fleet.wait_open()
        fleet.send_naps(60, 0.02)
        fleet.wait_started(10)
        worker.send(signal.SIGSTOP)
        call = fleet.pause()
        stays("it has not applied it", lambda: fleet.words()[0].edition < call.edition, for_s=1.0)
        assert not fleet.client.read().body.metrics.is_drained
        worker.send(signal.SIGCONT)
        fleet.wait_drained()
        fleet.resume()
        fleet.wait_done()
        verdict = fleet.check()
    assert verdict.broken == {}


def test_l4_a_worker_lost_with_work_on_it_is_unknown_and_never_counted_as_drained(stack: Stack) -> None:
    """L4: silence is not quiet. It counts until it is heard again, or an operator says to forget it."""
    with Fleet(stack) as fleet:
        fleet.watch()
        worker = fleet.start(slots=1)
        fleet.wait_open()
        fleet.send_naps(1, 60)
        fleet.wait_started(1)
        until("its heartbeat tells of the task", lambda: fleet.words()[0].running == 1)
        fleet.pause()
        fleet.wait_acknowledged()
        worker.kill()

        def state() -> str:
            found = fleet.client.workers().body.workers
            return next(known.state for known in found if known.nodename == worker.nodename)

        until("its lease has run out", lambda: state() == "unknown", within_s=20, every_s=0.1)
        metrics = fleet.client.read().body.metrics
        assert not metrics.is_drained
        assert metrics.stale_running >= 1
        fleet.client.forget(worker.nodename, reason="it will not come back")
        assert fleet.client.read().body.metrics.stale_running == metrics.stale_running - 1


def _connected(log: str) -> list[str]:
    return re.findall(r"Connected to redis", log)


@pytest.mark.parametrize("acks_late", [False, long(True)], ids=["early", "late"])
def test_s1_s5_an_idle_child_killed_while_paused_is_replaced_behind_the_gate(stack: Stack, acks_late: bool) -> None:
    """S1, S5: Celery starts another child, which starts nothing before the resume."""
    with Fleet(stack, acks_late=acks_late) as fleet:
        _busy_then_drained(fleet)
        before = fleet.contents()
        parent = psutil.Process(fleet.workers["w1"].pid)
        old = {child.pid for child in parent.children()}
        psutil.Process(min(old)).kill()
        until("another child is there", lambda: len({c.pid for c in parent.children()} - old) >= 1)
        fleet.stays_still(for_s=0.7)
        assert fleet.contents() == before
        fleet.resume()
        fleet.wait_done()
        verdict = fleet.check()
    assert verdict.broken == {}
    assert verdict.ended == 60


@pytest.mark.parametrize("acks_late", [long(False), True], ids=["early", "late"])
def test_s1_s4_s5_a_parent_killed_alone_while_paused_loses_nothing(stack: Stack, acks_late: bool) -> None:
    """S1, S4, S5: its children go with it or are idle; the next life of the worker stays behind the gate."""
    with Fleet(stack, acks_late=acks_late) as fleet:
        _busy_then_drained(fleet)
        before = fleet.contents()
        (old,) = fleet.words()
        fleet.workers["w1"].send(signal.SIGKILL)
        until("the parent is gone", lambda: not fleet.workers["w1"].is_running)
        fleet.workers["w1"].kill()
        fleet.restart()
        until("the new life is seen", lambda: fleet.words()[0].incarnation != old.incarnation)
        fleet.wait_acknowledged()
        fleet.stays_still(for_s=0.7)
        assert fleet.contents() == before
        fleet.resume()
        fleet.wait_done()
        verdict = fleet.check()
    assert verdict.broken == {}
    assert verdict.ended == 60
