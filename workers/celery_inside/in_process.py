"""Pools that run tasks in the worker's own process: solo, threads, gevent."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

from sluicegate.schemas.beats import RunningTask
from sluicegate.schemas.holds.hold import Then
from sluicegate.workers.celery_inside.batches import Batch, note_runs_of_batches, stand_before_batches
from sluicegate.workers.celery_inside.loops import do_nothing
from sluicegate.workers.celery_inside.requests import tell_queue
from sluicegate.workers.celery_inside.starts import has_entered, note_in_tracers, tell_starts
from sluicegate.workers.cell import Cell
from sluicegate.workers.gate import Gate
from sluicegate.workers.ports import Wanted


@dataclass(slots=True, eq=False)
class _Job:
    """One request that was handed to a pool of this process, until its run is over.

    `thread`: the ident of the thread that runs it, None until it was let through. `seen_at`: when Celery was about
    to call the task's own code (monotonic seconds).
    """

    request: Any
    thread: int | None = None
    seen_at: float | None = None
    is_waiting: bool = False


class PoolWithin:
    """A pool that runs tasks in this process. Handing over is not starting here: it may lie there for long.

    So each start is checked where it really happens, right before the accept callback (that is where an early
    acknowledgement is sent), by the thread or greenlet that will run it.
    """

    name = ""
    can_renew = False

    _by_task: ClassVar[dict[str, _Job]] = {}
    """The jobs of this process that run. Its workers share it: Celery's tracers do not know whose they are."""

    def __init__(self, worker: Any, cell: Cell) -> None:
        self._worker = worker
        self._jobs: set[_Job] = set()
        self._gate: Gate[Any] | None = None
        self._hold: Callable[[Any], None] = lambda request: None
        self._apply: Callable[..., Any] = do_nothing

    def guard(self, gate: Gate[Any], hold: Callable[[Any], None]) -> None:
        """Wrap what Celery calls for every hand-over; there is no semaphore, so it is bound in two places."""
        self._gate, self._hold = gate, hold
        start = self._worker._process_task

        def process_task(request: Any) -> None:
            tell_queue(request)
            if gate.holds_back(request):
                hold(request)
            else:
                start(request)

        self._worker._process_task = self._worker.process_task = process_task
        self.take_in_tasks()

    def take_in_tasks(self) -> None:
        """Of those that hand several messages over at once."""
        app = self._worker.app
        stand_before_batches(app, self._let_through, lambda request: self._hold(request))
        note_runs_of_batches(app, _note_begin, do_nothing)

    def _let_through(self, start: Callable[[list[Any]], None], requests: Sequence[Any]) -> list[Any]:
        """A hand-over is not a start, and may take as long as the task: not under the gate's lock."""
        assert self._gate is not None
        free, held = self._gate.part(requests)
        if free:
            start(free)
        return held

    def watch(self) -> None:
        """Stand before `on_apply`, and have tasks note when they begin."""
        note_in_tracers()
        tell_starts(_note_begin)
        self._apply = self._worker.pool.on_apply
        self._worker.pool.on_apply = self._on_apply

    def _on_apply(
        self, target: Any, args: Any = None, kwargs: Any = None, *, accept_callback: Any = None, **options: Any
    ) -> Any:
        request = getattr(accept_callback, "__self__", None)
        if not hasattr(request, "task"):
            # Not of a task: something of the user's own, which no hold is about.
            return self._apply(target, args, kwargs, accept_callback=accept_callback, **options)
        job = _Job(request)
        self._jobs.add(job)

        def accept(*said: Any) -> None:
            assert self._gate is not None
            if not self._gate.pass_through(lambda _: self._begin(job), job.request):
                self._hold(job.request)
                raise _held_back()
            accept_callback(*said)

        accept.sluicegate_request = job.request  # type: ignore[attr-defined]
        try:
            return self._hand_over(job, target, args, kwargs, accept_callback=accept, **options)
        except BaseException:
            self._end(job)
            raise

    def _hand_over(self, job: _Job, target: Any, args: Any, kwargs: Any, **options: Any) -> Any:
        raise NotImplementedError

    def _begin(self, job: _Job) -> None:
        """It was let through, and this thread runs it."""
        job.thread = threading.get_ident()
        self._by_task[job.request.id] = job

    def _end(self, job: _Job) -> None:
        """Its run is over, or it was held back."""
        self._jobs.discard(job)
        if self._by_task.get(job.request.id) is job:
            del self._by_task[job.request.id]

    def retire(self) -> bool:
        """What runs tasks is this process."""
        return False

    def is_retired(self) -> bool:
        return False

    def renew(self) -> None:
        """Nothing was retired."""

    def unstarted(self, is_wanted: Wanted) -> Iterator[Any]:
        """What lies in the pool and can be taken out of it."""
        yield from ()

    def go_on(self) -> None:
        """No slots are counted here."""

    def is_past_barrier(self, is_wanted: Wanted) -> bool:
        """Has each job that was let through entered the task's own code?"""
        return all(self._has_started(job) for job in list(self._jobs) if is_wanted(job.request))

    def _has_started(self, job: _Job) -> bool:
        return job.seen_at is not None

    def forget_looks(self) -> None:
        """A job that has started has started."""

    def forgotten(self) -> tuple[RunningTask, ...]:
        """Batches: Celery knows nothing else that runs here."""
        return tuple(
            job.request.told() for job in list(self._jobs) if isinstance(job.request, Batch) and job.thread is not None
        )

    def end(self, request: Any, then: Then, *, is_hard: bool) -> bool:
        """A thread cannot be ended."""
        return False

    def has_ended(self, request: Any) -> bool:
        return all(job.request is not request for job in list(self._jobs))

    def is_busy(self) -> bool:
        return bool(self._jobs)

    def note_waiting(self, task_id: str, is_waiting: bool) -> None:
        job = self._by_task.get(task_id)
        if job is not None:
            job.is_waiting = is_waiting

    def is_waiting(self, request: Any) -> bool:
        job = self._by_task.get(request.id)
        return job is not None and job.is_waiting


