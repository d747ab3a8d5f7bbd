"""Real workers that hold themselves, on record: whatever dies meanwhile, no hold is lost, doubled or left behind."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from sluicegate.control.process.stack import Stack
from sluicegate.schemas import settings
from sluicegate.schemas.api.audit import EventBody
from sluicegate.schemas.api.holds import HoldBody
from sluicegate.schemas.errors import Refused
from tests.fakes.nvml import FakeNvml, built
from tests.fleet.harness import Fleet, Worker
from tests.fleet.waiting import stays, until

RULES = '[rules."gpu.lost"]\nrelease_after_s = {}\n'
LOST, WELL = {"error": 15}, {"error": None}


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built(tmp_path_factory.mktemp("nvml"))


@pytest.fixture
def nvml(library: Path, tmp_path: Path) -> FakeNvml:
    return FakeNvml(library, tmp_path)


@pytest.fixture
def environ(nvml: FakeNvml, tmp_path: Path) -> Callable[[float], dict[str, str]]:
    rules = tmp_path / "health.toml"

    def made(release_after_s: float = 1) -> dict[str, str]:
        rules.write_text(RULES.format(release_after_s))
        return {
            **nvml.environ,
            settings.PROBE.name: "auto",
            "SLUICEGATE_PROBE_INTERVAL_MS": "200",
            "SLUICEGATE_HEALTH_FILE": str(rules),
        }

    return made


def _has_started(fleet: Fleet, count: int) -> bool:
    return len(fleet.started()) == count


def _is_forgotten(fleet: Fleet, nodename: str) -> bool:
    try:
        fleet.client.forget(nodename, reason="it was killed, and its files are lost")
    except Refused:
        return False
    return True


def recorded(fleet: Fleet, worker: Worker) -> list[HoldBody]:
    """What stands on record of its own holds."""
    holds = fleet.client.read().body.system.holds
    return [hold for hold in holds if hold.scope == f"worker:{worker.nodename}" and hold.cause == "health"]


def wait_recorded(fleet: Fleet, worker: Worker, count: int) -> None:
    until(f"{count} on record", lambda: len(recorded(fleet, worker)) == count)


def events_of(fleet: Fleet, worker: Worker) -> list[EventBody]:
    """Oldest first, without what its drains came to."""
    found = fleet.client.audit({"scope": f"worker:{worker.nodename}", "limit": 100}).body.events
    return [event for event in reversed(found) if event.action != "drain_completed"]


def actions(fleet: Fleet, worker: Worker) -> list[str]:
    return [event.action for event in events_of(fleet, worker)]


def states(fleet: Fleet) -> list[str]:
    """Of the GPUs of the fleet's workers, as `GET /api/workers` tells them."""
    told = [worker.resources for worker in fleet.client.workers().body.workers if worker.host == fleet.host]
    return [gpu.state for resources in told if resources is not None for gpu in resources.gpus]


def command(fleet: Fleet, stack: Stack, *arguments: str) -> str:
    """What `sluicegate` prints, as an operator runs it."""
    token = fleet.directory / "token"
    token.write_text(stack.environ[settings.TOKEN.name])
    token.chmod(0o600)
    where = ["--url", stack.url, "--token-file", str(token)]
    done = fleet.run([sys.executable, "-P", "-m", "sluicegate.control.cli", *arguments, *where])
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_it_is_on_record_and_shown_and_holds_beside_a_manual_hold_that_it_never_touches(
    stack: Stack, nvml: FakeNvml, environ: Callable[..., dict[str, str]]
) -> None:
    """R-G1: work starts after the last of two causes, whichever that is."""
    with Fleet(stack, environ=environ()) as fleet:
        fleet.watch()
        worker = fleet.start()
        fleet.wait_open()
        for is_manual_last in (True, False):
            before = len(fleet.started())
            nvml.say(LOST, gpu=0)
            wait_recorded(fleet, worker, 1)
            (hold,) = recorded(fleet, worker)
            assert (hold.source, hold.actor) == ("gpu.lost", f"worker:{worker.nodename}")
            assert f"{worker.nodename} holds itself (gpu.lost)" in command(fleet, stack, "workers")
            assert f"{worker.nodename} holds itself (gpu.lost)" in command(fleet, stack, "status")
            fleet.pause()
            fleet.wait_acknowledged()
            fleet.send_naps(5, 0.01)
            if is_manual_last:
                nvml.say(WELL, gpu=0)
                wait_recorded(fleet, worker, 0)
                assert [hold.cause for hold in fleet.client.read().body.system.holds] == ["manual"]
            else:
                fleet.resume()
            stays("it starts nothing", partial(_has_started, fleet, before), for_s=1.5)
            if is_manual_last:
                fleet.resume()
            else:
                nvml.say(WELL, gpu=0)
            fleet.wait_done()
        wait_recorded(fleet, worker, 0)
        assert actions(fleet, worker) == ["own_hold_placed", "own_hold_released"] * 2
        worker.stop()


