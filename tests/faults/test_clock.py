"""Wall clocks that are two hours off, or jump by as much: a worker's, the control plane's, an operator's, Valkey's.

Nothing of a pause is judged by them: editions and beats are counted, spells are measured with monotonic clocks, holds
expire by Postgres's clock, and leases run by the clock of the Redis that carries the heartbeats.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from functools import partial
from pathlib import Path

import httpx
import pytest

from sluicegate.control.embedded import valkey
from sluicegate.control.process.stack import Stack
from sluicegate.schemas.times import to_wire
from tests.faults.account import is_drained, seen
from tests.faults.clock import TWO_HOURS_S, WallClock, put_right
from tests.fleet.checker import check
from tests.fleet.harness import Fleet
from tests.fleet.waiting import until
from tests.marks import long

VISIBILITY_S = 8 * 3600
"""Longer than clocks differ: with less, Celery itself gives out again what the other worker has in hand."""


@pytest.mark.parametrize("ahead_s", [TWO_HOURS_S, -TWO_HOURS_S])
def test_the_clock_is_wrong_and_the_monotonic_one_is_not(wall_clock: WallClock, ahead_s: int) -> None:
    """A fault that is not there would let every test pass."""
    wall_clock.set(ahead_s)
    code = "import time, threading; print(time.time(), time.monotonic(), threading.Event().wait(0.01))"
    said = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **wall_clock.environ},
        capture_output=True,
        text=True,
        check=True,
    )
    wall, monotonic, _ = said.stdout.split()
    assert abs(float(wall) - time.time() - ahead_s) < 60
    assert abs(float(monotonic) - time.monotonic()) < 60


def test_s1_s5_s6_l3_l4_two_workers_live_four_hours_apart(stack: Stack, clocks: tuple[WallClock, WallClock]) -> None:
    """They pause and resume as any do, are alive to everybody, and it is told what is wrong with their clocks."""
    with Fleet(stack, visibility_s=VISIBILITY_S) as fleet:
        fleet.watch()
        off_by_s = {"w1": TWO_HOURS_S, "w2": -TWO_HOURS_S}
        for (name, ahead_s), clock in zip(off_by_s.items(), clocks, strict=True):
            clock.set(ahead_s)
            fleet.start(name, environ=clock.environ, wait=False)
        fleet.wait_ready()
        fleet.wait_open()
        fleet.send_naps(120, 0.02)
        fleet.wait_started(10)
        fleet.pause()
        fleet.wait_drained()
        until("everybody sees it drained", lambda: is_drained(fleet), every_s=0.05)
        told = {worker.nodename: worker.clock_ahead_s for worker in seen(fleet)}
        assert all(abs(told[fleet.workers[name].nodename] - ahead_s) < 60 for name, ahead_s in off_by_s.items())
        fleet.stays_still(for_s=0.5)
        fleet.resume()
        fleet.wait_done()
        verdict = check(put_right(fleet.evidence()))
    assert verdict.broken == {}


@pytest.mark.long
def test_s1_s5_s6_s9_a_workers_clock_jumps_while_paused_and_while_running(stack: Stack, wall_clock: WallClock) -> None:
    with Fleet(stack, visibility_s=VISIBILITY_S) as fleet:
        fleet.watch()
        fleet.start(environ=wall_clock.environ)
        fleet.wait_open()
        fleet.send_naps(60, 0.02)
        fleet.wait_started(5)
        fleet.pause()
        fleet.wait_drained()
        for ahead_s in (TWO_HOURS_S, -TWO_HOURS_S):
            wall_clock.set(ahead_s)
            fleet.stays_still(for_s=1.0)
        fleet.wait_more_starts_after(fleet.resume)
        wall_clock.set(TWO_HOURS_S)
        fleet.wait_more_starts_after(lambda: None)
        fleet.pause()
        fleet.wait_drained()
        fleet.resume()
        fleet.wait_done()
        assert not fleet.words()[0].refused
        verdict = check(put_right(fleet.evidence()))
    assert verdict.broken == {}


@pytest.fixture
def clocks(clock_library: Path, tmp_path: Path) -> tuple[WallClock, WallClock]:
    """Two that can be set wrong each for itself."""
    return WallClock(clock_library, tmp_path / "one"), WallClock(clock_library, tmp_path / "other")


@contextmanager
def _control_plane_under(stack: Stack, clock: WallClock, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    stack.stop_control()
    with monkeypatch.context() as patch:
        for name, value in clock.environ.items():
            patch.setenv(name, value)
        stack.start_control()
    try:
        yield
    finally:
        stack.stop_control()


@pytest.mark.long
def test_s1_s9_l2_the_control_planes_clock_is_wrong(
    stack: Stack, wall_clock: WallClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hold expires when it should, by Postgres's clock, and not two hours before or after; no worker is given up."""
    with _control_plane_under(stack, wall_clock, monkeypatch), Fleet(stack) as fleet:
        fleet.watch()
        fleet.start()
        for ahead_s in (TWO_HOURS_S, -TWO_HOURS_S):
            wall_clock.set(ahead_s)
            until("its clock is wrong", partial(_is_control_ahead_by, ahead_s, stack))
            fleet.wait_open()
            ends_at = datetime.now(UTC) + timedelta(seconds=3)
            fleet.client.pause(mode="drain", reason="three seconds", expires_at=to_wire(ends_at))
            until("it is paused", lambda: fleet.words()[0].state == "paused")
            assert [worker.state for worker in seen(fleet)] != ["unknown"]
            numbers = fleet.send_naps(5, 0.001)
            fleet.wait_done(within_s=15)
            starts = [record.at_us for record in fleet.read_records() if record.seq in numbers]
            assert min(starts) >= ends_at.timestamp() * 1_000_000


