"""The fleet's app beside a library that puts a function of its own in the place of Celery's `build_tracer`.

So do sentry-sdk, pybrake and New Relic's agent. This one has no name, no attribute and no `__wrapped__` of what it
wraps, and writes one line a transaction: the task that its tracer was called for, the task that a receiver of
`task_prerun` has noted meanwhile, and the one that it saw within `run`. All are the same while it is in force.
"""

from __future__ import annotations

import importlib
import os
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import celery
from celery import signals
from celery.app import trace

MODULE = __name__
ORDER = "FLEET_LIBRARY"
BEFORE, AFTER = "before", "after"
"""When it is set up: before `install(app)`, or after."""

_crumbs: ContextVar[list[str]] = ContextVar("crumbs")
_outside: list[str] = []


_RECORDS = "FLEET_RECORDS"


def transactions_path(records: str) -> Path:
    """Where the transactions are written of the fleet whose records are in `records`."""
    return Path(f"{records}.transactions")


def replace() -> None:
    """Set the library up."""
    original = trace.build_tracer

    def library_build(name: str, task: Any, *args: Any, **options: Any) -> Any:
        if "library_run" not in vars(task):
            task.library_run = run = task.run
            task.run = lambda *args, **kwargs: _run(run, *args, **kwargs)
        tracer = original(name, task, *args, **options)
        return lambda uuid, *rest, **more: _trace(tracer, uuid, *rest, **more)

    trace.build_tracer = library_build


def _trace(tracer: Any, uuid: str, *rest: Any, **more: Any) -> Any:
    crumbs: list[str] = []
    token = _crumbs.set(crumbs)
    try:
        return tracer(uuid, *rest, **more)
    finally:
        _crumbs.reset(token)
        line = "\t".join((uuid, *crumbs)) + "\n"
        file = os.open(transactions_path(os.environ[_RECORDS]), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        os.write(file, line.encode())
        os.close(file)


def _run(run: Any, *args: Any, **kwargs: Any) -> Any:
    _crumbs.get(_outside).append(f"run {celery.current_task.request.id}")
    return run(*args, **kwargs)


@signals.task_prerun.connect(weak=False)
def leave_a_crumb(task_id: str = "", **_: Any) -> None:
    """As a log line of a receiver, which the library takes for this task's."""
    _crumbs.get(_outside).append(f"prerun {task_id}")


if os.environ.get(ORDER) == BEFORE:
    replace()
app = importlib.import_module("tests.fleet.app").app
if os.environ.get(ORDER) == AFTER:
    replace()
__all__ = ["app"]