def test_an_operator_clears_it_and_the_worker_starts_at_once(
    stack: Stack, nvml: FakeNvml, environ: Callable[..., dict[str, str]]
) -> None:
    """Its own rule would release it in ten minutes."""
    with Fleet(stack, environ=environ(600)) as fleet:
        fleet.watch()
        worker = fleet.start()
        fleet.wait_open()
        nvml.say(LOST, gpu=0)
        wait_recorded(fleet, worker, 1)
        nvml.say(WELL, gpu=0)
        fleet.send_naps(5, 0.01)
        # It has let go of the GPU, and looks again every ten seconds.
        until("it sees that the GPU is well", lambda: states(fleet) == ["serving"])
        stays("it starts nothing", lambda: not fleet.started(), for_s=1.0)
        said = command(fleet, stack, "health", "clear", "--worker", worker.nodename, "--reason", "GPU 0 was replaced")
        assert f"cleared gpu.lost of {worker.nodename}" in said
        fleet.wait_done()
        wait_recorded(fleet, worker, 0)
        assert actions(fleet, worker) == ["own_hold_placed", "health_cleared", "own_hold_released"]
        worker.stop()


@pytest.mark.parametrize("is_file_lost", [False, True])
def test_s1_a_worker_that_is_killed_while_it_holds_itself_starts_nothing_and_nothing_is_recorded_twice(
    stack: Stack, nvml: FakeNvml, environ: Callable[..., dict[str, str]], is_file_lost: bool
) -> None:
    """The GPU is well when it comes back: what its earlier life left holds it, until its rule has released it."""
    with Fleet(stack, environ=environ(6)) as fleet:
        fleet.watch()
        worker = fleet.start()
        fleet.wait_open()
        nvml.say(LOST, gpu=0)
        wait_recorded(fleet, worker, 1)
        (before,) = recorded(fleet, worker)
        worker.kill()
        if is_file_lost:
            shutil.rmtree(fleet.directory / "state")
        nvml.say(WELL, gpu=0)
        fleet.send_naps(5, 0.01)
        worker = fleet.restart()
        stays("it starts nothing", lambda: not fleet.started(), for_s=2.0)
        (after,) = recorded(fleet, worker)
        assert after.id == before.id
        fleet.wait_done()
        if is_file_lost:
            # Its key is lost too: nothing shows that this life took the place of the one that was killed.
            until("the life that was killed is silent", partial(_is_forgotten, fleet, worker.nodename))
        # The life that was killed counts until its lease is over.
        wait_recorded(fleet, worker, 0)
        assert actions(fleet, worker) == ["own_hold_placed", "own_hold_released"]
        worker.stop()


def test_s9_with_the_control_plane_away_it_holds_and_releases_itself_and_the_record_follows(
    stack: Stack, nvml: FakeNvml, environ: Callable[..., dict[str, str]]
) -> None:
    with Fleet(stack, environ=environ()) as fleet:
        fleet.watch()
        worker = fleet.start()
        fleet.wait_open()
        nvml.say(LOST, gpu=0)
        wait_recorded(fleet, worker, 1)
        stack.kill_control()
        fleet.send_naps(5, 0.01)
        stays("it starts nothing", lambda: not fleet.started(), for_s=1.0)
        nvml.say(WELL, gpu=0)
        fleet.wait_done()
        nvml.say(LOST, gpu=0)
        fleet.wait_state("paused")
        stack.start_control()
        # Nobody who came back has seen that it was over for a moment: it may be one hold or two, and is one on record.
        wait_recorded(fleet, worker, 1)
        nvml.say(WELL, gpu=0)
        wait_recorded(fleet, worker, 0)
        placed = [event for event in events_of(fleet, worker) if event.action == "own_hold_placed"]
        assert 1 <= len(placed) <= 2
        worker.stop()
