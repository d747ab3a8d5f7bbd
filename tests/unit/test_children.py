"""What a pool child writes: a task runs from right before its own code until it is over, and no other time."""

from __future__ import annotations

import pickle
import select
from collections.abc import Iterator
from typing import Any

import pytest
from billiard.pool import READY
from celery import Celery, signals
from celery.app.trace import build_tracer
from celery.exceptions import Ignore

from sluicegate.workers.celery_inside.children import Child
from sluicegate.workers.celery_inside.starts import note_begin_of
from sluicegate.workers.celery_inside.yields import YieldedRun
from sluicegate.workers.cell import Cell

SLOT = 3


class Bench:
    """An app whose tasks are traced as in a pool child, and what was seen of the slot meanwhile."""

    def __init__(self) -> None:
        self.app = Celery("children", set_as_current=False, broker="memory://", backend="cache+memory://")
        self.cell = Cell()
        self.child = Child(self.cell, SLOT)
        self.seen: dict[str, bool] = {}

    def see(self, when: str, task_id: str) -> None:
        self.seen[when] = self.cell.slot(SLOT).runs_task(task_id)

    def note(self, task: Any) -> Any:
        """What a child does with each task of the app when it is born; the task behind Celery's proxy."""
        behind = self.app.tasks[task.name]
        note_begin_of(type(behind), self.child.note_begin)
        return behind

    def run(self, task: Any, task_id: str) -> Any:
        task = self.note(task)
        trace = self.child.noting_end(build_tracer(task.name, task, self.app.loader, "w1@h", app=self.app))
        told = trace(task_id, (), {}, {"id": task_id, "delivery_info": {}})
        self.see("after", task_id)
        return told


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench()
    yield made
    made.app.close()


def test_a_task_runs_from_its_own_code_on_and_not_before_its_receivers_and_its_stored_state(bench):
    """S1: a receiver of task_prerun that takes long, and STARTED on its way to the backend, come before the start."""

    @bench.app.task(bind=True, track_started=True, shared=False)
    def work(self):
        bench.see("in the task", self.request.id)

    stored = work.backend.store_result

    def store(task_id, result, state, **other):
        bench.see(f"storing {state}", task_id)
        return stored(task_id, result, state, **other)

    work.backend.store_result = store

    def receive(task_id="", **_):
        bench.see("in a receiver", task_id)

    signals.task_prerun.connect(receive)
    try:
        bench.run(work, "t1")
    finally:
        signals.task_prerun.disconnect(receive)
    assert bench.seen.pop("storing SUCCESS")
    assert bench.seen == {"in a receiver": False, "storing STARTED": False, "in the task": True, "after": False}


def test_a_second_run_of_the_same_id_is_not_taken_for_running_before_it_does(bench):
    """A retry has the id of the run before."""

    @bench.app.task(shared=False)
    def work():
        raise ValueError("once more")

    for run in (1, 2):
        bench.run(work, "t1")
        assert bench.cell.slot(SLOT).begun == run
        assert not bench.seen["after"]


def test_a_task_applied_inside_another_leaves_the_outer_one_running(bench):
    @bench.app.task(shared=False)
    def inner():
        return 1

    @bench.app.task(bind=True, shared=False)
    def outer(self):
        inner.apply()
        bench.see("after the inner one", self.request.id)

    bench.note(inner)
    bench.run(outer, "t1")
    assert bench.seen == {"after the inner one": True, "after": False}
    assert bench.cell.slot(SLOT).begun == 1


def test_a_task_s_own_before_start_is_called_and_is_already_its_own_code(bench):
    class Base(bench.app.Task):  # type: ignore[name-defined,misc]
        def before_start(self, task_id, args, kwargs):
            bench.see("before_start", task_id)

    @bench.app.task(base=Base, shared=False)
    def work():
        return 1

    bench.run(work, "t1")
    assert bench.seen == {"before_start": True, "after": False}


def test_a_child_says_in_one_piece_that_a_run_yielded(bench):
    """S5: what it writes in two, a parent that loses its broker in between has read one half of."""

    @bench.app.task(shared=False)
    def stop():
        raise YieldedRun

    @bench.app.task(shared=False)
    def fail():
        raise Ignore

    yielded, other = bench.run(stop, "t1"), bench.run(fail, "t2")
    assert isinstance(yielded.info.retval, YieldedRun)
    assert isinstance(yielded.retval.exception.exc, YieldedRun)
    assert len(_as_billiard_sends(yielded)) < select.PIPE_BUF
    # Nobody else's frames are taken: they may be what somebody looks for.
    assert other.retval.tb is not None


def _as_billiard_sends(told: Any) -> bytes:
    outcome, info, runtime, _ = told
    assert info is not None
    return pickle.dumps((READY, (1, None, (True, (1, outcome, runtime)), 12)))