def _note_begin(task_id: str) -> None:
    job = PoolWithin._by_task.get(task_id)
    if job is not None:
        job.seen_at = time.monotonic()


class SoloPool(PoolWithin):
    """The consumer's own thread runs the task: while it does, nothing else happens on it."""

    name = "solo"

    def _hand_over(self, job: _Job, target: Any, args: Any, kwargs: Any, **options: Any) -> Any:
        try:
            return self._apply(target, args, kwargs, **options)
        except _HeldBack:
            return None
        finally:
            self._end(job)


class ThreadsPool(PoolWithin):
    """An executor whose queue holds the whole prefetch."""

    name = "threads"

    _LONG_S = 0.05

    def __init__(self, worker: Any, cell: Cell) -> None:
        super().__init__(worker, cell)
        self._futures: dict[_Job, Any] = {}

    def _hand_over(self, job: _Job, target: Any, args: Any, kwargs: Any, **options: Any) -> Any:
        result = self._apply(target, args, kwargs, **options)
        self._futures[job] = result.f
        # Called at once where it is done already.
        result.f.add_done_callback(lambda future: self._end(job))
        return result

    def _end(self, job: _Job) -> None:
        super()._end(job)
        self._futures.pop(job, None)

    def unstarted(self, is_wanted: Wanted) -> Iterator[Any]:
        """The futures that no thread has taken; the rest come to the closed gate by themselves."""
        for job, future in list(self._futures.items()):
            if is_wanted(job.request) and future.cancel():
                yield job.request

    def _has_started(self, job: _Job) -> bool:
        """Is its thread inside the task's own code?

        `before_start` is the last that can be noted, and between it and the task's first instruction the thread may
        lose the interpreter to ours. So its stack is looked at: we have the interpreter while we look. Where that
        tells nothing (the task is no Python function), some time must do.
        """
        if job.seen_at is None or job.thread is None:
            return False
        return has_entered(sys._current_frames().get(job.thread)) or time.monotonic() - job.seen_at > self._LONG_S


class GeventPool(PoolWithin):
    """Greenlets of one thread: none is interrupted between the check, the note and the task's own code."""

    name = "gevent"

    _LOOK_S = 0.05

    def watch(self) -> None:
        """Celery's way into a full pool waits on the main greenlet for as long as it takes: ours gives up."""
        super().watch()
        self._worker.pool._quick_put = self._put

    def end(self, request: Any, then: Then, *, is_hard: bool) -> bool:
        """Celery takes a greenlet that was ended for one that succeeded: its message could not be handed back."""
        if then is not Then.TERMINATE:
            return False
        if not is_hard:
            request.terminate(self._worker.pool)
        return True

    def _put(self, *call: Any, **options: Any) -> Any:
        from gevent.pool import PoolFull

        assert self._gate is not None
        # Celery's own order: function, target, args, kwargs, callback, accept_callback, …
        request = call[5].sluicegate_request
        pool = self._worker.pool._pool
        greenlet = pool.greenlet_class(*call, **options)
        while True:
            try:
                pool.start(greenlet, timeout=self._LOOK_S)
            except PoolFull:
                if self._gate.holds_back(request):
                    raise _held_back() from None
            else:
                return greenlet

    def _hand_over(self, job: _Job, target: Any, args: Any, kwargs: Any, **options: Any) -> Any:
        try:
            greenlet = self._apply(target, args, kwargs, **options)
        except _HeldBack:
            self._end(job)
            self._hold(job.request)
            return None
        greenlet.rawlink(lambda _: self._end(job))
        return greenlet


class _HeldBack(BaseException):
    """Ends the run of a task that came to a closed gate, before anything of it happened."""


def _held_back() -> BaseException:
    """For a greenlet it is a GreenletExit, which gevent does not print."""
    return _quiet_held_back()() if "gevent" in sys.modules else _HeldBack()


@lru_cache
def _quiet_held_back() -> type[BaseException]:
    from greenlet import GreenletExit

    return type("HeldBack", (_HeldBack, GreenletExit), {})
