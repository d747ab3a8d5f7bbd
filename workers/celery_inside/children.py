"""What a prefork child writes into its cell: which task it begins, and that it ended."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import billiard

from sluicegate.workers.celery_inside.batches import note_runs_of_batches
from sluicegate.workers.celery_inside.starts import note_in_tracers, tell_starts
from sluicegate.workers.celery_inside.yields import YieldedRun
from sluicegate.workers.cell import Cell


def shorten_yield(told: Any) -> None:
    """Take the frames out of what a tracer tells its worker of a run that yielded: nobody reads them.

    They are 35 kB (Celery 5.7, billiard 4.3). What is longer than 16 kB a child writes in two pieces, and where the
    broker's connection is lost between the two Celery's parent takes the second for a new message: the yield is lost,
    and later ones of that child, or the worker ends. The rest is 1 kB.
    """
    outcome, info, *_ = told
    if isinstance(info.retval, YieldedRun):
        outcome.tb = None


def note_starts_in_children(app: Any, hostname: str, cell: Cell) -> Callable[..., None]:
    """The receiver of `worker_process_init` that makes a pool child write what it begins and ends.

    To be called before the pool forks: Celery's children build their tracers before they send that signal, and what
    others have put around those by then stays.
    """
    note_in_tracers()
    parent = os.getpid()

    def note_starts(**_: Any) -> None:
        process = billiard.current_process()
        # The solo pool sends it too, and another worker of this process may have children of its own.
        if os.getpid() == parent or not _is_child_of(process, app, hostname):
            return
        child = Child(cell, getattr(process, "index", -1))
        tell_starts(child.note_begin)
        for task in app.tasks.values():
            if task.__trace__ is not None:
                task.__trace__ = child.noting_end(task.__trace__)
        note_runs_of_batches(app, child.begin_batch, child.end_batch)

    return note_starts


def _is_child_of(process: Any, app: Any, hostname: str) -> bool:
    """By what its worker gave its pool for it. Of the signal's senders Celery 5.5 and 5.6 say nothing."""
    given = getattr(getattr(process, "_target", None), "initargs", None)
    return given is None or (given[0] is app and given[1] == hostname)


class Child:
    """A pool child that writes what it begins and ends. It runs one task at a time."""

    def __init__(self, cell: Cell, slot: int) -> None:
        self._begin, self._end = self.begin_batch, self.end_batch = cell.noting(slot)
        # The child before this one may have been killed in the middle of a task that comes here again.
        self._end()
        self._traced = ""

    def note_begin(self, task_id: str) -> None:
        """A task that is applied inside another one has another id, and runs under that one's start."""
        if task_id == self._traced:
            self._begin(task_id)

    def noting_end(self, trace: Callable[..., Any]) -> Callable[..., Any]:
        """What the pool calls for each task, with the end noted."""
        note_end = self._end

        def traced(uuid: str, args: Any, kwargs: Any, request: Any = None) -> Any:
            self._traced = uuid
            try:
                told = trace(uuid, args, kwargs, request)
            finally:
                note_end()
            # Asked here, so that a task that ends as most do costs no call.
            if told[1] is not None:
                shorten_yield(told)
            return told

        return traced
