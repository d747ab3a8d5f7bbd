"""What handles messages beside the gate is told: by the worker, in the answer to a pause, and in a terminal."""

from __future__ import annotations

import json

from sluicegate.control.cli.render import state_lines
from sluicegate.control.pausing.warnings import warnings
from sluicegate.schemas.api.workers import WorkerBody
from sluicegate.schemas.beats import Beat
from sluicegate.schemas.scopes import GLOBAL, Scope
from tests.unit.test_drains import worker

STEP = "shop.steps.Events"


def test_a_beat_carries_it_and_one_of_an_older_worker_has_none() -> None:
    beat = worker(beside=(STEP,)).beat
    assert Beat.decode(beat.encode()) == beat
    older = {key: value for key, value in beat.to_wire().items() if key != "beside"}
    assert Beat.decode(json.dumps(older).encode()).beside == ()


def test_a_pause_is_answered_with_the_steps_that_go_on_on_the_workers_that_it_is_about() -> None:
    workers = [worker(nodename="w1@h", beside=(STEP,)), worker(nodename="w2@h")]
    assert warnings(GLOBAL, workers) == [f"w1@h handles messages beside the gate: {STEP} goes on"]
    assert warnings(Scope.parse("worker:w2@h"), workers) == []


def test_the_table_of_workers_warns_of_it_until_the_worker_has_left() -> None:
    there = WorkerBody.of(worker(nodename="w1@h", beside=(STEP,)))
    assert list(state_lines.warnings([there])) == [f"warning: w1@h handles messages beside the gate: {STEP}"]
    left = WorkerBody.of(worker(nodename="w1@h", beside=(STEP,), is_goodbye=True))
    assert list(state_lines.warnings([left])) == []
