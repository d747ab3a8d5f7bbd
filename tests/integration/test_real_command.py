"""`sluicegate` as a real process: its exit codes, its pipes and its Ctrl-C."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from sluicegate.schemas.exits import Exit
from tests.unit import answers
from tests.unit.stub import Stub, stub

SYSTEM = "/api/system/worker-pause"
PAUSE = ("pause", "--reason", "deploying")


@pytest.fixture
def control() -> Iterator[Stub]:
    with stub() as prepared:
        prepared.answer(f"GET {SYSTEM}", answers.state())
        prepared.answer(f"POST {SYSTEM}", answers.change())
        prepared.answer("GET /api/workers", {"workers": [answers.worker()]})
        yield prepared


def run(*args: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """The command as a real process."""
    command = [sys.executable, "-m", "sluicegate.control.cli", *args]
    path = {"PYTHONPATH": ":".join(filter(None, sys.path))}
    return subprocess.run(command, env=path | environ, capture_output=True, text=True, timeout=60)


def test_the_real_command_exits_as_its_verbs_do(control: Stub) -> None:
    settings = {"SLUICEGATE_URL": control.url, "SLUICEGATE_TOKEN": answers.TOKEN}
    assert run("status", **settings).returncode == Exit.OK
    assert run("--help").returncode == Exit.OK
    assert run("--version").stdout.startswith("sluicegate ")
    assert run().returncode == Exit.USAGE
    assert run("pause", **settings).returncode == Exit.USAGE
    control.answer(f"POST {SYSTEM}", answers.change(published=False))
    assert run(*PAUSE, **settings).returncode == Exit.NOT_PUBLISHED


def test_a_reader_that_has_read_enough_is_no_failure(control: Stub) -> None:
    control.answer("GET /api/audit", {"events": [answers.event()] * 1000, "total": 1000, "limit": 1000, "offset": 0})
    environ = {
        "SLUICEGATE_URL": control.url,
        "SLUICEGATE_TOKEN": answers.TOKEN,
        "PYTHONPATH": ":".join(filter(None, sys.path)),
    }
    command = f"{sys.executable} -m sluicegate.control.cli audit | head -1"
    end = subprocess.run(command, shell=True, env=dict(os.environ) | environ, capture_output=True, text=True)
    assert end.stdout.startswith("ID")
    assert end.stderr == ""


def test_a_real_ctrl_c_during_a_real_wait_is_130(control: Stub) -> None:
    control.answer("GET /api/workers", {"workers": [answers.worker(running=[answers.task()])]})
    control.answer(f"GET {SYSTEM}", answers.state(running=1, isDrained=False))
    environ = {
        "SLUICEGATE_URL": control.url,
        "SLUICEGATE_TOKEN": answers.TOKEN,
        "PYTHONPATH": ":".join(filter(None, sys.path)),
        "PYTHONUNBUFFERED": "1",
    }
    command = [sys.executable, "-m", "sluicegate.control.cli", *PAUSE, "--wait"]
    with subprocess.Popen(command, env=environ, stdout=-1, stderr=-1, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("PAUSED")
        assert process.stdout.readline().startswith("draining")
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=30)
    assert process.returncode == 130
    assert stderr.startswith("sluicegate: interrupted: the pause stands (version 7)")
    assert stderr.count("\n") == 1
