"""The plugin's own settings, as a worker meets them when it starts."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from sluicegate.control.embedded import EmbeddedValkey
from sluicegate.control.process.stack import Stack
from tests.fleet import app as fleet_app
from tests.fleet.harness import Fleet
from tests.marks import long


def test_r_b9_switched_off_the_plugin_is_inert_and_the_hold_stays_visible(stack: Stack) -> None:
    with Fleet(stack, environ={"SLUICEGATE_ENABLED": "false"}) as fleet:
        fleet.pause("for the others")
        fleet.send_naps(20, 0.001)
        fleet.start()
        fleet.wait_done()
        assert fleet.client.read().body.system.workers_paused
        assert not fleet.words()
        stats = fleet.sender.control.inspect(timeout=3).stats() or {}
    assert [name for answer in stats.values() for name in answer if "sluicegate" in name] == []
    assert len(stats) == 1


def test_inspect_stats_shows_the_gate(stack: Stack) -> None:
    with Fleet(stack) as fleet:
        fleet.watch()
        worker = fleet.start()
        fleet.wait_open()
        fleet.pause("look at it")
        fleet.wait_acknowledged()
        stats: dict[str, Any] = fleet.sender.control.inspect([worker.nodename], timeout=3).stats() or {}
    shown = stats[worker.nodename]["sluicegate"]
    assert shown["state"] == "paused"
    assert shown["appliedVersion"] == fleet.calls[-1].edition[1]


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("SLUICEGATE_PUBLIC_KEYS", ""),
        long("SLUICEGATE_REDIS_URL", ""),
        long("SLUICEGATE_PUBLIC_KEYS", "not a key"),
        ("SLUICEGATE_PAUSE_POLL_INTERVAL_MS", "soon"),
        long("SLUICEGATE_ENABLED", "maybe"),
        long("SLUICEGATE_NAMESPACE", "a b"),
    ],
)
def test_a_setting_that_is_missing_or_wrong_is_named_in_one_line_and_nothing_starts(
    stack: Stack, setting: str, value: str
) -> None:
    """S4: a worker that cannot know what is ordered does not start."""
    with Fleet(stack, environ={setting: value}) as fleet:
        fleet.send_naps(3, 0.001)
        command = [sys.executable, "-m", "celery", "-A", fleet_app.MODULE, "worker", "-P", "prefork", "-c", "1"]
        ended = fleet.run([*command, "-n", "w1@refused", "-Q", fleet.queue])
        assert ended.returncode == 2
        lines = [line for line in ended.stderr.splitlines() if setting in line]
        assert len(lines) == 1
        assert lines[0].startswith("sluicegate: ")
        assert "Traceback" not in ended.stderr
        fleet.stays_still(for_s=0.1)
        assert len(fleet.contents().queued) == 3


@pytest.mark.parametrize(
    ("variable", "named"), [("SLUICEGATE_REDIS_URL", "SLUICEGATE_REDIS_URL"), (fleet_app.BROKER, "broker_url")]
)
def test_a_redis_cluster_is_refused_in_one_line(stack: Stack, tmp_path: Path, variable: str, named: str) -> None:
    """For the state as for the broker: scripts and BRPOP reach over several keys, which a cluster puts anywhere."""
    with EmbeddedValkey(tmp_path / "node", options=["--cluster-enabled", "yes"]) as node, Fleet(stack) as fleet:
        command = [sys.executable, "-m", "celery", "-A", fleet_app.MODULE, "worker", "-P", "solo", "-n", "w1@refused"]
        ended = fleet.run(["env", f"{variable}={node.url}", *command])
    assert ended.returncode == 2
    (line,) = [line for line in ended.stderr.splitlines() if "Redis Cluster" in line]
    assert line.startswith(f"sluicegate: {named}: ")
    assert "Traceback" not in ended.stderr


def test_an_app_that_only_sends_needs_no_setting(stack: Stack) -> None:
    code = (
        "from celery import Celery; import sluicegate; "
        "app = Celery('sender', broker='memory://'); sluicegate.install(app); "
        "app.send_task('anything'); print('sent')"
    )
    with Fleet(stack, environ={"SLUICEGATE_REDIS_URL": "", "SLUICEGATE_PUBLIC_KEYS": ""}) as fleet:
        ended = fleet.run([sys.executable, "-c", code])
    assert ended.stdout == "sent\n"
