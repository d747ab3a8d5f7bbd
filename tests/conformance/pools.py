"""The four pools, each with one slot, on a worker that is only what a pool's side touches of one.

threads, solo and gevent are Celery's own, and run tasks through its tracer. Of prefork the children are played: they
write into the cell what a child writes. What real children do, the fleet tests see.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack
from types import MethodType, SimpleNamespace
from typing import Any

import billiard
import gevent
import gevent.event
import pytest
from celery import Celery
from celery.app import trace
from celery.concurrency import gevent as green
from celery.concurrency import solo, thread
from kombu.asynchronous.semaphore import LaxBoundedSemaphore

from sluicegate.schemas.holds.hold import Hold, Holds
from sluicegate.schemas.scopes import Subject
from sluicegate.schemas.snapshots import Snapshot
from sluicegate.workers.celery_inside.in_process import GeventPool, SoloPool, ThreadsPool
from sluicegate.workers.celery_inside.prefork import PreforkPool
from sluicegate.workers.celery_inside.starts import tracers_as_they_were
from sluicegate.workers.cell import Cell
from sluicegate.workers.gate import Gate
from sluicegate.workers.ports import PoolSide
from tests.fleet.waiting import until
from tests.unit.strategies import NOW

TASK = "conformance.work"


class Request:
    """As far as a pool's side looks at one."""

    def __init__(self, rig: Rig, task_id: str) -> None:
        self.rig = rig
        self.id, self.name, self.type = task_id, TASK, TASK
        self.task = rig.app.tasks[TASK]
        self.message = SimpleNamespace(delivery_info={"exchange": "", "routing_key": "q"})
        self.request_dict: dict[str, Any] = {}
        self.worker_pid: int | None = None

    def on_accepted(self, pid: int, at: float) -> None:
        self.worker_pid = pid

    def execute_using_pool(self, pool: Any) -> None:
        pool.apply_async(self.rig.trace, (self.id,), {}, accept_callback=self.on_accepted, callback=lambda _: None)

    def terminate(self, pool: Any, signal: Any = None) -> None:
        self.rig.terminate(self)


class Rig:
    """One pool of one slot behind a gate that is open. `begin` and `finish` begin and end the run of a task."""

    name: str
    can_lie_there = True
    """Can a request lie in the pool that has not begun? Not where the consumer's thread runs it."""
    can_end = False

    def __init__(self) -> None:
        self.app = Celery("conformance", set_as_current=False, broker="memory://", backend="cache+memory://")

        @self.app.task(name=TASK, shared=False)
        def work(task_id: str) -> None:
            self.work(task_id)

        self.cell = Cell()
        self.gate: Gate[Any] = Gate(self.cell, Subject(), wake=lambda: None, on_applied=lambda: None)
        self.requests: dict[str, Request] = {}
        self.held: list[str] = []
        self.ran: list[str] = []
        self.version = 0
        self.order()
        self.worker = self.make_worker()
        self.side = self.make_side()
        self.side.guard(self.gate, lambda request: self.held.append(request.id))
        self._after = ExitStack()
        self._after.enter_context(tracers_as_they_were())
        self.side.watch()
        # As the consumer does for each connection.
        task = self.app.tasks[TASK]
        task.__trace__ = trace.build_tracer(TASK, task, self.app.loader, "w1@h", app=self.app)

    def make_worker(self) -> Any:
        raise NotImplementedError

    def make_side(self) -> PoolSide:
        raise NotImplementedError

    def work(self, task_id: str) -> None:
        """The task's own code."""
        self.ran.append(task_id)

    def trace(self, task_id: str) -> None:
        request = {"id": task_id, "delivery_info": {}, "is_eager": False}
        self.app.tasks[TASK].__trace__(task_id, (task_id,), {}, request)

    def order(self, *holds: Hold) -> None:
        self.version += 1
        state = Holds(version=self.version, active=frozenset(holds))
        self.gate.put_in_force(Snapshot(namespace="n", epoch=1, holds=state, publication=1, issued_at=NOW))

    def send(self, task_id: str) -> Request:
        """Let a request come, as from the broker."""
        self.requests[task_id] = Request(self, task_id)
        self.worker.process_task(self.requests[task_id])
        return self.requests[task_id]

    def run(self, task_id: str, meanwhile: Callable[[Request], None]) -> None:
        """Let a request come and run to its end; `meanwhile` is called while its own code runs."""
        raise NotImplementedError

    def while_one_lies_there(self, task_id: str, check: Callable[[], None]) -> None:
        """`check` is called while a request has been given to the pool and has not begun."""

        def meanwhile(blocker: Request) -> None:
            self.send(task_id)
            check()

        self.run("blocker", meanwhile)

    def note_waiting(self, task_id: str, is_waiting: bool, patch: pytest.MonkeyPatch) -> None:
        """Where the task runs."""
        self.side.note_waiting(task_id, is_waiting)

    def terminate(self, request: Request) -> None:
        """What Celery does when it is asked to."""

    def taken(self, is_wanted: Callable[[Any], bool] = lambda request: True) -> list[str]:
        """What the side takes out of the pool."""
        return [request.id for request in self.side.unstarted(is_wanted)]

    def is_past_barrier(self) -> bool:
        return self.side.is_past_barrier(lambda request: True)

    def comes_past_barrier(self, is_wanted: Callable[[Any], bool] = lambda request: True) -> None:
        until("it is past the barrier", lambda: self.side.is_past_barrier(is_wanted), every_s=0.001)

    def close(self) -> None:
        self._after.close()
        self.app.close()


