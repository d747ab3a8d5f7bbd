"""A worker host that has the base install alone: it starts, obeys, and can be paused from there."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from sluicegate.control.embedded.process import ServerProcess
from sluicegate.control.process.stack import Stack
from tests.fleet.waiting import until
from tests.house.conftest import Install

APP = """
import os
from celery import Celery
import sluicegate

app = Celery("there", broker=os.environ.get("SLUICEGATE_BROKER_URL", "redis://127.0.0.1:1/0"))
sluicegate.install(app)
"""


@pytest.fixture(scope="module")
def stack(servers_dir: Path) -> Iterator[Stack]:
    with Stack(servers_dir / "base-worker", durable=False) as running:
        yield running


@pytest.fixture
def worker_host(base_install: Install) -> Install:
    (base_install.path / "there.py").write_text(APP)
    return base_install


def _start(host: Install, environ: dict[str, str], log: Path, *options: str) -> ServerProcess:
    celery = [str(host.path / "bin" / "python"), "-m", "celery", "--workdir", str(host.path), "-A", "there"]
    worker = [*celery, "worker", "-c", "1", "-n", "w1@base", "-l", "INFO", *options]
    return ServerProcess(worker, log, signal.SIGKILL, environ={"PATH": os.defpath, "HOME": str(host.path), **environ})


@pytest.mark.timeout(180)
def test_a_base_install_starts_a_worker_and_pauses_it_with_celery_s_own_command(
    worker_host: Install, stack: Stack, tmp_path: Path
) -> None:
    environ = {**stack.environ, "SLUICEGATE_STATE_DIR": str(tmp_path)}
    process = _start(worker_host, environ, tmp_path / "log")
    try:
        until("the worker has opened", lambda: "running at version" in process.output, within_s=60)
        run = worker_host.run("celery", "-A", "there", "pause", "--reason", "upgrade", "--wait", "--json", **environ)
        assert run.returncode == 0, run.stderr
        until("the worker says so", lambda: "paused (drain)" in process.output)
        stats = worker_host.run("celery", "-A", "there", "inspect", "stats", "--json", **environ)
        (answer,) = json.loads(stats.stdout).values()
        assert answer["sluicegate"]["state"] == "paused"
        run = worker_host.run("celery", "-A", "there", "resume", "--reason", "done", **environ)
        assert run.returncode == 0, run.stderr
        until("the worker goes on", lambda: "resumed at version" in process.output)
    finally:
        process.stop(signal.SIGTERM)
    assert "Traceback" not in process.output


def test_without_settings_a_worker_says_which_one_is_missing_and_does_not_start(
    worker_host: Install, tmp_path: Path
) -> None:
    run = worker_host.run("celery", "-A", "there", "worker", "-c", "1")
    assert run.returncode == 2
    assert "\nsluicegate: SLUICEGATE_REDIS_URL: is not set" in "\n" + run.stderr
    assert "Traceback" not in run.stderr


def test_switched_off_a_worker_is_vanilla_celery_and_needs_no_settings(
    worker_host: Install, stack: Stack, tmp_path: Path
) -> None:
    """R-B9: no gate, no threads, no settings, nothing in its statistics."""
    broker = {"SLUICEGATE_BROKER_URL": stack.environ["SLUICEGATE_BROKER_URL"], "SLUICEGATE_ENABLED": "false"}
    process = _start(worker_host, broker, tmp_path / "log", "-Q", "elsewhere")
    try:
        until("the worker is ready", lambda: "w1@base ready" in process.output, within_s=60)
        stats = worker_host.run("celery", "-A", "there", "inspect", "stats", "--json", **broker)
        (answer,) = json.loads(stats.stdout).values()
        assert "sluicegate" not in answer
    finally:
        process.stop(signal.SIGTERM)
    assert "sluicegate" not in process.output
