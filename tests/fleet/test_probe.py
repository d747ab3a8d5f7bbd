"""Real workers with probes: what they read is seen, a fault is seen at once, and nothing of it touches their tasks."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from sluicegate.control.process.stack import Stack
from sluicegate.schemas.beats import WorkerState
from tests.fakes.nvml import GIB, FakeNvml, built
from tests.fleet.harness import Fleet
from tests.fleet.waiting import until

PROBED = {"SLUICEGATE_PROBE": "auto", "SLUICEGATE_PROBE_INTERVAL_MS": "500", "SLUICEGATE_PROBE_TIMEOUT_MS": "1000"}


@pytest.fixture
def nvml(tmp_path: Path) -> FakeNvml:
    (tmp_path / "lib").mkdir()
    return FakeNvml(built(tmp_path / "lib"), tmp_path, gpus=2)


@pytest.fixture
def fleet(stack: Stack, nvml: FakeNvml, tmp_path: Path) -> Iterator[Fleet]:
    runtime = {"SLUICEGATE_RUNTIME_DIR": str(tmp_path / "run")}
    with Fleet(stack, environ=PROBED | runtime | nvml.environ) as fleet:
        yield fleet


def worker_of(fleet: Fleet, name: str) -> dict[str, Any]:
    answer = fleet.client.workers().raw
    return next((one for one in answer["workers"] if one["nodename"] == fleet.workers[name].nodename), {})


def resources_of(fleet: Fleet, name: str = "w1") -> dict[str, Any]:
    return worker_of(fleet, name).get("resources") or {}


def gpus_of(fleet: Fleet, name: str = "w1") -> list[dict[str, Any]]:
    return list(resources_of(fleet, name).get("gpus", ()))


def probe_of(fleet: Fleet, name: str = "w1") -> psutil.Process:
    worker = psutil.Process(fleet.workers[name].pid)
    (probe,) = (one for one in worker.children() if "sluicegate.workers.probes.child" in one.cmdline())
    return probe


def test_what_a_probe_reads_is_seen_by_every_way_and_a_fault_at_once(
    fleet: Fleet, nvml: FakeNvml, stack: Stack
) -> None:
    fleet.start(environ={"CUDA_VISIBLE_DEVICES": nvml.uuid(1)})
    (gpu,) = until("its GPU is seen", lambda: gpus_of(fleet))
    assert (gpu["uuid"], gpu["state"], gpu["memoryFreeBytes"]) == (nvml.uuid(1), "serving", 23 * GIB)
    assert gpu["slowdownMarginCelsius"] is None
    assert resources_of(fleet)["host"]["memoryTotalBytes"] > 0

    command = [sys.executable, "-m", "sluicegate.control.cli", "workers"]
    shown = subprocess.run(
        command, env={**os.environ, **stack.environ}, capture_output=True, text=True, timeout=60
    ).stdout
    assert "23.0 of 24.0 GiB" in shown
    assert "GPU 1" in shown

    stats: Any
    # A connection of its own: those that tests before this one left in the pool may be broken.
    with fleet.sender.connection_for_write() as connection:
        (stats,) = (fleet.sender.control.inspect(timeout=3, connection=connection).stats() or {}).values()
    assert stats["sluicegate"]["resources"]["gpus"][0]["uuid"] == nvml.uuid(1)

    nvml.xid(79, gpu=1)
    until("the fault is seen", lambda: [xid["code"] for xid in gpus_of(fleet)[0]["xids"]] == [79])
    nvml.say({"free": GIB}, gpu=1)
    until("what is free is seen", lambda: gpus_of(fleet)[0]["memoryFreeBytes"] == GIB)
    nvml.say({"error": 15}, gpu=1)
    lost = until("it is seen as lost", lambda: [one for one in gpus_of(fleet) if one["state"] == "lost"])
    assert lost[0]["memoryFreeBytes"] is None


def test_a_driver_that_hangs_delays_no_task_and_no_heartbeat_and_no_pool_child_calls_it(
    fleet: Fleet, nvml: FakeNvml
) -> None:
    """The worker of that device holds itself; the one of the other device does all the work."""
    for name, gpu in (("w1", 0), ("w2", 1)):
        fleet.start(name, environ={"CUDA_VISIBLE_DEVICES": nvml.uuid(gpu)})
    until("their GPUs are seen", lambda: gpus_of(fleet, "w1") and gpus_of(fleet, "w2"))
    probes = [probe_of(fleet, name) for name in ("w1", "w2")]
    nvml.say({"hang.nvmlDeviceGetTemperature": "0"})
    until("it is seen as hung", lambda: gpus_of(fleet, "w1")[0]["state"] == "unresponsive")
    fleet.send_naps(20, 0.01)
    fleet.wait_done()
    assert gpus_of(fleet, "w2")[0]["state"] == "serving"
    assert worker_of(fleet, "w1")["state"] != WorkerState.UNKNOWN
    assert [probe_of(fleet, name) for name in ("w1", "w2")] == probes
    assert {pid for pid, _ in nvml.calls()} == {probe.pid for probe in probes}
    nvml.say({"hang.nvmlDeviceGetTemperature": None})
    until("it serves again", lambda: gpus_of(fleet, "w1")[0]["state"] == "serving")


def test_a_worker_that_is_killed_takes_its_probe_along_and_one_that_stops_too(fleet: Fleet, nvml: FakeNvml) -> None:
    fleet.start("w1")
    fleet.start("w2")
    until("both are seen", lambda: gpus_of(fleet, "w1") and gpus_of(fleet, "w2"))
    probes = [probe_of(fleet, name) for name in ("w1", "w2")]
    os.kill(fleet.workers["w1"].pid, signal.SIGKILL)
    fleet.workers["w2"].stop()
    until("no probe is left", lambda: not any(probe.is_running() for probe in probes))
