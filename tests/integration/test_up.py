"""`sluicegate up` as a real process: what it leaves behind, and what it finds again."""

from __future__ import annotations

import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from sluicegate.control.embedded import process as process_module
from sluicegate.control.process.stack import Stack
from sluicegate.schemas.exits import Exit

UP_WITHIN_S = 90.0


def environ(state_dir: Path) -> dict[str, str]:
    ours = {name: value for name, value in os.environ.items() if not name.startswith("SLUICEGATE_")}
    return ours | {
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        "SLUICEGATE_STATE_DIR": str(state_dir),
        "PYTHONUNBUFFERED": "1",
    }


@contextmanager
def up(state_dir: Path, *before: str) -> Iterator[subprocess.Popen[str]]:
    """A running `sluicegate up`; killed with what it started where the test has not. `before` runs the command."""
    (state_dir / "env").unlink(missing_ok=True)
    process = subprocess.Popen(
        [*before, sys.executable, "-m", "sluicegate.control.cli", "up", "--actor", "alice"],
        env=environ(state_dir),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        give_up = time.monotonic() + UP_WITHIN_S
        while not (state_dir / "env").exists():
            assert process.poll() is None, process.communicate()[0]
            assert time.monotonic() < give_up, "not up in time"
            time.sleep(0.02)
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def beside(state_dir: Path, command: str) -> subprocess.CompletedProcess[str]:
    """A command in another shell that knows nothing but the env file."""
    script = f'. "$1"; exec "$2" -m sluicegate.control.cli {command}'
    env = {"PATH": os.defpath, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    return subprocess.run(
        ["/bin/sh", "-eu", "-c", script, "sh", str(state_dir / "env"), sys.executable],
        env=env,
        cwd="/",
        capture_output=True,
        text=True,
        timeout=60,
    )


def children(process: subprocess.Popen[str]) -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


def gone(processes: list[psutil.Process]) -> bool:
    _, alive = psutil.wait_procs(processes, timeout=20)
    return not [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]


@pytest.fixture
def state_dir(tmp_path: Path) -> Path:
    # A name that a careless shell line would break on.
    return tmp_path / "it's a state"


@pytest.mark.timeout(300)
@pytest.mark.long
def test_up_keeps_what_was_held_over_a_stop_and_over_a_kill(state_dir: Path) -> None:
    with up(state_dir) as process:
        started = children(process)
        assert len(started) >= 3
        assert beside(state_dir, 'pause --reason "kept over a restart"').returncode == Exit.OK
        first = (state_dir / "env").read_text()
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=60)
        assert process.returncode == 0, output
        assert gone(started)
    token = re.search(r"SLUICEGATE_TOKEN='?(sg_[\w-]+)", first)
    assert token is not None
    for log in state_dir.glob("*.log"):
        assert token[1] not in log.read_text(errors="replace")
    assert token[1] not in output

    with up(state_dir) as process:
        # The same key, token and, where nobody has taken them meanwhile, the same ports.
        assert (state_dir / "env").read_text().count("\n") == first.count("\n")
        assert token[1] in (state_dir / "env").read_text()
        shown = beside(state_dir, "status")
        assert shown.stdout.startswith("PAUSED drain — version 2 — by alice")
        assert "kept over a restart" in shown.stdout

        started = children(process)
        process.kill()
        process.wait()
        assert gone(started), "a child outlived its parent"

    with up(state_dir) as process:
        assert "kept over a restart" in beside(state_dir, "status").stdout
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0


NAMELESS = ("unshare", "--user", "--map-user=54321", "--map-group=54321")
"""Runs a command as a user that /etc/passwd does not know, as containers do; its files stay this user's."""


@pytest.mark.timeout(300)
def test_up_serves_a_user_without_a_name(state_dir: Path) -> None:
    """The first start makes a database, which is what wanted a name; the second finds it."""
    if shutil.which("unshare") is None or subprocess.run([*NAMELESS, "true"], capture_output=True).returncode:
        pytest.skip("this machine lets nobody make a user namespace")
    for _ in range(2):
        with up(state_dir, *NAMELESS) as process:
            assert beside(state_dir, "status").returncode == Exit.OK
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0


@pytest.mark.timeout(300)
def test_a_busy_machine_is_waited_for(state_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that runs twenty times as fast, all takes twenty times as long."""
    fast = SimpleNamespace(monotonic=lambda: 20 * time.monotonic(), sleep=time.sleep)
    monkeypatch.setattr(process_module, "time", fast)
    with Stack(state_dir, durable=False) as stack:
        assert stack.lost_part() is None


@pytest.mark.timeout(300)
def test_the_stack_is_private_and_alone_and_its_control_plane_can_die(state_dir: Path) -> None:
    with Stack(state_dir, durable=False, actor="alice") as stack:
        for name in ("env", "control.env", "database.env", "owner.json", "signing.key", "ports.json"):
            assert stat.S_IMODE((state_dir / name).stat().st_mode) == 0o600, name
        assert stat.S_IMODE(state_dir.stat().st_mode) == 0o700
        exported = re.findall(r"^export (\w+)=", (state_dir / "env").read_text(), re.MULTILINE)
        assert set(exported) == set(stack.environ)
        assert {
            "SLUICEGATE_REDIS_URL",
            "SLUICEGATE_BROKER_URL",
            "SLUICEGATE_PUBLIC_KEYS",
            "SLUICEGATE_URL",
            "SLUICEGATE_TOKEN",
            "SLUICEGATE_NAMESPACE",
            "SLUICEGATE_STATE_DIR",
        } <= set(exported)
        assert stack.environ["SLUICEGATE_REDIS_URL"] != stack.environ["SLUICEGATE_BROKER_URL"]

        second = subprocess.run(
            [sys.executable, "-m", "sluicegate.control.cli", "up"],
            env=environ(state_dir),
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert second.returncode == Exit.REFUSED
        assert second.stderr.startswith("sluicegate: another `sluicegate up` runs on ")
        assert second.stderr.count("\n") == 1

        # The environment, where everything of one user can read it, is the only place that has the token.
        for process in psutil.Process().children(recursive=True):
            assert stack.environ["SLUICEGATE_TOKEN"] not in " ".join(process.cmdline())

        before = stack.control_pid
        stack.kill_control()
        assert stack.lost_part() == "the control plane"
        assert beside(state_dir, "status").returncode == Exit.UNREACHABLE
        stack.start_control()
        assert stack.control_pid != before
        assert stack.lost_part() is None
        assert beside(state_dir, "status").returncode == Exit.OK
        stack.stop_control()
        assert stack.lost_part() == "the control plane"
