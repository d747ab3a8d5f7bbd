"""Workers that run and that no heartbeat tells of: a pause does not reach them, and is not called drained."""

from __future__ import annotations

import subprocess
import sys

import pytest

from sluicegate.control.process.stack import Stack
from tests.fleet.harness import Fleet
from tests.fleet.waiting import until

PAUSE = [sys.executable, "-m", "sluicegate.control.cli", "pause", "--reason", "deploy", "--wait", "--timeout", "30s"]


def _pause(fleet: Fleet, *more: str) -> subprocess.CompletedProcess[str]:
    """Of this fleet's queue alone: what tests before this one left behind is none of its business."""
    return fleet.run([*PAUSE, "--scope", f"queue:{fleet.queue}", *more])


def _warns(order: subprocess.CompletedProcess[str], text: str) -> bool:
    """Its answer waits a second for what the fleet is like; a busy machine may take longer, and it says so."""
    return f"warning: {text}" in order.stdout or "warning: how far the fleet" in order.stdout


def _strangers(fleet: Fleet) -> list[str]:
    return fleet.client.read(f"queue:{fleet.queue}").body.metrics.strangers


def _wait_answered(fleet: Fleet, *nodenames: str) -> None:
    """Return once the control plane has heard by Celery's broker of these, which send it no heartbeat."""
    until(
        f"{nodenames} have answered",
        lambda: set(nodenames) <= set(_strangers(fleet)),
        within_s=60,
        every_s=0.1,
    )


@pytest.mark.timeout(200)
def test_l4_a_fleet_of_another_namespace_is_not_called_drained(stack: Stack) -> None:
    """Every setting is right but one: the control plane hears nobody, and its pause reaches nobody."""
    with Fleet(stack) as fleet:
        fleet.start(environ={"SLUICEGATE_NAMESPACE": "elsewhere"})
        nobody = _pause(fleet)
        assert nobody.returncode == 10, nobody.stdout + nobody.stderr
        assert "no worker is there that could have acknowledged it" in nobody.stdout
        assert _warns(nobody, "no worker is ")
        allowed = _pause(fleet, "--allow-empty")
        assert allowed.returncode == 0, allowed.stdout + allowed.stderr
        fleet.client.resume(reason="the test is over", scope=f"queue:{fleet.queue}", force=True)


@pytest.mark.timeout(200)
def test_l4_plain_celery_beside_a_paused_worker_is_told_of_and_nothing_is_called_drained(stack: Stack) -> None:
    """Without the plugin, or unable to send a heartbeat: for the control plane it is the same."""
    with Fleet(stack) as fleet:
        fleet.watch()
        fleet.start()
        fleet.wait_open()
        mute = fleet.start("w2", environ={"SLUICEGATE_ENABLED": "false"})
        _wait_answered(fleet, mute.nodename)
        fleet.send_naps(20, 0.01)
        paused = _pause(fleet)
        assert paused.returncode == 10, paused.stdout + paused.stderr
        assert f"{mute.nodename} may start what it likes" in paused.stdout
        assert _warns(paused, f"{mute.nodename} consumes here")
        mute.stop()
        until("it is not told of any more", lambda: not _strangers(fleet), every_s=0.2)
        assert _pause(fleet).returncode == 0
        fleet.client.resume(reason="the test is over", scope=f"queue:{fleet.queue}", force=True)
