"""The prefork pool: children in processes of their own."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import billiard

from sluicegate.schemas.beats import RunningTask
from sluicegate.schemas.holds.hold import Then
from sluicegate.workers.celery_inside.batches import Batch, stand_before_batches
from sluicegate.workers.celery_inside.loops import do_nothing
from sluicegate.workers.celery_inside.requests import tell_queue
from sluicegate.workers.celery_inside.retiring import Retiring
from sluicegate.workers.cell import Cell, mark_of
from sluicegate.workers.gate import Gate
from sluicegate.workers.ports import Wanted


@dataclass(slots=True)
class Orphan:
    """A job in a child's pipe that Celery forgot when its broker connection broke. The child runs it all the same.

    `begun`: how many tasks the child's slot had begun when it was forgotten.
    """

    task: RunningTask
    pid: int
    slot: int
    begun: int
    was_seen: bool = False


class PreforkPool:
    """Children in processes of their own. Check and start are one critical section on the consumer's thread."""

    name = "prefork"
    can_renew = True

    def __init__(self, worker: Any, cell: Cell) -> None:
        self._worker = worker
        self._retiring = Retiring(worker)
        self._cell = cell
        self._seen_started: set[int] = set()
        self._orphans: list[Orphan] = []
        self._flush_pool: Callable[[], None] = do_nothing
        self._left_slots = 0
        self._is_passing_on = False

    def guard(self, gate: Gate[Any], hold: Callable[[Any], None]) -> None:
        """Wrap what Celery calls for every start: fresh, waited for a slot, ETA fallen due, rate-limited."""
        worker = self._worker
        start = worker._process_task

        def process_task(request: Any) -> None:
            tell_queue(request)
            if not gate.pass_through(start, request):
                self._free_slot()
                hold(request)
            if self._left_slots and not self._is_passing_on:
                self._pass_on_slots()

        worker._process_task = process_task
        self._let_through, self._hold = gate.let_through, hold
        self.take_in_tasks()
        # Pool.create bound the original where no semaphore guards the pool; with one, it looks it up at each call.
        self._uses_slots = worker.process_task == getattr(worker, "_process_task_sem", None)
        if self._uses_slots:
            worker._quick_release = self._leave_slot
        else:
            worker.process_task = process_task

    def take_in_tasks(self) -> None:
        """Of those that hand several messages over at once; what a pool child needs, it does when it is forked."""
        stand_before_batches(self._worker.app, self._let_through, self._hold)

    def retire(self) -> bool:
        """End the children; the slots stay, so that what comes still comes to the gate."""
        return self._retiring.retire()

    def is_retired(self) -> bool:
        return self._retiring.is_retired()

    def renew(self) -> None:
        self._retiring.renew()

    def _leave_slot(self) -> None:
        """What Celery calls within a start that turns out to be revoked, or to have expired."""
        self._left_slots += 1

    def _pass_on_slots(self) -> None:
        """Give the slots that were left to those who wait, one after the other, and outside the gate's lock.

        `release()` runs the next waiter within this call. Where that one is revoked too Celery would release within
        it, and so on: thousands that expired while they waited would be as many calls within each other.
        """
        self._is_passing_on = True
        try:
            while self._left_slots:
                self._left_slots -= 1
                self._worker.semaphore.release()
        finally:
            self._is_passing_on = False

    def _free_slot(self) -> None:
        """Free the slot of a start that did not happen, without waking the next waiter.

        `release()` would run that waiter inside this call, and so on through all of them.
        """
        if self._uses_slots:
            semaphore = self._worker.semaphore
            semaphore.value = min(semaphore.value + 1, semaphore.initial_value)

    def watch(self) -> None:
        """Stand before the pool's `flush`, and have its children write what they begin and end."""
        self._flush_pool = self._worker.pool.flush
        self._worker.pool.flush = self._flush

    def _flush(self) -> None:
        """Celery forgets every job that no child has accepted; those written to a pipe will run nevertheless."""
        for job in list(self._pool._cache.values()):
            process = job._write_to
            if not job._accepted and process is not None and self._is_task(job) and self._cell.can_see(process.index):
                request = job._accept_callback.__self__
                task = RunningTask(id=request.id, name=request.name)
                begun = self._cell.slot(process.index).begun
                self._orphans.append(Orphan(task=task, pid=process.pid, slot=process.index, begun=begun))
        self._flush_pool()

    def unstarted(self, is_wanted: Wanted) -> Iterator[Any]:
        """What waits for a slot, and what waits in the pool for a child to be free: nothing of it was written yet."""
        if self._uses_slots:
            waiting = self._worker.semaphore._waiting
            for _ in range(len(waiting)):
                entry = waiting.popleft()
                request = entry[1][0]
                if is_wanted(request):
                    yield request
                else:
                    waiting.append(entry)
        outbound = self._pool.outbound_buffer
        for job in list(outbound):
            if job._accepted or job._terminated is not None or not self._is_task(job):
                continue
            request = job._accept_callback.__self__
            if is_wanted(request):
                outbound.remove(job)
                job.discard()
                # A batch took none.
                if not isinstance(request, Batch):
                    self._free_slot()
                yield request

    @property
    def _pool(self) -> Any:
        return self._worker.pool._pool

    @staticmethod
    def _is_task(job: Any) -> bool:
        """The pool has jobs of its own: a restart sends each child one that does nothing."""
        return job.correlation_id is not None and job._accept_callback is not None

    def go_on(self) -> None:
        """`_free_slot` woke nobody, and where others of the queue may run there may be a waiter."""
        if self._uses_slots:
            semaphore = self._worker.semaphore
            while semaphore.value > 0 and semaphore._waiting:
                callback, args, kwargs = semaphore._waiting.popleft()
                semaphore.value -= 1
                callback(*args, **kwargs)

    def is_past_barrier(self, is_wanted: Wanted) -> bool:
        """A job that a child accepted has not started yet: it accepts, and then enters the task.

        So each must have been seen running, by what the child writes right before the task's own code, in two looks
        a millisecond apart.
        """
        processes = {process.pid: process.index for process in self._pool._pool}
        is_past_barrier = True
        alive: set[int] = set()
        for number, job in list(self._pool._cache.items()):
            if not self._is_task(job):
                continue
            alive.add(number)
            if number in self._seen_started or not is_wanted(job._accept_callback.__self__):
                continue
            is_past_barrier = False
            slot = processes.get(job._worker_pid, -1)
            if job._accepted and (not self._cell.can_see(slot) or self._cell.slot(slot).runs_task(job.correlation_id)):
                self._seen_started.add(number)
        self._seen_started &= alive
        self._orphans = [orphan for orphan in self._orphans if self._has_work(orphan)]
        return is_past_barrier and all(orphan.was_seen for orphan in self._orphans)

    def forget_looks(self) -> None:
        """The next barrier looks twice again."""
        self._seen_started.clear()

    def _has_work(self, orphan: Orphan) -> bool:
        """Is it still to run, or running? Notes when it is seen running."""
        if all(process.pid != orphan.pid for process in self._pool._pool):
            return False
        slot = self._cell.slot(orphan.slot)
        if slot.runs_task(orphan.task.id):
            orphan.was_seen = True
            return True
        # It ran if it was seen, if the child has begun another task since, or if it is what the child ran last.
        return not (orphan.was_seen or slot.begun != orphan.begun or slot.mark == mark_of(orphan.task.id))

    def forgotten(self) -> tuple[RunningTask, ...]:
        """The orphans that still run, or will; and batches."""
        orphans = [orphan.task for orphan in list(self._orphans) if self._has_work(orphan)]
        cache = getattr(getattr(self._worker.pool, "_pool", None), "_cache", {})
        jobs = [job for job in list(cache.values()) if self._is_task(job) and job._accepted]
        requests = [job._accept_callback.__self__ for job in jobs]
        return (*orphans, *(request.told() for request in requests if isinstance(request, Batch)))

    def end(self, request: Any, then: Then, *, is_hard: bool) -> bool:
        """By a signal to its child, as a revoke does; of one that is to be handed back nobody is told."""
        sign = signal.SIGKILL if is_hard else signal.SIGTERM
        if is_hard:
            with suppress(ProcessLookupError):
                os.kill(request.worker_pid, sign)
        elif then is Then.TERMINATE:
            request.terminate(self._worker.pool, signal=sign)
        else:
            # Celery lets go of a request that it cancelled, and neither acknowledges nor stores anything.
            request._already_cancelled = True
            self._worker.pool.terminate_job(request.worker_pid, sign)
            job = None if request._apply_result is None else request._apply_result()
            if job is not None:
                job.terminate(sign)
        return True

    def has_ended(self, request: Any) -> bool:
        """Its child is gone. Celery lets go of a terminated request as soon as it has sent the signal."""
        return all(process.pid != request.worker_pid for process in list(self._pool._pool))

    def is_busy(self) -> bool:
        """Is any pool child alive?"""
        pool = getattr(self._worker.pool, "_pool", None)
        return pool is not None and any(process._is_alive() for process in pool._pool)

    def note_waiting(self, task_id: str, is_waiting: bool) -> None:
        """In the child's own slot."""
        self._cell.note_waiting(getattr(billiard.current_process(), "index", -1), is_waiting)

    def is_waiting(self, request: Any) -> bool:
        """By the slot of the child that accepted it."""
        for process in list(self._pool._pool):
            if process.pid == request.worker_pid and self._cell.can_see(process.index):
                slot = self._cell.slot(process.index)
                return slot.waits and slot.runs_task(request.id)
        return False
