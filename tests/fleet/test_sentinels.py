"""A Valkey whose sentinels promote its replica, for the state and for Celery's broker at once (S1, S2, S4, S5, L2)."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from sluicegate.control.client import Client
from sluicegate.control.process.stack import Stack
from sluicegate.schemas.adapters.redis_client import TIMEOUT_S, connect
from sluicegate.schemas.adapters.trusted_keys import TrustedKeys
from sluicegate.schemas.names import snapshot_key
from sluicegate.schemas.public_keys import parse_public_keys
from sluicegate.schemas.redis_urls import place_of
from sluicegate.schemas.settings import BROKER_URL, NAMESPACE, PUBLIC_KEYS, REDIS_MASTER_NAME, REDIS_URL, TOKEN
from sluicegate.schemas.snapshots import NOTHING, unseal
from sluicegate.workers.follower import JITTER, Follower, Pace
from tests.fleet.harness import Fleet
from tests.fleet.sentinels import BROKER_DATABASE, MASTER_NAME, STATE_DATABASE, Watched
from tests.fleet.waiting import until


class WatchedStack(Stack):
    """A stack whose state and broker are at `watched`; its own Valkey serves nobody."""

    watched: Watched

    @property
    def environ(self) -> dict[str, str]:
        return {**super().environ, **self._places()}

    @property
    def control_environ(self) -> dict[str, str]:
        return {**super().control_environ, **self._places()}

    def _places(self) -> dict[str, str]:
        return {
            REDIS_URL.name: self.watched.url(STATE_DATABASE),
            BROKER_URL.name: self.watched.url(BROKER_DATABASE),
            REDIS_MASTER_NAME.name: MASTER_NAME,
        }


@pytest.fixture(scope="module")
def one_watched_stack() -> Iterator[WatchedStack]:
    with (
        tempfile.TemporaryDirectory(prefix="sluicegate-sentinels-", ignore_cleanup_errors=True) as directory,
        Watched(Path(directory)) as watched,
    ):
        stack = WatchedStack(Path(directory) / "stack", durable=False)
        stack.watched = watched
        with stack:
            yield stack


@pytest.fixture
def stack(one_watched_stack: WatchedStack) -> WatchedStack:
    """Running, with nothing held, whatever the test before did."""
    one_watched_stack.watched.heal()
    one_watched_stack.start_control()
    with Client(one_watched_stack.url, one_watched_stack.environ[TOKEN.name]) as client:
        if client.read().body.system.workers_paused:
            client.resume(reason="the test before is over", force=True)
    return one_watched_stack


def _wait_consumes(fleet: Fleet) -> None:
    """Return once the worker has found the broker again: Celery tries with growing pauses."""
    until("the worker answers a ping", lambda: _pings(fleet), within_s=40, every_s=0.1)


def _pings(fleet: Fleet) -> bool:
    try:
        return fleet.ping()
    except Exception:  # whatever kombu raises while there is no master
        return False


def test_s1_s5_s6_l2_l3_a_failover_while_paused(stack: WatchedStack) -> None:
    with Fleet(stack) as fleet:
        fleet.watch()
        fleet.start()
        fleet.wait_open()
        fleet.send_naps(150, 0.02)
        fleet.wait_started(10)
        fleet.pause()
        fleet.wait_drained()
        stack.watched.replicate()
        before = fleet.contents()
        assert before.queued
        former = stack.watched.master
        former.kill()
        stack.watched.wait_failed_over(former)
        _wait_consumes(fleet)
        fleet.stays_still(for_s=1.5)
        assert fleet.contents() == before
        # The old master comes back as one, and is made a replica: nobody takes its word for anything.
        stack.watched.heal()
        fleet.resume()
        fleet.wait_done()
        verdict = fleet.check()
    assert verdict.broken == {}


@pytest.mark.long
def test_s1_s5_l1_l2_a_failover_while_running_and_a_pause_that_acts(stack: WatchedStack) -> None:
    """What the worker had fetched stays in `unacked` until its time there is over, as with plain Celery.

    What it had taken off the queue the moment before, and not put there yet, is lost there too.
    """
    with Fleet(stack) as fleet:
        fleet.watch()
        fleet.start()
        fleet.wait_open()
        fleet.send_naps(250, 0.05)
        fleet.wait_started(10)
        stack.watched.replicate()
        former = stack.watched.master
        former.kill()
        stack.watched.wait_failed_over(former)
        _wait_consumes(fleet)
        fleet.wait_more_starts_after(lambda: None)
        fleet.pause()
        fleet.wait_acknowledged()
        until("nothing runs", lambda: not fleet.running(), within_s=5)
        fleet.stays_still(for_s=1.0)
        assert fleet.contents().queued
        fleet.resume()
        until("the queue is worked off", lambda: not fleet.depth() and not fleet.running(), within_s=60, every_s=0.1)
        verdict = fleet.check()
    assert not verdict.late_starts
    assert len(verdict.lost) <= 1


@pytest.mark.long
def test_s1_s2_s4_l2_a_stale_replica_promoted_while_paused_opens_nothing(stack: WatchedStack) -> None:
    """It still has the state from before the pause. With the control plane away nobody puts it right."""
    with Fleet(stack) as fleet:
        fleet.watch()
        fleet.start()
        fleet.wait_open()
        key = snapshot_key(stack.environ[NAMESPACE.name])
        stack.watched.replicate()
        stack.watched.cut_replica()
        fleet.pause()
        fleet.wait_drained()
        fleet.send_naps(5, 0.001)
        former = stack.watched.master
        stack.kill_control()
        former.kill()
        stack.watched.wait_failed_over(former)
        with stack.watched.client(STATE_DATABASE) as state:
            stale = _get(state, key)
        missed = len(fleet.sent)
        fleet.send_naps(20, 0.001)
        until("the stale state is refused", lambda: fleet.words()[0].refused.get("stale_snapshot", 0) > 1)
        _wait_consumes(fleet)
        fleet.workers["w1"].kill()
        fleet.restart(wait=False)
        fleet.stays_still(for_s=3.0)
        (word,) = fleet.words()
        assert word.state == "paused"
        with stack.watched.client(STATE_DATABASE) as state:
            assert _get(state, key) == stale
            stack.start_control()
            until("the newest state is there", lambda: _get(state, key) != stale, within_s=5)
        fleet.wait_acknowledged()
        since = time.time()
        until("the restarted worker is heard", lambda: _is_heard(fleet, since), within_s=10, every_s=0.05)
        assert len(fleet.started()) == 0
        fleet.resume()
        until("what the new master has is done", lambda: len(fleet.ended()) == 20)
        verdict = fleet.check()
    assert not verdict.late_starts
    assert not verdict.duplicated
    assert len(verdict.lost) == missed


@pytest.mark.long
def test_l2_a_follower_and_the_control_plane_leave_a_frozen_master_within_a_poll(stack: WatchedStack) -> None:
    """It keeps every connection and answers nothing, so each read that is out lasts until its time is over."""
    keys = TrustedKeys(parse_public_keys(stack.environ[PUBLIC_KEYS.name]))
    namespace = stack.environ[NAMESPACE.name]
    place = place_of(stack.environ[REDIS_URL.name], REDIS_URL, MASTER_NAME, REDIS_MASTER_NAME)
    pace = Pace(poll_s=0.5, republish_s=1.0, stale_after_s=60, is_stale_closed=False, needs_fresh_boot=True)
    taken: list[int] = []
    follower = Follower(
        namespace=namespace,
        keys=keys,
        pace=pace,
        connect=lambda: connect(place),
        fence=NOTHING,
        on_state=lambda state: taken.append(state.holds.version),
        on_stale=lambda reason: None,
    )
    follower.start()
    try:
        until("the follower has the state", lambda: taken)
        former = stack.watched.master
        former.freeze()
        with Client(stack.url, stack.environ[TOKEN.name]) as client:
            answer = client.pause(mode="drain", reason="nobody can be told yet").body
        assert not answer.published
        stack.watched.wait_failed_over(former)
        with stack.watched.client(STATE_DATABASE) as state:

            def has_come() -> bool:
                raw = _get(state, snapshot_key(namespace))
                return unseal(raw, keys, namespace).holds.version == answer.system.version

            until("the new master has the order", has_come, within_s=5)
        healed_at = time.monotonic()
        until("the follower has it", lambda: taken[-1] == answer.system.version, within_s=10)
        took_s = time.monotonic() - healed_at
    finally:
        follower.stop()
    # A poll, and what was out when the healing came: a read, and the opening of the subscription.
    assert took_s <= pace.poll_s * (1 + JITTER) + 2 * TIMEOUT_S, took_s


def _get(state: redis.Redis, key: str) -> Any:
    return state.execute_command("GET", key)


def _is_heard(fleet: Fleet, since: float) -> bool:
    workers = fleet.client.workers().body.workers
    return any(worker.state == "paused" and worker.last_seen_at.timestamp() > since for worker in workers)
