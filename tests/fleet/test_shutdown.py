"""Workers that are told to stop while something holds: nothing is lost, nothing is done twice."""

from __future__ import annotations

import signal

import pytest

from sluicegate.control.process.stack import Stack
from tests.fleet import app as fleet_app
from tests.fleet.harness import Fleet
from tests.fleet.waiting import until
from tests.marks import long

ITEMS, ITEM_S = 30, 0.1


def stop(fleet: Fleet, signum: signal.Signals, *, within_s: float = 30.0) -> None:
    """Send it, and return when the worker has ended by itself."""
    worker = fleet.workers["w1"]
    worker.send(signum)
    until("it has ended", lambda: not worker.is_running, within_s=within_s)


@pytest.mark.parametrize(
    ("pool", "acks_late", "signum", "soft_s"),
    [
        long("prefork", False, signal.SIGTERM, 0),
        ("prefork", True, signal.SIGTERM, 0),
        long("prefork", True, signal.SIGQUIT, 10),
        long("prefork", True, signal.SIGQUIT, 0),
        ("threads", True, signal.SIGTERM, 0),
        long("solo", True, signal.SIGTERM, 0),
        long("gevent", True, signal.SIGTERM, 0),
    ],
    ids=lambda value: getattr(value, "name", str(value)),
)
def test_s5_s6_a_quiesced_worker_that_is_told_to_stop_does(
    stack: Stack, pool: str, acks_late: bool, signum: signal.Signals, soft_s: float
) -> None:
    """Its tasks wait for a resume, and do not keep it: they go on from their cursor in the next life."""
    environ = {fleet_app.SOFT_SHUTDOWN_S: str(soft_s)}
    with Fleet(stack, pool=pool, acks_late=acks_late, prefetch=1, visibility_s=8) as fleet:
        fleet.watch()
        fleet.start(slots=2, environ=environ)
        fleet.wait_open()
        tasks = {fleet.send("steps_wait", ITEMS, ITEM_S), fleet.send("steps_yield", ITEMS, ITEM_S)}
        busy = 1 if pool == "solo" else 2
        until("they are under way", lambda: len({item.seq for item in fleet.items()}) == busy)
        fleet.pause(mode="quiesce")
        until("they have stopped", lambda: all(word.running == word.waiting for word in fleet.words()))
        fleet.stays_still(for_s=0.3)
        before = len(fleet.items())
        stop(fleet, signum)
        if signum is signal.SIGTERM or soft_s:
            assert {message.seq for message in fleet.contents().queued} == tasks
            assert not fleet.contents().unacked
        fleet.restart()
        fleet.wait_acknowledged()
        fleet.stays_still(for_s=0.5)
        assert len(fleet.items()) == before
        fleet.resume()
        until("all is done", lambda: fleet.ended() == tasks, within_s=60)
        done = sorted((item.seq, item.item) for item in fleet.items())
    assert 0 < before < 2 * ITEMS
    assert done == sorted((seq, item) for seq in tasks for item in range(ITEMS)), "each item once"


@pytest.mark.parametrize("pool", ["prefork", long("threads")])
def test_s5_s6_a_worker_that_is_told_to_stop_while_it_drains_finishes_what_runs(stack: Stack, pool: str) -> None:
    with Fleet(stack, pool=pool) as fleet:
        fleet.watch()
        fleet.start()
        fleet.wait_open()
        fleet.send_naps(40, 0.4)
        fleet.wait_started(3)
        fleet.pause()
        stop(fleet, signal.SIGTERM)
        started = fleet.started()
        assert fleet.ended() == started
        assert not fleet.contents().unacked
        fleet.restart()
        fleet.wait_acknowledged()
        fleet.stays_still(for_s=0.5)
        assert fleet.started() == started
        fleet.resume()
        fleet.wait_done()
        verdict = fleet.check()
    assert verdict.broken == {}