class _Within(Rig):
    """Celery's own pool, in this process."""

    pool_class: Any

    def make_worker(self) -> Any:
        pool = self.pool_class(limit=1, app=self.app)
        pool.start()
        worker = SimpleNamespace(pool=pool, app=self.app, hostname="w1@h")
        worker._process_task = worker.process_task = lambda request: request.execute_using_pool(worker.pool)
        return worker

    def close(self) -> None:
        self.worker.pool.stop()
        super().close()


class Threads(_Within):
    name = "threads"
    pool_class = thread.TaskPool

    def __init__(self) -> None:
        self.begun: dict[str, threading.Event] = {}
        self.ends: dict[str, threading.Event] = {}
        super().__init__()

    def make_side(self) -> PoolSide:
        return ThreadsPool(self.worker, self.cell)

    def send(self, task_id: str) -> Request:
        self.begun[task_id], self.ends[task_id] = threading.Event(), threading.Event()
        return super().send(task_id)

    def work(self, task_id: str) -> None:
        super().work(task_id)
        self.begun[task_id].set()
        assert self.ends[task_id].wait(20)

    def run(self, task_id: str, meanwhile: Callable[[Request], None]) -> None:
        request = self.send(task_id)
        assert self.begun[task_id].wait(20)
        try:
            meanwhile(request)
        finally:
            for end in self.ends.values():
                end.set()
        until("the pool is idle", lambda: not self.side.is_busy(), every_s=0.001)

    def close(self) -> None:
        for end in self.ends.values():
            end.set()
        super().close()


class Solo(_Within):
    name = "solo"
    pool_class = solo.TaskPool
    can_lie_there = False

    def make_side(self) -> PoolSide:
        return SoloPool(self.worker, self.cell)

    def work(self, task_id: str) -> None:
        super().work(task_id)
        self.meanwhile(self.requests[task_id])

    def run(self, task_id: str, meanwhile: Callable[[Request], None]) -> None:
        failed: list[BaseException] = []

        def watched(request: Request) -> None:
            # Celery's tracer would take it for the task's own failure.
            try:
                meanwhile(request)
            except BaseException as error:
                failed.append(error)

        self.meanwhile = watched
        self.send(task_id)
        if failed:
            raise failed[0]


