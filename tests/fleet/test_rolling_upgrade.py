"""The recipe of docs/upgrades.md, run as it stands against real workers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sluicegate.control.process.stack import Stack
from tests.fleet.harness import Fleet
from tests.fleet.waiting import until

ITEMS = 60
RECIPE = Path(__file__).parents[2] / "docs" / "recipes" / "rolling-upgrade.sh"


def run(stack: Stack, fleet: Fleet, *arguments: str, **more: str) -> subprocess.Popen[str]:
    environ = {
        **os.environ,
        **stack.environ,
        "SLUICEGATE_URL": stack.url,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "SCOPE": f"queue:{fleet.queue}",
        "RAMP": "2/s",
        **more,
    }
    command = ["sh", str(RECIPE), *arguments]
    return subprocess.Popen(command, env=environ, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


@pytest.mark.long
@pytest.mark.timeout(200)
def test_s5_s6_workers_are_restarted_behind_a_pause_and_nothing_is_lost(stack: Stack, tmp_path: Path) -> None:
    """Tasks run all the time; each of two workers has another incarnation afterwards, and every item is done once.

    A worker of another queue that dies meanwhile is not waited for.
    """
    go, back = tmp_path / "go", tmp_path / "back"
    with Fleet(stack, acks_late=True, prefetch=1) as fleet, Fleet(stack) as other:
        other.watch()
        other.start()
        other.wait_open()
        fleet.watch()
        for name in ("w1", "w2"):
            fleet.start(name, wait=False)
        fleet.wait_ready()
        fleet.wait_open()
        old = {word.incarnation for word in fleet.words()}
        tasks = {fleet.send("steps_wait" if number % 2 else "steps_yield", ITEMS, 0.1) for number in range(8)}
        until("they are at work", lambda: len(fleet.items()) > 20)
        restart = f"touch {go}; while [ ! -e {back} ]; do sleep 0.05; done"
        upgrade = run(stack, fleet, "deploying 4.2", "sh", "-c", restart)
        until("it is paused", lambda: go.exists() or upgrade.poll() is not None, within_s=60)
        before = len(fleet.items())
        other.workers["w1"].kill()
        for name in ("w1", "w2"):
            fleet.workers[name].stop()
            fleet.restart(name, wait=False)
        back.touch()
        output, _ = upgrade.communicate(timeout=90)
        until("all is done", lambda: fleet.ended() == tasks, within_s=60)
        new = {word.incarnation for word in fleet.words()}
        done = sorted((item.seq, item.item) for item in fleet.items())
    assert upgrade.returncode == 0, output
    assert "REOPENING" in output
    assert not old & new
    assert before < 8 * ITEMS
    assert done == sorted((seq, item) for seq in tasks for item in range(ITEMS)), "each item once"


def test_a_restart_that_fails_leaves_the_pause_and_its_own_exit_code(stack: Stack) -> None:
    with Fleet(stack) as fleet:
        fleet.watch()
        fleet.start()
        fleet.wait_open()
        upgrade = run(stack, fleet, "deploying 4.2", "sh", "-c", "exit 9")
        output, _ = upgrade.communicate(timeout=60)
        held = [hold.scope for hold in fleet.client.read().body.system.holds]
        fleet.client.resume(reason="test", scope=f"queue:{fleet.queue}", force=True)
        usage = run(stack, fleet, "only a reason")
        told, _ = usage.communicate(timeout=10)
    assert (upgrade.returncode, f"queue:{fleet.queue}" in held) == (9, True)
    assert output.splitlines()[-1].startswith(
        "rolling-upgrade: the restart failed. The pause stands: sluicegate resume"
    )
    assert usage.returncode == 2
    assert "COMMAND restarts the workers" in told
