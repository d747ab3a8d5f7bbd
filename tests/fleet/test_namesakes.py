"""Two workers of one nodename: both count, nothing is drained meanwhile, and everybody is told."""

from __future__ import annotations

import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

from sluicegate.control.process.stack import Stack
from tests.fleet.harness import Fleet
from tests.fleet.test_drain_receipt import counts_of, hold, receipt_of
from tests.fleet.waiting import stays, until


def test_l4_a_rolling_deploy_under_one_nodename_is_not_drained_before_the_old_worker_has_finished(
    stack: Stack, tmp_path: Path
) -> None:
    """The old one ends its task while the new one is up: `--wait` waits for it, and the receipt calls it finished."""
    go = tmp_path / "go"
    with Fleet(stack) as fleet:
        fleet.watch()
        old = fleet.start(slots=1)
        fleet.wait_open()
        fleet.send("ending", str(go), "finish")
        fleet.wait_started(1)
        until("its heartbeat tells of the task", lambda: fleet.words("w1")[0].running == 1)
        old.send(signal.SIGTERM)
        new = fleet.start("next", as_name="w1", slots=1)
        scope, version = hold(fleet, "drain")
        waiting = _wait_for(fleet, scope)
        try:
            until("the clash is said", lambda: _namesakes(fleet, old.nodename) == {2})
            stays("it is not drained", lambda: not fleet.client.read(scope).body.metrics.is_drained, for_s=6)
            assert not receipt_of(fleet, version)
            assert fleet.client.read(scope).body.metrics.running == 1
            told = fleet.client.preview(scope).body.warnings
            shown = fleet.run([sys.executable, "-m", "sluicegate.control.cli", "status"]).stdout
            assert waiting.poll() is None
            go.touch()
            made = until("the receipt is on record", partial(receipt_of, fleet, version))
            output, _ = waiting.communicate(timeout=30)
        finally:
            go.touch()
            waiting.kill()
            fleet.client.resume(reason="test", scope=scope, force=True)
        logs = old.log.read_text(), new.log.read_text()
    assert (waiting.returncode, counts_of(made)) == (0, {"finished": 1}), output
    assert any(old.nodename in line and "2 workers" in line for line in told), told
    assert f"{old.nodename} is the name of 2 workers" in shown, shown
    assert all("another worker of this nodename" in log for log in logs)


def test_l4_a_worker_that_was_killed_and_restarted_is_no_clash_and_what_it_ran_is_lost(
    stack: Stack, tmp_path: Path
) -> None:
    """Its old life counts until its lease is over, since until then nobody can know; and not a moment as a namesake."""
    with Fleet(stack) as fleet:
        fleet.watch()
        worker = fleet.start(slots=1)
        fleet.wait_open()
        fleet.send("ending", str(tmp_path / "go"), "finish")
        fleet.wait_started(1)
        until("its heartbeat tells of the task", lambda: fleet.words("w1")[0].running == 1)
        scope, version = hold(fleet, "drain")
        try:
            worker.kill()
            fleet.restart()
            seen = set[int]()

            def has_come() -> bool:
                seen.update(_namesakes(fleet, worker.nodename))
                return bool(receipt_of(fleet, version))

            until("the receipt is on record", has_come)
            made = receipt_of(fleet, version)
            lives = [one for one in fleet.client.workers().body.workers if one.nodename == worker.nodename]
        finally:
            fleet.client.resume(reason="test", scope=scope, force=True)
        log = worker.log.read_text()
    assert counts_of(made) == {"lost": 1}
    assert (len(lives), seen) == (1, {1})
    assert "another worker of this nodename" not in log


def _namesakes(fleet: Fleet, nodename: str) -> set[int]:
    """How many workers each of this nodename says that there are, itself included."""
    return {1 + one.namesakes for one in fleet.client.workers().body.workers if one.nodename == nodename}


def _wait_for(fleet: Fleet, scope: str) -> subprocess.Popen[str]:
    """An operator who places the same hold again, and waits for it."""
    command = [sys.executable, "-m", "sluicegate.control.cli", "pause", "--scope", scope, "--reason", "test", "--wait"]
    return fleet.popen(command)
