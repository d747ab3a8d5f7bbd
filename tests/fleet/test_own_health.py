"""Real workers whose GPUs fare ill, on the real path to NVML: they hold themselves, let go, and come back."""

from __future__ import annotations

import os
from pathlib import Path

import psutil
import pytest

from sluicegate.control.process.stack import Stack
from tests.fakes.nvml import GIB, FakeNvml, built
from tests.fleet.harness import Fleet, Worker
from tests.fleet.test_idle import children
from tests.fleet.waiting import stays, until
from tests.marks import long

FAST = {
    "SLUICEGATE_PROBE": "auto",
    "SLUICEGATE_PROBE_INTERVAL_MS": "200",
}
RULES = """
[rules."capacity.gpu_memory"]
release_after_s = 2
[rules."gpu.lost"]
release_after_s = 2
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built(tmp_path_factory.mktemp("nvml"))


@pytest.fixture
def nvml(library: Path, tmp_path: Path) -> FakeNvml:
    return FakeNvml(library, tmp_path)


@pytest.fixture
def environ(nvml: FakeNvml, tmp_path: Path) -> dict[str, str]:
    rules = tmp_path / "health.toml"
    rules.write_text(RULES)
    return {**FAST, **nvml.environ, "SLUICEGATE_HEALTH_FILE": str(rules)}


def log_of(worker: Worker) -> str:
    return worker.log.read_text(errors="replace")


def has_open(worker: Worker, device: Path) -> list[int]:
    """Which processes of the worker have the GPU open."""
    found = []
    for process in [psutil.Process(worker.pid), *psutil.Process(worker.pid).children(recursive=True)]:
        try:
            if any(os.path.samefile(opened.path, device) for opened in process.open_files()):
                found.append(process.pid)
        except (psutil.NoSuchProcess, FileNotFoundError):
            continue
    return found


def test_s1_s5_s6_a_gpu_that_a_stranger_fills_holds_its_worker_which_comes_back_by_itself(
    stack: Stack, nvml: FakeNvml, environ: dict[str, str]
) -> None:
    with Fleet(stack, environ=environ) as fleet:
        fleet.watch()
        worker = fleet.start()
        fleet.wait_open()
        with fleet.fed(0.02):
            fleet.wait_more_started(20)
            nvml.say({"free": 1 * GIB}, gpu=0)
            until("it holds itself", lambda: "holds itself (capacity.gpu_memory" in log_of(worker))
            until("nothing runs", lambda: not fleet.running())
            stays("it starts nothing", lambda: not fleet.running(), for_s=3.0)
            assert "GPU 0: 1.0 of 24.0 GiB free (4.1 % < 20 %); resumes above 25 %" in log_of(worker)
            nvml.say({"free": 20 * GIB}, gpu=0)
            fleet.wait_more_started(20)
        fleet.wait_done()
        assert fleet.check().broken == {}


@pytest.mark.parametrize("pool", ["prefork", long("threads")])
def test_s5_a_worker_whose_gpu_is_lost_lets_go_of_it_and_comes_back_with_new_children_or_asks_to_be_restarted(
    stack: Stack, nvml: FakeNvml, environ: dict[str, str], pool: str
) -> None:
    with Fleet(stack, environ=environ, pool=pool) as fleet:
        fleet.watch()
        worker = fleet.start()
        fleet.wait_open()
        fleet.send_naps(10, 0.01)
        fleet.wait_done()
        until("the probe has the GPU open", lambda: has_open(worker, nvml.device))
        before = children(worker)
        nvml.say({"error": 15}, gpu=0)
        until("it lets go", lambda: "letting go of the GPUs" in log_of(worker))
        until("nobody has it open", lambda: not has_open(worker, nvml.device))
        if pool == "prefork":
            assert children(worker) == set()
        fleet.send_naps(10, 0.01)
        nvml.say({"error": None}, gpu=0)
        if pool == "prefork":
            fleet.wait_done()
            assert not children(worker) & before
        else:
            stays("it starts nothing", lambda: len(fleet.ended()) == 10, for_s=6.0)
            worker.stop()
            fleet.restart()
            fleet.wait_done()
        worker.stop()


def test_s5_one_that_is_restarted_sick_starts_nothing(stack: Stack, nvml: FakeNvml, environ: dict[str, str]) -> None:
    with Fleet(stack, environ=environ) as fleet:
        fleet.watch()
        worker = fleet.start()
        fleet.wait_open()
        nvml.say({"error": 15}, gpu=0)
        until("it holds itself", lambda: "holds itself (gpu.lost" in log_of(worker))
        worker.kill()
        fleet.send_naps(5, 0.01)
        fleet.restart()
        stays("it starts nothing", lambda: not fleet.started(), for_s=3.0)
        nvml.say({"error": None}, gpu=0)
        fleet.wait_done()
