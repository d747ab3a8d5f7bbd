"""A start is noted right before a task's own code, whatever a task's class looks like and whoever wraps its tracer."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery, Task
from celery.app import trace
from celery.concurrency import thread
from celery.worker.consumer import consumer

from sluicegate.schemas.holds.hold import Holds
from sluicegate.schemas.scopes import Subject
from sluicegate.schemas.snapshots import Snapshot
from sluicegate.workers.celery_inside import starts
from sluicegate.workers.celery_inside.in_process import ThreadsPool
from sluicegate.workers.celery_inside.starts import has_entered, note_in_tracers, tell_starts, tracers_as_they_were
from sluicegate.workers.cell import Cell
from sluicegate.workers.gate import Gate
from tests.fleet.waiting import until
from tests.unit.strategies import NOW

NAME = "starts.work"
REQUEST = {"id": "t1", "delivery_info": {}}
NO_ARGS: list[Any] = []


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture(autouse=True)
def nothing_stays(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    # What is wrapped over ours, as libraries do, would stay: they do not ask whether they may.
    for module in (trace, consumer):
        monkeypatch.setattr(module, "build_tracer", vars(module)["build_tracer"])
    monkeypatch.setattr(starts, "_note", starts._note)
    yield
    monkeypatch.undo()


Shape = Callable[[Callable[..., None], pytest.MonkeyPatch], tuple[dict[str, Any], dict[str, Any]]]
"""Makes a task's class, and what its instance has, out of a `before_start` that says that it was called."""


def a_method(hook, patch):
    return {"before_start": lambda self, *args: hook(*args)}, {}


def static(hook, patch):
    return {"before_start": staticmethod(hook)}, {}


def of_the_class(hook, patch):
    return {"before_start": classmethod(lambda cls, *args: hook(*args))}, {}


def a_property(hook, patch):
    return {"before_start": property(lambda self: hook)}, {}


def callable_object(hook, patch):
    return {"before_start": type("Hook", (), {"__call__": lambda self, *args: hook(*args)})()}, {}


def none(hook, patch):
    return {"before_start": None}, {}


def absent(hook, patch):
    return {}, {}


def on_the_instance(hook, patch):
    """Celery looks at the class alone: it does not call this one."""
    return {}, {"before_start": hook}


def on_both(hook, patch):
    return {"before_start": lambda self, *args: None}, {"before_start": hook}


def on_celery_s_own_class(hook, patch):
    patch.setattr(Task, "before_start", lambda self, *args: hook(*args))
    return {}, {}


def inherited(hook, patch):
    base = type("Base", (Task,), {"before_start": lambda self, *args: hook(*args)})
    return {"base": base}, {}


def behind_a_call(hook, patch):
    """Flask's documented pattern."""

    def call(self, *args, **kwargs):
        with nullcontext():
            return self.run(*args, **kwargs)

    return {"__call__": call, **a_method(hook, patch)[0]}, {}


SHAPES: list[Shape] = [
    a_method,
    static,
    of_the_class,
    a_property,
    callable_object,
    none,
    absent,
    on_the_instance,
    on_both,
    on_celery_s_own_class,
    inherited,
    behind_a_call,
]


def registered(of_class: dict[str, Any], of_instance: dict[str, Any], run: Callable[[], None]) -> tuple[Celery, Any]:
    app = Celery("starts", set_as_current=False, broker="memory://", backend="cache+memory://")
    base = of_class.pop("base", Task)
    made = type("Made", (base,), {"name": NAME, "run": lambda self: run(), **of_class})
    task = app.register_task(made())
    vars(task).update(of_instance)
    return app, task


