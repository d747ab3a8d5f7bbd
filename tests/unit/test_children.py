"""What a pool child writes: a task runs from right before its own code until it is over, and no other time."""

from __future__ import annotations

import pickle
import select
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import billiard
import pytest
from billiard.pool import READY
from celery import Celery, signals
from celery.app import trace
from celery.exceptions import Ignore

from sluicegate.workers.celery_inside.children import Child, note_starts_in_children
from sluicegate.workers.celery_inside.starts import note_in_tracers, tell_starts, tracers_as_they_were
from sluicegate.workers.celery_inside.yields import YieldedRun
from sluicegate.workers.cell import Cell

SLOT = 3
NAMES = ("w1@h", "w2@h")


class Bench:
    """An app whose tasks are traced as in a pool child, and what was seen of the slot meanwhile."""

    def __init__(self) -> None:
        self.app = Celery("children", set_as_current=False, broker="memory://", backend="cache+memory://")
        self.cell = Cell()
        self.child = Child(self.cell, SLOT)
        self.seen: dict[str, bool] = {}

    def see(self, when: str, task_id: str) -> None:
        self.seen[when] = self.cell.slot(SLOT).runs_task(task_id)

    def run(self, task: Any, task_id: str) -> Any:
        tracer = self.child.noting_end(built(self.app, task.name))
        told = tracer(task_id, (), {}, {"id": task_id, "delivery_info": {}})
        self.see("after", task_id)
        return told


def built(app: Celery, name: str) -> Any:
    """As Celery builds a tracer in a child that is born."""
    task = app.tasks[name]
    return trace.build_tracer(name, task, app.loader, "w1@h", app=app)


def as_in_a_child(monkeypatch: pytest.MonkeyPatch, app: Celery) -> None:
    """Of the first worker."""
    monkeypatch.setattr("os.getpid", lambda: -1)
    monkeypatch.setattr(billiard.current_process(), "index", SLOT, raising=False)
    target = SimpleNamespace(initargs=(app, NAMES[0]))
    monkeypatch.setattr(billiard.current_process(), "_target", target, raising=False)


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench()
    with tracers_as_they_were():
        note_in_tracers()
        tell_starts(made.child.note_begin)
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


def test_of_two_workers_of_one_process_a_child_writes_into_the_cell_of_its_own(bench, monkeypatch):
    """Celery's signal goes to all who listen, in the children of both; what the other one's wrote is not wiped out."""

    @bench.app.task(bind=True, shared=False)
    def work(self):
        seen.extend(cell.slot(SLOT).runs_task(self.request.id) for cell in cells)

    cells, seen = [Cell(), Cell()], list[bool]()
    cells[1].noting(SLOT)[0]("of the other one's child")
    receivers = [note_starts_in_children(bench.app, name, cell) for name, cell in zip(NAMES, cells, strict=True)]
    task = bench.app.tasks[work.name]
    task.__trace__ = built(bench.app, work.name)
    as_in_a_child(monkeypatch, bench.app)
    for receive in receivers:
        receive()
    task.__trace__("t1", (), {}, {"id": "t1", "delivery_info": {}})
    assert seen == [True, False]
    assert cells[1].slot(SLOT).runs_task("of the other one's child")


def test_what_others_have_put_around_a_tracer_by_then_stays_around_it(bench, monkeypatch):
    """Their receivers of `worker_process_init` are called before ours, or after."""

    @bench.app.task(bind=True, shared=False)
    def work(self):
        pass

    def around(name: str) -> None:
        inner = task.__trace__

        def traced(*call):
            heard.append(name)
            return inner(*call)

        task.__trace__ = traced

    heard: list[str] = []
    receive = note_starts_in_children(bench.app, NAMES[0], bench.cell)
    task = bench.app.tasks[work.name]
    task.__trace__ = built(bench.app, work.name)
    around("before")
    as_in_a_child(monkeypatch, bench.app)
    receive()
    around("after")
    task.__trace__("t1", (), {}, {"id": "t1", "delivery_info": {}})
    assert heard == ["after", "before"]
    assert bench.cell.slot(SLOT).begun == 1
