"""The control plane or its database dies: what was ordered stands, and what was paused stays paused."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest

from sluicegate.control.embedded.process import ServerProcess
from sluicegate.control.process.stack import Stack
from sluicegate.schemas.errors import Unavailable
from sluicegate.schemas.settings import REPUBLISH_INTERVAL_MS
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
