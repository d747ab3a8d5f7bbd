"""Tasks of celery-batches: messages are gathered in the worker, and handed to the pool several at a time.

Such a task goes past Celery's own way to the pool, so three of its doings are stood before: its strategy, for the pool
that it takes from it; `flush`, which every hand-over goes through; and in the process that runs it `run`, for the note
of its start. What lies in its buffers has not begun, and goes back as anything else that waits.

Read from celery-batches 0.11 (0.9 and 0.10 have the same names).
"""

from __future__ import annotations

import queue
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextvars import ContextVar
from functools import wraps
from itertools import count
from typing import Any
from uuid import uuid4

from sluicegate.schemas.beats import RunningTask
from sluicegate.workers.celery_inside.marks import NOTED
from sluicegate.workers.celery_inside.requests import queue_of
from sluicegate.workers.ports import Wanted

LetThrough = Callable[[Callable[[list[Any]], None], Sequence[Any]], list[Any]]
"""Given what hands over and the requests: hands those over that may start, and tells those that are held."""

_BATCH: ContextVar[str | None] = ContextVar("batch", default=None)
"""The id of the batch that runs here."""
_FLUSHED: ContextVar[list[Any]] = ContextVar("flushed")
"""The requests that a `flush` under way was given: what it calls the pool with are no requests of Celery's."""


class Batch:
    """One hand-over of several messages of one queue, as a pool's side looks at a request. It is one run.

    `id` is its own: no message has it, and none of Celery's books.
    """

    def __init__(self, task: Any, requests: list[Any], on_accepted: Callable[..., Any]) -> None:
        self.id = str(uuid4())
        self.task = task
        self.name = self.type = task.name
        self.requests = requests
        self.message = requests[0].message
        self._on_accepted = on_accepted

    def on_accepted(self, pid: int, at: float) -> None:
        """The pool runs it from now on."""
        self._on_accepted(pid, at)

    def told(self) -> RunningTask:
        """What is said of it while it runs."""
        return RunningTask(id=self.id, name=self.name, queue=queue_of(self))


class _HandingPool:
    """The pool that such a task hands over to: each call becomes one that a pool's side knows."""

    def __init__(self, pool: Any, task: Any) -> None:
        self._pool = pool
        self._task = task

    def apply_async(self, target: Any, args: Any, *, accept_callback: Callable[..., Any], **options: Any) -> Any:
        """As `flush` calls it: the task, and a tuple of one list of what each message says."""
        ids = {told.id for told in args[1][0]}
        batch = Batch(self._task, [request for request in _FLUSHED.get() if request.id in ids], accept_callback)
        call = (batch.id, target, *args)
        options |= {"accept_callback": batch.on_accepted, "correlation_id": batch.id}
        return self._pool.apply_async(run_batch, call, **options)


def run_batch(batch_id: str, target: Callable[..., Any], *args: Any) -> Any:
    """What the pool calls, in a child or in a thread."""
    token = _BATCH.set(batch_id)
    try:
        return target(*args)
    finally:
        _BATCH.reset(token)


def is_obeyed(task: Any) -> bool:
    """Is it one whose hand-overs are known? By what its class really has: another's strategy is another's."""
    library: Any = sys.modules.get("celery_batches")
    known = getattr(library, "Batches", None)
    if known is None or not isinstance(task, known):
        return False
    cls = type(task)
    is_unchanged = cls.Strategy is known.Strategy and cls._do_flush is known._do_flush
    return is_unchanged and isinstance(task._buffer, queue.Queue) and isinstance(task._pending, queue.Queue)


def batch_tasks(app: Any) -> list[Any]:
    """Those of the app."""
    # Most apps have none, and are asked at each heartbeat.
    return [task for task in list(app.tasks.values()) if is_obeyed(task)] if "celery_batches" in sys.modules else []


def stand_before_batches(app: Any, let_through: LetThrough, hold: Callable[[Any], None]) -> None:
    """Have what these tasks hand over go through the gate; once each, before their strategies are built."""
    for task in batch_tasks(app):
        if "flush" not in vars(task):
            _stand_before(task, let_through, hold)


def _stand_before(task: Any, let_through: LetThrough, hold: Callable[[Any], None]) -> None:
    build, flush = task.Strategy, task.flush

    def strategy(own: Any, app: Any, consumer: Any) -> Any:
        handle = build(own, app, consumer)
        task._pool = _HandingPool(consumer.pool, task)
        return handle

    def flush_free(requests: list[Any]) -> None:
        for some in _by_queue(requests):
            token = _FLUSHED.set(some)
            try:
                flush(some)
            finally:
                _FLUSHED.reset(token)

    def flush_those_that_may(requests: Iterable[Any]) -> None:
        for request in let_through(flush_free, list(requests)):
            hold(request)

    task.Strategy, task.flush = strategy, flush_those_that_may


def _by_queue(requests: list[Any]) -> Iterable[list[Any]]:
    """A hold may be of one queue: what is handed over at once must not be half of it."""
    found: dict[str | None, list[Any]] = {}
    for request in requests:
        found.setdefault(queue_of(request), []).append(request)
    return found.values()


def note_runs_of_batches(app: Any, begin: Callable[[str], None], end: Callable[[], None]) -> None:
    """In the process that runs them: have `begin` called with a batch's id right before the task's own code."""
    for task in batch_tasks(app):
        if not hasattr(task.run, NOTED):
            task.run = _noting(task.run, begin, end)


def _noting(run: Callable[..., Any], begin: Callable[[str], None], end: Callable[[], None]) -> Callable[..., Any]:
    @wraps(run)
    def runs(*args: Any, **kwargs: Any) -> Any:
        batch_id = _BATCH.get()
        if batch_id is None:
            return run(*args, **kwargs)
        begin(batch_id)
        try:
            return run(*args, **kwargs)
        finally:
            end()

    runs.sluicegate_noted = True  # type: ignore[attr-defined]
    return runs


def gathered(app: Any, is_wanted: Wanted) -> Iterator[Any]:
    """Take out of the buffers what is wanted of it, oldest first; the rest stays, in its order."""
    for task in batch_tasks(app):
        taken = False
        for buffer in (task._buffer, task._pending):
            for request in _emptied(buffer):
                if is_wanted(request):
                    taken = True
                    yield request
                else:
                    buffer.put(request)
        if taken:
            # As `_do_flush` leaves it: the next batch is full when it has as many messages as any other.
            task._count = count(task._buffer.qsize() + task._pending.qsize() + 1)


def _emptied(buffer: queue.Queue[Any]) -> Iterator[Any]:
    """What it has now. The timer, which may be another thread, may be emptying it too."""
    for _ in range(buffer.qsize()):
        try:
            yield buffer.get_nowait()
        except queue.Empty:
            return


def count_gathered(app: Any) -> int:
    """How many messages lie in the buffers; from any thread."""
    return sum(task._buffer.qsize() + task._pending.qsize() for task in batch_tasks(app))