class Gevent(_Within):
    name = "gevent"
    pool_class = green.TaskPool
    can_end = True

    def __init__(self) -> None:
        self.ends: dict[str, Any] = {}
        super().__init__()

    def make_side(self) -> PoolSide:
        return GeventPool(self.worker, self.cell)

    def send(self, task_id: str) -> Request:
        """On a greenlet of its own: a full pool is waited for."""
        self.ends[task_id] = gevent.event.Event()
        gevent.spawn(super().send, task_id)
        gevent.sleep(0)
        return self.requests[task_id]

    def work(self, task_id: str) -> None:
        super().work(task_id)
        self.ends[task_id].wait(20)

    def run(self, task_id: str, meanwhile: Callable[[Request], None]) -> None:
        request = self.send(task_id)
        gevent.sleep(0)
        assert task_id in self.ran
        try:
            meanwhile(request)
        finally:
            for end in self.ends.values():
                end.set()
        self._turn_until(lambda: not self.side.is_busy())

    def _turn_until(self, is_so: Callable[[], bool]) -> None:
        def look() -> bool:
            gevent.sleep(0)
            return is_so()

        until("the greenlets have come so far", look, every_s=0.001)

    def taken(self, is_wanted: Callable[[Any], bool] = lambda request: True) -> list[str]:
        # Who waits for the full pool sees in its next look that the gate is closed, and gives up.
        self._turn_until(lambda: len(self.held) == len(self.requests) - len(self.ran))
        return super().taken(is_wanted)

    def terminate(self, request: Request) -> None:
        self.worker.pool.terminate_job(request.worker_pid)


class Prefork(Rig):
    name = "prefork"
    can_end = True

    def make_worker(self) -> Any:
        self.pool: Any = SimpleNamespace(outbound_buffer=deque(), _cache={}, _pool=[])
        self.child: Any = SimpleNamespace(pid=77, index=5, _is_alive=lambda: True)
        self.pool._pool.append(self.child)
        worker: Any = SimpleNamespace(
            semaphore=LaxBoundedSemaphore(1), pool=SimpleNamespace(_pool=self.pool, flush=lambda: None), app=self.app
        )
        worker._process_task = self._hand_to_child
        worker._process_task_sem = lambda request: worker.semaphore.acquire(worker._process_task, request)
        worker.process_task = worker._process_task_sem
        return worker

    def make_side(self) -> PoolSide:
        return PreforkPool(self.worker, self.cell)

    def _hand_to_child(self, request: Request) -> None:
        accept = MethodType(Request.on_accepted, request)
        self.pool._cache[request.id] = SimpleNamespace(
            _accepted=False, _worker_pid=None, correlation_id=request.id, _accept_callback=accept, _terminated=None
        )

    def _begin(self, request: Request) -> None:
        job = self.pool._cache[request.id]
        job._accepted, job._worker_pid, request.worker_pid = True, self.child.pid, self.child.pid
        self.cell.noting(self.child.index)[0](request.id)
        self.ran.append(request.id)

    def _end(self, request: Request) -> None:
        self.cell.noting(self.child.index)[1]()
        del self.pool._cache[request.id]
        self.worker.semaphore.release()

    def run(self, task_id: str, meanwhile: Callable[[Request], None]) -> None:
        request = self.send(task_id)
        self._begin(request)
        try:
            meanwhile(request)
        finally:
            self._end(request)
        # And what got the slot by that.
        for waiting in list(self.pool._cache):
            self._begin(self.requests[waiting])
            self._end(self.requests[waiting])

    def while_one_lies_there(self, task_id: str, check: Callable[[], None]) -> None:
        """In the child's pipe."""
        request = self.send(task_id)
        check()
        self._begin(request)
        self._end(request)

    def note_waiting(self, task_id: str, is_waiting: bool, patch: pytest.MonkeyPatch) -> None:
        with patch.context() as in_child:
            in_child.setattr(billiard.current_process(), "index", self.child.index, raising=False)
            self.side.note_waiting(task_id, is_waiting)

    def terminate(self, request: Request) -> None:
        self.pool._pool.remove(self.child)


RIGS = (Prefork, Threads, Solo, Gevent)