def traced(app: Celery, task: Any, build: Callable[..., Any] | None = None) -> None:
    tracer = (build or trace.build_tracer)(task.name, task, app.loader, "w1@h", app=app)
    told = tracer("t1", NO_ARGS, {}, REQUEST)
    assert told.info is None, told


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.__name__)
def test_every_shape_of_before_start_is_called_as_celery_calls_it_and_the_start_is_noted_first(
    shape: Shape, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def hook(*args: Any) -> None:
        said.append(f"before_start{args}")

    app, task = registered(*shape(hook, monkeypatch), run=lambda: said.append("run"))
    before = dict(vars(task)), dict(vars(type(task)))
    traced(app, task)
    plain, said[:] = list(said), []
    note_in_tracers()
    tell_starts(lambda task_id: said.append(f"noted {task_id}"))
    traced(app, task)
    assert said == ["noted t1", *plain]
    vars(task).pop("backend", None)
    assert dict(vars(type(task))) == before[1], "its class is as it was"
    assert vars(task).get("before_start") == before[0].get("before_start")
    app.close()


def test_two_tasks_of_one_class_and_of_a_class_that_derives_from_it_are_each_noted_once(said: list[str]) -> None:
    app = Celery("starts", set_as_current=False, broker="memory://", backend="cache+memory://")

    class First(Task):  # type: ignore[type-arg]
        def run(self) -> None:
            said.append(self.name)

        def before_start(self, *args: Any) -> None:
            said.append("own")

    class Second(First):
        def before_start(self, *args: Any) -> None:
            super().before_start(*args)

    note_in_tracers()
    tell_starts(lambda task_id: said.append("noted"))
    tracers = []
    for number, cls in enumerate((First, First, Second)):
        made = cls()
        made.name = f"t{number}"
        app.register_task(made)
    for number in range(3):
        task = app.tasks[f"t{number}"]
        tracers.append(trace.build_tracer(task.name, task, app.loader, "w1@h", app=app))
    for tracer in tracers:
        tracer("t1", NO_ARGS, {}, REQUEST)
    assert said == ["noted", "own", "t0", "noted", "own", "t1", "noted", "own", "t2"]
    app.close()


def as_sentry_does(said: list[str]) -> None:
    """A library's own function in the place of `build_tracer`, that has neither its name nor its attributes."""
    original = trace.build_tracer

    def build(name: str, task: Any, *args: Any, **options: Any) -> Any:
        run = task.run

        def run_and_tell(*args: Any, **kwargs: Any) -> Any:
            said.append("library's run")
            return run(*args, **kwargs)

        task.run = run_and_tell
        tracer = original(name, task, *args, **options)

        def trace_and_tell(*call: Any, **options: Any) -> Any:
            said.append("library's tracer")
            return tracer(*call, **options)

        return trace_and_tell

    trace.build_tracer = build


LIBRARY_FIRST = pytest.mark.parametrize("library_is_first", [True, False])


@LIBRARY_FIRST
def test_a_library_that_replaces_build_tracer_stays_in_force_whoever_comes_first(
    library_is_first: bool, said: list[str]
) -> None:
    steps = [lambda: as_sentry_does(said), note_in_tracers]
    for step in steps if library_is_first else reversed(steps):
        step()
    tell_starts(lambda task_id: said.append("noted"))
    app, task = registered({}, {}, run=lambda: said.append("run"))
    traced(app, task)
    assert said == ["library's tracer", "noted", "library's run", "run"]
    app.close()


@LIBRARY_FIRST
def test_a_second_worker_of_the_process_notes_no_start_twice(library_is_first: bool, said: list[str]) -> None:
    """Also where a library has wrapped what the first one did."""
    note_in_tracers()
    if library_is_first:
        as_sentry_does(said)
    note_in_tracers()
    tell_starts(lambda task_id: said.append("noted"))
    app, task = registered({}, {}, run=lambda: said.append("run"))
    traced(app, task)
    assert said.count("noted") == 1
    app.close()


def test_what_builds_the_tracers_of_each_connection_notes_starts_and_keeps_what_stood_there(said: list[str]) -> None:
    """The consumer's module has its own name for it, which may be another one by then."""
    build: Any = consumer.build_tracer  # type: ignore[attr-defined]

    def theirs(name: str, task: Any, *args: Any, **options: Any) -> Any:
        said.append("built")
        return build(name, task, *args, **options)

    consumer.build_tracer = theirs  # type: ignore[attr-defined]
    note_in_tracers()
    tell_starts(lambda task_id: said.append("noted"))
    app, task = registered({}, {}, run=lambda: said.append("run"))
    traced(app, task, consumer.build_tracer)  # type: ignore[attr-defined]
    assert said == ["built", "noted", "run"]
    app.close()


def test_an_eager_run_is_no_start(said: list[str]) -> None:
    note_in_tracers()
    tell_starts(lambda task_id: said.append("noted"))
    app, task = registered({}, {}, run=lambda: said.append("run"))
    task.apply(throw=True)
    assert said == ["run"]
    app.close()


def test_a_trial_leaves_the_tracers_as_they_were_and_what_others_have_put_around_them_meanwhile(
    said: list[str],
) -> None:
    before = trace.build_tracer
    with tracers_as_they_were():
        note_in_tracers()
        assert trace.build_tracer is not before
    assert trace.build_tracer is before
    with tracers_as_they_were():
        note_in_tracers()
        as_sentry_does(said)
        theirs = trace.build_tracer
    assert trace.build_tracer is theirs


@LIBRARY_FIRST
@pytest.mark.parametrize("is_begun", [True, False])
def test_a_stack_shows_a_start_however_the_tracer_is_wrapped(
    library_is_first: bool, is_begun: bool, said: list[str]
) -> None:
    """By `trace_task` too, which has the tracer's name and calls it."""
    inside, go_on = threading.Event(), threading.Event()

    def wait() -> None:
        inside.set()
        assert go_on.wait(20)

    steps = [lambda: as_sentry_does(said), note_in_tracers]
    for step in steps if library_is_first else reversed(steps):
        step()
    if not is_begun:
        tell_starts(lambda task_id: wait())
    app, task = registered({}, {}, run=wait if is_begun else lambda: None)
    worker = threading.Thread(target=trace.trace_task, args=(task, "t1", (), {}, REQUEST), kwargs={"app": app})
    worker.start()
    assert inside.wait(20)
    try:
        assert has_entered(sys._current_frames()[worker.ident or 0]) is is_begun
    finally:
        go_on.set()
        worker.join()
        app.close()


class Threaded:
    """A worker with one thread behind a gate that is open, and its requests."""

    def __init__(self, app: Celery) -> None:
        pool = thread.TaskPool(limit=1, app=app)
        pool.start()
        self.app, self.cell = app, Cell()
        self.worker: Any = SimpleNamespace(pool=pool, app=app, hostname="w@h")
        self.worker._process_task = self.worker.process_task = self._execute
        self.side = ThreadsPool(self.worker, self.cell)
        gate: Gate[Any] = Gate(self.cell, Subject(), wake=lambda: None, on_applied=lambda: None)
        holds = Holds(version=1, active=frozenset())
        gate.put_in_force(Snapshot(namespace="n", epoch=1, holds=holds, publication=1, issued_at=NOW))
        self.side.guard(gate, lambda request: None)
        self.side.watch()
        for name, task in app.tasks.items():
            task.__trace__ = consumer.build_tracer(name, task, app.loader, "w@h", app=app)  # type: ignore[attr-defined]

    def _execute(self, request: Any) -> None:
        args: Any = (request.id, (), {}, {"id": request.id, "delivery_info": {}})
        accept = request.on_accepted
        self.worker.pool.apply_async(request.task.__trace__, args, {}, accept_callback=accept, callback=lambda _: None)

    def is_past_barrier(self) -> bool:
        return self.side.is_past_barrier(lambda request: True)

    def send(self, task_id: str) -> None:
        self.worker.process_task(Parcel(task_id, self.app.tasks[NAME]))


class Parcel:
    """A request, as far as it is looked at."""

    def __init__(self, task_id: str, task: Any) -> None:
        self.id, self.name, self.task = task_id, task.name, task
        self.message = SimpleNamespace(delivery_info={"exchange": "", "routing_key": "q"})
        self.request_dict: dict[str, Any] = {}

    def on_accepted(self, pid: int, at: float) -> None: ...


@pytest.mark.parametrize("shape", [absent, on_the_instance], ids=lambda shape: shape.__name__)
def test_s1_each_of_two_workers_of_a_process_is_past_its_barrier_while_its_task_runs(
    shape: Shape, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One after the other, or both at once, of one app: the tasks, and their tracers, are the same."""
    running, go_on = threading.Semaphore(0), threading.Event()

    def run() -> None:
        running.release()
        assert go_on.wait(30)

    app, _ = registered(*shape(lambda *args: None, monkeypatch), run=run)
    workers = [Threaded(app), Threaded(app)]
    try:
        for number, worker in enumerate(workers):
            worker.send(f"t{number}")
            assert running.acquire(timeout=20)
        for worker in workers:
            until("its task has begun", worker.is_past_barrier, within_s=5)
            assert worker.side.is_busy()
    finally:
        go_on.set()
        for worker in workers:
            worker.worker.pool.stop()
        app.close()
