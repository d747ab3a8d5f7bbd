"""Checkpoints: where a long task may stop while its work is quiesced, and from which it goes on.

The way in for a task's author: `checkpoint`, `resume_cursor` and `resumable`, and the option `on_quiesce` of a task,
`"wait"` (default: stay in place) or `"yield"` (give the slot back, and go on from the cursor later, on any worker).
While nothing is quiesced a checkpoint is one read of the cell. Outside a task, in a task that is called directly or
eagerly, and in a worker without the plugin, all of this does nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, MutableSequence
from contextlib import contextmanager
from itertools import islice
from typing import Any, Protocol, TypeVar

from sluicegate.schemas.errors import InvalidInput, InvalidSetting
from sluicegate.workers.cell import STOPPING

T = TypeVar("T")

WAIT, YIELD = "wait", "yield"
WAYS = (WAIT, YIELD)
LOOK_EVERY_S = 0.05
"""How often a waiting task reads the cell."""


class Station(Protocol):
    """What a worker process offers its tasks; there is none where the plugin is not in force."""

    def current_task(self) -> Any:
        """The task that the worker runs here; None outside, and for one that is called directly or eagerly."""

    def is_quiesced(self, task: Any) -> bool:
        """Is the work of this running task quiesced?"""

    def is_leaving(self) -> bool:
        """Has the worker been told to stop?"""

    def note_waiting(self, task_id: str, is_waiting: bool) -> None:
        """Say that a task waits at a checkpoint, or no longer does."""

    def rest(self, seconds: float) -> None:
        """What a waiting task does between two looks."""

    def keep_cursor(self, task: Any, cursor: Any) -> bool:
        """Keep `cursor` for the next run of this running task; False where it cannot be stored now.

        Raises InvalidInput.
        """

    def load_cursor(self, task: Any) -> Any:
        """What was kept last, or None; of a run that ended only where this is its very message once more."""


class Yielded(BaseException):
    """Leaves a task's own code at a checkpoint; `celery_inside` turns it into the end of the run.

    Not an Exception: a task that catches those must not swallow it.
    """


Flags = MutableSequence[int] | memoryview

_flags: Flags = [0]
_station: Station | None = None


def open_station(station: Station | None, flags: Flags) -> None:
    """Called once, in the worker's parent process before it forks. `flags` are the cell's."""
    global _station, _flags
    _station, _flags = station, flags


@contextmanager
def station_for_a_while(station: Station, flags: Flags) -> Iterator[None]:
    """As `open_station`, for a test: afterwards stands what stood before."""
    before = _station, _flags
    open_station(station, flags)
    try:
        yield
    finally:
        open_station(*before)


def checkpoint(cursor: Any = None) -> None:
    """Stop here while this task's work is quiesced.

    `cursor` is all that a later run needs to go on from here: anything that JSON can hold, at most 64 KiB encoded
    (`SLUICEGATE_CURSOR_MAX_BYTES`). It is stored only where the task stops. Raises InvalidInput for a cursor that is
    too large or no JSON. With `on_quiesce="yield"` the run ends here, by an exception that is no `Exception`; code
    that must run before it goes belongs into `finally`.
    """
    if _flags[0] & STOPPING:
        _stop(cursor)


def task_here() -> Any:
    """The task that a worker with the plugin runs here; None elsewhere."""
    station = _station
    return None if station is None else station.current_task()


def resume_cursor() -> Any:
    """The cursor with which an earlier run of this very task (its id) stopped last; None in its first run."""
    station = _station
    task = None if station is None else station.current_task()
    if station is None or task is None:
        return None
    return station.load_cursor(task)


def resumable(items: Iterable[T], *, every: int = 1) -> Iterator[T]:
    """Go through `items` with a checkpoint after every `every` of them; a later run skips those that are done.

    `items` must come in the same order each time; an item counts as done when the loop asks for the next one. The
    task's cursor is kept by this: use no other `checkpoint(cursor)` beside it. Raises ValueError for `every` < 1 and
    InvalidInput where the stored cursor is of another kind.
    """
    if every < 1:
        raise ValueError(f"every must be at least 1, not {every}")
    done = resume_cursor() or 0
    if not isinstance(done, int) or isinstance(done, bool) or done < 0:
        raise InvalidInput("cursor", f"{done!r} was not stored by resumable()")
    for item in islice(items, done, None):
        yield item
        done += 1
        if done % every == 0:
            checkpoint(done)


def way_of(task: Any) -> str:
    """What a task declared; raises InvalidSetting where it is neither `wait` nor `yield`."""
    way = getattr(task, "on_quiesce", WAIT)
    if way not in WAYS:
        raise InvalidSetting("on_quiesce", f"{way!r} of task {task.name} is neither 'wait' nor 'yield'")
    return str(way)


def _is_declared(task: Any) -> bool:
    """Only the runs of tasks that declare their way can end at a checkpoint."""
    return hasattr(task, "on_quiesce")


def _stop(cursor: Any) -> None:
    station = _station
    task = None if station is None else station.current_task()
    if station is None or task is None or not station.is_quiesced(task):
        return
    task_id = str(task.request.id)
    # First, so that a crash from here on repeats nothing that is done.
    is_kept = cursor is None or station.keep_cursor(task, cursor)
    does_yield = way_of(task) == YIELD
    if does_yield and is_kept:
        raise Yielded
    station.note_waiting(task_id, True)
    try:
        while station.is_quiesced(task):
            # A sleep: a soft time limit, a revoke with terminate and gevent's timeout end it as they end any other.
            station.rest(LOOK_EVERY_S)
            is_kept = is_kept or station.keep_cursor(task, cursor)
            # Where the worker stops, one that waits would keep it from that for as long as the hold lasts: it goes
            # too, if a later run can go on from here.
            may_leave = does_yield or (cursor is not None and _is_declared(task) and station.is_leaving())
            if may_leave and is_kept and station.is_quiesced(task):
                raise Yielded
    finally:
        station.note_waiting(task_id, False)
