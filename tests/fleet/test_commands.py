"""The demo, the soak and the benchmarks as commands: they work, say what they must, and leave nothing behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from sluicegate.control.embedded import EmbeddedServerError
from sluicegate.control.process.stack import Stack
from tests.bench import gate_check, pauses, throughput
from tests.fleet import demo, soak
from tests.fleet.harness import ROOT
from tests.fleet.waiting import until


def _environ(place: Path) -> dict[str, str]:
    """Ours, with `place` for everything temporary: what is left there afterwards was left behind."""
    path = [str(ROOT), *(os.path.abspath(e) for e in os.environ.get("PYTHONPATH", "").split(os.pathsep) if e)]
    return {**os.environ, "TMPDIR": str(place), "PYTHONPATH": os.pathsep.join(path)}


def _processes_of(place: Path) -> list[str]:
    """The processes that work in `place`, or were told of it."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.status() == psutil.STATUS_ZOMBIE:
                continue
            told = [process.cwd(), *process.cmdline(), *process.environ().values()]
        except psutil.Error:
            continue
        if any(str(place) in text for text in told):
            found.append(" ".join(process.cmdline()))
    return found


def _assert_nothing_is_left(place: Path) -> None:
    until("no process is left", lambda: not _processes_of(place), within_s=10, every_s=0.1)
    assert list(place.iterdir()) == []


def test_the_demo_proves_every_promise_and_leaves_nothing(tmp_path: Path) -> None:
    """S1, S2, S4, S5, S6, S9, L3 on real work; done when 1."""
    ended = subprocess.run(
        [sys.executable, "-m", "tests.fleet.demo", "--json"],
        env=_environ(tmp_path),
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert ended.returncode == 0, ended.stderr
    facts = json.loads(ended.stdout)
    assert facts["ok"]
    assert facts["done"] == facts["files"] == len(demo.library_files())
    for name in ("startsAfterAcknowledgement", "startedWhilePaused", "lost", "duplicated", "displaced"):
        assert facts[name] == 0
    assert facts["wrongDigests"] == 0
    assert facts["dueWhilePaused"] > 0
    assert 0 < facts["doneBeforePause"] < facts["files"]
    _assert_nothing_is_left(tmp_path)


@pytest.mark.long
@pytest.mark.timeout(260)
def test_the_quiesce_demo_does_every_item_once(tmp_path: Path) -> None:
    """Twelve slots, a killed worker, and tasks that wait or give their slot back."""
    ended = subprocess.run(
        [sys.executable, "-m", "tests.fleet.demo_quiesce", "--json"],
        env=_environ(tmp_path),
        capture_output=True,
        text=True,
        timeout=240,
    )
    # How fast they stop is for the demo to show: a busy machine must not fail this.
    assert ended.stdout, ended.stderr
    facts = json.loads(ended.stdout)
    assert [facts[name] for name in ("missing", "repeated", "doneWhileQuiesced")] == [0, 0, 0]
    assert facts["done"] == facts["items"]
    _assert_nothing_is_left(tmp_path)


@pytest.mark.long
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_the_demo_interrupted_leaves_nothing(tmp_path: Path, signum: signal.Signals) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "tests.fleet.demo"],
        env=_environ(tmp_path),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "tasks sent" in line:
                process.send_signal(signum)
                break
        rest = process.stderr.read()
        assert process.wait(60) == 130, rest
    assert "Traceback" not in rest
    assert rest.splitlines()[-1] == "demo: interrupted; everything it started has been stopped"
    _assert_nothing_is_left(tmp_path)


def test_the_demo_says_in_one_line_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*args: Any, **kwargs: Any) -> Stack:
        raise EmbeddedServerError("no Valkey here: pip install something")

    monkeypatch.setattr(demo, "Stack", refuse)
    before = signal.getsignal(signal.SIGTERM)
    try:
        assert demo.main([]) == 2
    finally:
        signal.signal(signal.SIGTERM, before)
    assert capsys.readouterr().err.splitlines()[-1] == "demo: cannot run here: no Valkey here: pip install something"


@pytest.mark.long
def test_the_soak_counts_every_pause_and_finds_nothing_broken(tmp_path: Path) -> None:
    """Done when 3, in small: the times are for `make soak` to judge, on a machine that does nothing else."""
    ended = subprocess.run(
        [sys.executable, "-m", "tests.fleet.soak", "--pauses", "5", "--json"],
        env=_environ(tmp_path),
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert ended.returncode in (0, 1), ended.stderr
    facts = json.loads(ended.stdout)
    assert facts["pauses"] == 5
    assert facts["broken"] == {}
    assert facts["ok"] == (ended.returncode == 0) == (not facts["exceeded"])
    assert facts["callToLastStartMs"]["p50"] <= facts["callToAcknowledgedMs"]["max"]
    _assert_nothing_is_left(tmp_path)


def test_the_soak_fails_where_a_promise_or_a_limit_is_broken() -> None:
    tally = soak.Tally(acknowledged_ms=[1.0] * 100, last_start_ms=[1.0] * 100)
    assert tally.facts(1)["ok"]
    tally.last_start_ms[-3:] = [soak.LAST_START_P99_MS + 1] * 3
    assert not tally.facts(1)["ok"]
    tally.last_start_ms[-3:] = [1.0] * 3
    tally.broken["lost"] = 1
    assert not tally.facts(1)["ok"]


@pytest.mark.long
@pytest.mark.alone
def test_the_throughput_is_measured_until_there_are_pairs_enough(stack: Stack) -> None:
    speed = throughput.measure(stack, lambda text: None, pairs=2, within_s=0, rounds=1, tasks=100)
    assert len(speed.ratios) == 2
    assert len(speed.plugin) == len(speed.vanilla) == 4
    for block in (*speed.plugin, *speed.vanilla):
        assert 0 < block.net_s <= block.wall_s
        assert block.cpu_s > 0
    assert speed.ratio.value > 0


@pytest.mark.long
def test_three_ways_to_pause_are_told_apart(stack: Stack) -> None:
    """Plain Celery starts what it has prefetched, and all that waits after a restart; the gate nothing."""
    found = pauses.measure(stack, lambda text: None, pauses=2, idle_trials=1)
    gate, cancel = found["gate"], found["cancel_consumer"]
    assert (len(gate.busy.pauses), gate.busy.late_starts, gate.restart_starts) == (2, 0, (0,))
    assert set(gate.idle_starts) == {0}
    assert cancel.busy.late_starts > 0
    assert cancel.restart_starts[0] > 0
    assert found["suspend"].busy.pauses


@pytest.mark.long
@pytest.mark.alone
def test_a_gate_check_and_a_checkpoint_are_cheaper_than_asking_redis(stack: Stack) -> None:
    found = gate_check.measure(stack)
    assert 0 < found.check.value < found.redis_get.value
    assert 0 < found.checkpoint.value < found.child_get.value
