"""The control plane or its database dies: what was ordered stands, and what was paused stays paused."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from base64 import b64decode
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from redis import Redis

from sluicegate.control.embedded.process import ServerProcess
from sluicegate.control.process.stack import Stack
from sluicegate.schemas.errors import Unavailable
from sluicegate.schemas.names import snapshot_key
from sluicegate.schemas.settings import NAMESPACE, REDIS_URL, REPUBLISH_INTERVAL_MS
from tests.fleet.harness import ROOT, Fleet
from tests.fleet.waiting import stays, until
from tests.marks import long


@contextmanager
def control_plane_that_dies_after_the_commit(stack: Stack) -> Iterator[ServerProcess]:
    """In the place of the stack's own, on the same address."""
    stack.stop_control()
    path = os.pathsep.join([str(ROOT), *(os.path.abspath(e) for e in os.environ.get("PYTHONPATH", "").split(":") if e)])
    environ = {
        **{n: v for n, v in os.environ.items() if not n.startswith("SLUICEGATE_")},
        **stack.control_environ,
        # Its loop must not publish in the place of the call that dies.
        REPUBLISH_INTERVAL_MS.name: "60000",
        "PYTHONPATH": path,
    }
    command = [sys.executable, "-m", "tests.fleet.dying_control"]
    process = ServerProcess(command, stack.state_dir / "dying.log", signal.SIGKILL, environ=environ)
    try:
        process.wait_until(lambda: _is_ready(stack.url), 20)
        yield process
    finally:
        process.stop(signal.SIGKILL)


def _is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz", timeout=1, trust_env=False).is_success
    except httpx.HTTPError:
        return False


def test_s7_l2_an_order_committed_by_a_control_plane_that_died_before_telling_stands(stack: Stack) -> None:
    """S7: one version, one event. L2: the next control plane publishes it, and the workers obey."""
    with Fleet(stack) as fleet:
        fleet.watch()
        fleet.start()
        fleet.wait_open()
        before = fleet.client.read().body.system.version
        with control_plane_that_dies_after_the_commit(stack) as dying:
            with pytest.raises(Unavailable):
                fleet.client.pause(mode="drain", reason="the power goes")
            until("it is dead", lambda: not dying.is_running)
            stays("nobody was told", lambda: fleet.words()[0].state == "running", for_s=0.5)
        stack.start_control()
        state = fleet.client.read().body
        assert state.system.workers_paused
        assert state.system.version == before + 1
        assert state.system.reason == "the power goes"
        events = fleet.client.audit({"limit": 20}).body.events
        assert [event.version for event in events].count(before + 1) == 1
        until("the worker has applied it", lambda: fleet.words()[0].edition[1] == before + 1, within_s=10)
        fleet.wait_acknowledged()


def test_s1_s9_a_paused_fleet_stays_paused_without_a_control_plane_and_a_worker_cannot_boot_open(
    stack: Stack,
) -> None:
    """S9: losing touch never opens. S4: what lies in Valkey is signed, but nobody alive stands behind it."""
    with Fleet(stack) as fleet:
        fleet.watch()
        fleet.start()
        fleet.wait_open()
        fleet.send_naps(40, 0.02)
        fleet.wait_started(5)
        fleet.pause()
        fleet.wait_drained()
        stack.kill_control()
        fleet.workers["w1"].kill()
        fleet.restart()
        fleet.stays_still(for_s=3.0)
        stack.start_control()
        fleet.wait_acknowledged()
        fleet.resume()
        fleet.wait_done()
        verdict = fleet.check()
    assert verdict.broken == {}


def test_s4_a_worker_does_not_boot_open_on_a_running_state_that_nobody_stands_behind(stack: Stack) -> None:
    """S4: with no control plane alive the beat does not advance, so even a signed running state opens nothing."""
    with Fleet(stack) as fleet:
        fleet.watch()
        stack.kill_control()
        fleet.send_naps(10, 0.001)
        fleet.start()
        fleet.stays_still(for_s=3.0)
        stack.start_control()
        fleet.wait_done()
        verdict = fleet.check()
    assert verdict.broken == {}


def test_s4_recorded_states_put_back_one_after_another_open_no_new_worker(stack: Stack) -> None:
    """S4: the fleet is paused and the control plane away; what advances is shown to a worker without memory."""
    key = snapshot_key(stack.environ[NAMESPACE.name])
    redis: Any = Redis.from_url(stack.environ[REDIS_URL.name])
    with Fleet(stack) as fleet:
        fleet.watch()
        fleet.start()
        fleet.wait_open()
        recorded: set[bytes] = set()

        def has_recorded() -> bool:
            recorded.add(redis.get(key))
            return len(recorded) >= 4

        until("four states are written down", has_recorded)
        fleet.pause()
        fleet.wait_acknowledged()
        stack.kill_control()
        fleet.workers["w1"].kill()
        fleet.send_naps(10, 0.001)
        worker = fleet.start("w2")
        until("it waits", lambda: "waiting for a fresh signed state" in worker.process.output)

        states, began = sorted(recorded, key=publication_in), time.monotonic()

        def starts_nothing() -> bool:
            # Each lies there for longer than a worker's poll.
            redis.set(key, states[min(3, int((time.monotonic() - began) / 1.5))])
            return fleet.count_starts() == 0

        stays("it starts nothing", starts_nothing, for_s=7.0)
        stack.start_control()
        fleet.resume()
        fleet.wait_done()
        verdict = fleet.check()
    redis.close()
    assert verdict.broken == {}


def publication_in(state: bytes) -> int:
    """The number of the publication that it is."""
    return int(json.loads(b64decode(json.loads(state)["payload_b64"]))["beat"])


@pytest.mark.parametrize("policy", [long("open"), "closed"])
def test_s9_a_running_worker_that_loses_touch_follows_its_stale_policy(stack: Stack, policy: str) -> None:
    """S9: it goes on for the stale lease; then `open` goes on with an alarm, and `closed` closes by itself."""
    lease = {"SLUICEGATE_STALE_AFTER_S": "2", "SLUICEGATE_STALE_POLICY": policy}
    with Fleet(stack, environ=lease) as fleet:
        fleet.watch()
        worker = fleet.start()
        fleet.wait_open()
        stack.kill_control()
        until("it says that it is out of touch", lambda: "no fresh state for 2 s" in worker.process.output)
        if policy == "closed":
            fleet.wait_state("paused")
            fleet.send_naps(5, 0.001)
            fleet.stays_still(for_s=1.0)
            stack.start_control()
            fleet.wait_open()
        else:
            fleet.send_naps(5, 0.001)
        fleet.wait_done()
        assert fleet.words()[0].state == "running"


def test_s1_s9_postgres_stopped_at_once_while_paused(stack: Stack) -> None:
    """Orders are refused as unavailable, nothing changes, and the pause holds until Postgres is back."""
    with Fleet(stack) as fleet:
        fleet.watch()
        fleet.start()
        fleet.wait_open()
        fleet.send_naps(40, 0.02)
        fleet.wait_started(5)
        call = fleet.pause()
        fleet.wait_drained()
        stack.postgres.stop("immediate")
        with pytest.raises(Unavailable):
            fleet.client.resume(reason="no truth, no order", force=True)
        fleet.stays_still(for_s=1.5)
        stack.postgres.start()
        until("it answers again", lambda: _is_ready(stack.url), within_s=20, every_s=0.05)
        state = fleet.client.read().body.system
        assert (state.epoch, state.version) == call.edition
        assert state.workers_paused
        fleet.resume()
        fleet.wait_done()
        verdict = fleet.check()
    assert verdict.broken == {}