def _is_control_ahead_by(ahead_s: int, stack: Stack) -> bool:
    """As the date of its answers has it."""
    date = httpx.get(f"{stack.url}/readyz", timeout=5, trust_env=False).headers["date"]
    return abs(parsedate_to_datetime(date).timestamp() - time.time() - ahead_s) < 60


@pytest.mark.parametrize("ahead_s", [TWO_HOURS_S, long(-TWO_HOURS_S)])
def test_s1_an_operators_clock_is_wrong(stack: Stack, wall_clock: WallClock, ahead_s: int) -> None:
    """`--for 1h` is an hour, whatever the clock of the machine that asks; it was three, or refused."""
    wall_clock.set(ahead_s)
    command = [sys.executable, "-m", "sluicegate.control.cli", "pause", "--reason", "an hour", "--for", "1h"]
    environ = {**os.environ, **stack.environ, **wall_clock.environ}
    subprocess.run(command, env=environ, check=True, capture_output=True, timeout=60)
    with Fleet(stack) as fleet:
        (hold,) = fleet.client.read().body.system.holds
        fleet.client.resume(reason="seen", force=True)
    assert hold.expires_at is not None
    assert timedelta(minutes=59) < hold.expires_at - datetime.now(UTC) <= timedelta(hours=1)


@pytest.fixture
def valkey_under(
    stack: Stack, wall_clock: WallClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[WallClock]:
    """The clock under which the stack's Valkey runs until the test is over; right at first."""
    with monkeypatch.context() as patch:
        program = wall_clock.server(valkey.find_server(), tmp_path)
        patch.setattr(valkey, "find_server", lambda: program)
        stack.valkey.restart()
    yield wall_clock
    # What it wrote down by another clock would be judged by the right one.
    stack.valkey.restart()


@pytest.mark.long
def test_s1_s5_s9_l4_the_clock_of_valkey_is_set_back_while_paused(stack: Stack, valkey_under: WallClock) -> None:
    """L4: leases run by it. Who beats is alive, and who dies is unknown as soon as ever, not two hours later."""
    with Fleet(stack) as fleet:
        fleet.watch()
        for name in ("w1", "w2"):
            fleet.start(name, wait=False)
        fleet.wait_ready()
        fleet.wait_open()
        fleet.send_naps(120, 0.02)
        fleet.wait_started(5)
        fleet.pause()
        fleet.wait_drained()
        doomed = fleet.workers["w2"].nodename

        def states() -> dict[str, str]:
            return {worker.nodename: worker.state for worker in seen(fleet)}

        until("both are seen", lambda: set(states().values()) == {"paused"})
        valkey_under.set(-TWO_HOURS_S)
        now_s, _ = fleet.redis.execute_command("TIME")
        assert abs(now_s - time.time() + TWO_HOURS_S) < 60
        fleet.workers["w2"].kill()
        until("the dead one is unknown", lambda: states()[doomed] == "unknown", within_s=20, every_s=0.1)
        until("the other is alive", lambda: sorted(states().values()) == ["paused", "unknown"])
        assert not is_drained(fleet)
        fleet.stays_still(for_s=0.5)
        fleet.restart("w2")
        until("both are alive", lambda: set(states().values()) == {"paused"}, every_s=0.05)
        fleet.resume()
        fleet.wait_done()
        verdict = fleet.check()
    assert verdict.broken == {}
