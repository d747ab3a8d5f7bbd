"""Valkey restarted, wiped or frozen while the fleet is paused: the pause outlives it (S9)."""

from __future__ import annotations

import time

import pytest
import redis

from sluicegate.control.process.stack import Stack
from sluicegate.schemas.names import snapshot_key
from sluicegate.schemas.settings import NAMESPACE, REDIS_URL
from tests.fleet.harness import Fleet
from tests.fleet.waiting import until


def _drained_with_work_left(fleet: Fleet) -> int:
    fleet.watch()
    fleet.start()
    fleet.wait_open()
    fleet.send_naps(60, 0.02)
    fleet.wait_started(10)
    fleet.pause()
    fleet.wait_drained()
    return len(fleet.started())


def _wait_heard(fleet: Fleet, since: float) -> None:
    """Return once the control plane has heard the worker since `since`, and it still says paused."""
    nodename = fleet.workers["w1"].nodename

    def is_heard() -> bool:
        workers = fleet.client.workers().body.workers
        return any(
            w.nodename == nodename and w.state == "paused" and w.last_seen_at.timestamp() > since for w in workers
        )

    until(f"{nodename} is heard again, paused", is_heard, within_s=20, every_s=0.05)


@pytest.mark.long
def test_s1_s5_s9_valkey_restarted_while_paused(stack: Stack) -> None:
    with Fleet(stack) as fleet:
        started = _drained_with_work_left(fleet)
        before = fleet.contents()
        stack.valkey.restart()
        _wait_heard(fleet, time.time())
        assert len(fleet.started()) == started
        assert fleet.contents() == before
        fleet.resume()
        fleet.wait_done()
        verdict = fleet.check()
    assert verdict.broken == {}


def test_s1_s5_s9_valkey_killed_while_paused_and_away_for_a_while(stack: Stack) -> None:
    with Fleet(stack) as fleet:
        _drained_with_work_left(fleet)
        before = fleet.contents()
        stack.valkey.kill()
        fleet.stays_still(for_s=3.0)
        stack.valkey.start()
        _wait_heard(fleet, time.time())
        assert fleet.contents() == before
        fleet.resume()
        fleet.wait_done()
        verdict = fleet.check()
    assert verdict.broken == {}


def test_s1_s3_s9_l2_the_state_wiped_while_paused_is_published_again_and_opens_nothing(stack: Stack) -> None:
    """S3: no state is not a running state. L2: the control plane puts it back within a beat."""
    with Fleet(stack) as fleet:
        started = _drained_with_work_left(fleet)
        environ = stack.environ
        with redis.Redis.from_url(environ[REDIS_URL.name]) as state:
            state.flushdb()
            until("it is there again", lambda: state.exists(snapshot_key(environ[NAMESPACE.name])), within_s=5)
        wiped_at = time.time()
        _wait_heard(fleet, wiped_at)
        assert len(fleet.started()) == started
        fleet.resume()
        fleet.wait_done()
        verdict = fleet.check()
    assert verdict.broken == {}


@pytest.mark.long
def test_s1_s9_everything_wiped_while_paused_leaves_the_fleet_paused(stack: Stack) -> None:
    """The broker's tasks are gone with it, as with plain Celery; the pause is not, and the fleet works afterwards."""
    with Fleet(stack) as fleet:
        started = _drained_with_work_left(fleet)
        fleet.redis.flushall()
        lost = len(fleet.sent) - started
        _wait_heard(fleet, time.time())
        fleet.send_naps(20, 0.001)
        fleet.stays_still(for_s=1.0)
        fleet.resume()
        until("what was sent since is done", lambda: len(fleet.ended()) == started + 20)
        verdict = fleet.check()
    assert not verdict.late_starts
    assert not verdict.duplicated
    assert len(verdict.lost) == lost


def test_s1_s9_a_frozen_valkey_while_paused_opens_nothing(stack: Stack) -> None:
    """Nothing answers and nothing is closed: the shape of a silent partition."""
    with Fleet(stack) as fleet:
        _drained_with_work_left(fleet)
        stack.valkey.freeze()
        try:
            fleet.stays_still(for_s=4.0)
        finally:
            stack.valkey.thaw()
        _wait_heard(fleet, time.time())
        fleet.resume()
        fleet.wait_done()
        verdict = fleet.check()
    assert verdict.broken == {}


def test_l1_l2_an_order_given_while_valkey_is_away_takes_effect_when_it_is_back(stack: Stack) -> None:
    """The answer says that it is not published; nothing else is needed for it to reach the workers."""
    with Fleet(stack) as fleet:
        fleet.watch()
        fleet.start()
        fleet.wait_open()
        stack.valkey.kill()
        answer = fleet.client.pause(mode="drain", reason="Valkey is away").body
        assert answer.outcome == "applied"
        assert not answer.published
        stack.valkey.start()
        version = answer.system.version
        until("the worker has applied it", lambda: fleet.words()[0].edition[1] >= version, within_s=20, every_s=0.05)
        fleet.wait_acknowledged()
