"""Everything that touches the insides of Celery, kombu, billiard and gevent. Nothing else in sluicegate does.

Read from Celery 5.5.3 and 5.7.0, kombu 5.5.4 and 5.7.0, py-amqp 5.4.2, billiard 4.3.2, gevent 24.10.1 and 26.9.0.
`tests/unit/test_celery_inside.py` asserts each name and each shape used here, so that a new version that changes
one fails loudly.

What is relied on                                             where it stands
- `WorkController._process_task`, looked up at call time      celery/worker/worker.py
- `WorkController.process_task`, bound when the pool is made  celery/worker/components.py (Pool.create)
- `LaxBoundedSemaphore._waiting`, `.value`                    kombu/asynchronous/semaphore.py
- `Consumer.task_buckets`, `TokenBucket.contents`             celery/worker/consumer/consumer.py, kombu/utils/limits.py
- ETA entries on the timer with the request as first argument celery/worker/strategy.py (call_at), kombu/.../timer.py
- `AsynPool.outbound_buffer`, `._cache`, `._pool[].index`     celery/concurrency/asynpool.py, billiard/pool.py
- `ApplyResult._accepted`, `._accept_callback`, `._worker_pid`, `._write_to`  billiard/pool.py
- `TaskPool.flush`, called when the broker drops, forgets jobs in a child's pipe   celery/concurrency/asynpool.py
- `TaskPool.on_apply`: `accept_callback` is called first in the thread or greenlet that runs the task, and it is where
  an early acknowledgement happens   celery/concurrency/base.py (apply_target), thread.py, solo.py, gevent.py
- what `on_apply` returns: `ApplyResult.f`, a future (threads), or a greenlet (gevent)  celery/concurrency/thread.py
- gevent's `TaskPool._quick_put` spawns and blocks while the pool is full; its timer's queue holds greenlets
- `synloop` calls `connection.drain_events(timeout=2.0)` on the consumer's connection   celery/worker/loops.py
- `Task.Request`, the class or name that `create_request_cls` derives from; `Request.on_failure` is told how a run
  ended, and lets one that raised Ignore be acknowledged   celery/worker/strategy.py, celery/worker/request.py
- `Task.run` is looked up when a tracer is built           celery/app/trace.py
- `build_tracer`: `before_start` comes last before the task's code; a child calls `__trace__`  celery/app/trace.py
- `Task.before_start` does nothing                         celery/app/task.py
- a tracer's `(outcome, info, runtime, text)`: of one that raised Ignore `outcome` is a billiard `ExceptionInfo`, whose
  `.tb` holds the frames, and `info.retval` the exception     celery/app/trace.py, billiard/einfo.py
- `Request.terminate`, and of one that is given back: `_already_cancelled`, `_apply_result`, `worker_pid`;
  `TaskPool.terminate_job`, `ApplyResult.terminate`          celery/worker/request.py, billiard/pool.py
- `state.requests`, `.reserved_requests`, `.active_requests`, `.scheduled_requests` (5.7)   celery/worker/state.py
- `task_consumer.consume`, made in `Tasks.start` but first called by the event loop   celery/worker/loops.py
- `WorkController.blueprint.state` is no longer RUN before the consumer's steps are stopped for good, and the broker
  connection stays until the pool has stopped              celery/bootsteps.py (Blueprint.stop), celery/worker/worker.py
- the Redis channel: `unacked_key`, `unacked_index_key`, `qos._quick_ack`, `qos.can_consume`, `_q_for_pri`,
  `_get_message_priority`, `conn_or_acquire`, `_in_poll`, `_brpop_read`, `_fanout_queues`, `global_keyprefix`
                                                            kombu/transport/redis.py
- `SentinelChannel` is such a channel, whose pools ask the sentinels at each new connection   kombu/transport/redis.py
- `Transport._callbacks`, kombu's queue name -> callback      kombu/transport/virtual/base.py
- the AMQP channel: `callbacks` by consumer tag until the broker's cancel-ok, `no_ack_consumers`, `send_method`,
  `message_to_python`, `connection.server_properties`         amqp/channel.py, kombu/transport/pyamqp.py
- `Consumer._active_tags`, `._active_queue_no_ack` (5.7), `._receive_callback`, `.on_message`   kombu/messaging.py
"""

from __future__ import annotations

import dis
import itertools
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import lru_cache, partial, wraps
from queue import Empty
from types import CodeType, FrameType
from typing import Any, Protocol

import amqp
import billiard
from amqp import spec
from celery import Task, bootsteps
from celery.app.trace import build_tracer
from celery.exceptions import Ignore, Reject, Retry
from celery.utils.imports import symbol_by_name
from celery.worker import state as worker_state
from celery.worker.request import Request
from kombu.utils.json import dumps, loads

from sluicegate.schemas.beats import RunningTask
from sluicegate.schemas.errors import InvalidSetting
from sluicegate.schemas.holds import Then
from sluicegate.schemas.scopes import Claim
from sluicegate.workers.cell import Cell, mark_of
from sluicegate.workers.checkpoints import YIELD, Yielded, way_of
from sluicegate.workers.gate import Gate
from sluicegate.workers.owing import (
    GIVE_BACK,
    KEEP,
    LENGTHS,
    PUT_IN_PLACE,
    SET_ASIDE,
    STORE,
    STORED_FOR_S,
    TAKE_BACK_ASIDE,
    Arrival,
    Late,
    Owed,
    Returned,
    aside_key,
    stored_key,
)
from sluicegate.workers.redelivery import RedeliveryWatch
from sluicegate.workers.station import Station

log = logging.getLogger(__name__)

READ_FROM = {
    "celery": ("5.5", "5.6", "5.7"),
    "kombu": ("5.5", "5.6", "5.7"),
    "billiard": ("4.2", "4.3"),
    "gevent": ("24.10", "26.9"),
    "amqp": ("5.4",),
}
"""The minor versions that the above holds for: the fleet tests run on the newest and on Celery 5.5.0 with kombu 5.5.4,
and the test of the names and shapes has also passed on Celery 5.6.2 with kombu 5.6.2 and billiard 4.2.4."""

_scheduled: Any = getattr(worker_state, "scheduled_requests", None)
"""Requests that wait for their ETA; Celery keeps this set since 5.7."""

IN_HAND_S = 300.0
"""How long by default. RabbitMQ closes a channel that has had a message for longer than its `consumer_timeout`, which
is 30 minutes by default."""

_CHUNK = 500
_LOOK_FOR_OURS = 2000


Wanted = Callable[[Any], bool]
"""Is this request among those that are asked about?"""


# -- what is held, and what is refused -------------------------------------------------------------------------


class PoolSide(Protocol):
    """The pool: where starts are let through, and what it has of those that were."""

    name: str
    """As `celery worker -P` spells it."""

    def guard(self, gate: Gate[Any], hold: Callable[[Any], None]) -> None:
        """Stand in the way of every start; `hold` takes the request of one that came to a closed gate."""

    def watch(self) -> None:
        """Do what can only be done once the pool has started."""

    def unstarted(self, is_wanted: Wanted) -> Iterable[Any]:
        """Take those wanted of the requests that nothing has begun to run out of the pool's hands."""

    def go_on(self) -> None:
        """Start what waits for a slot that a start that did not happen gave back."""

    def is_settled(self, is_wanted: Wanted) -> bool:
        """Has everything wanted that was let through started, come back, or ended?"""

    def forget_looks(self) -> None:
        """An acknowledgement was made: what was seen for it is of no use to the next."""

    def forgotten(self) -> tuple[RunningTask, ...]:
        """Tasks that may still run although Celery forgot them; from any thread."""

    def is_busy(self) -> bool:
        """Can anything still run here?"""

    def end(self, request: Any, then: Then, *, is_hard: bool) -> bool:
        """Have a running request's task ended, for good or to be given back; False where this pool cannot.

        Called again with `is_hard` where it still runs a while later.
        """

    def has_ended(self, request: Any) -> bool:
        """Is nothing of it running any more, after `end`?"""

    def note_waiting(self, task_id: str, is_waiting: bool) -> None:
        """Called where a task runs: it waits at a checkpoint, or no longer does."""

    def is_waiting(self, request: Any) -> bool:
        """Does this running request's task wait at a checkpoint? From any thread."""


class WayBack(Protocol):
    """The broker: how what was fetched and not started gets back to where it came from."""

    def attach(self, consumer: Any, wake: Callable[[], None]) -> None:
        """A new connection's consumer, before its first `consume()`. What was owed on the last one is still owed.

        `wake` is to be called when something came after the hand-back.
        """

    def before_consuming(self) -> None:
        """Right before each `consume()`."""

    def stop_consuming(self) -> None:
        """Cancel, in such a way that what is still under way is handed back too."""

    def stop_queue(self, queue: str) -> None:
        """The same for one queue of several."""

    can_set_aside: bool
    """Can single tasks of a queue be kept out of it for as long as a hold lasts?"""

    def set_aside(self, request: Any) -> None:
        """As `owe`, but beside its queue, out of the way of those that may run, in its order."""

    def take_back_aside(self, held: Collection[str]) -> bool:
        """Put what was set aside, here or by anybody, back to the head of its queue, but for tasks named in `held`.

        False where nothing was. Raises the broker's errors; what was not put back is still there.
        """

    def owe(self, request: Any) -> bool:
        """Take over the message of a request, which is then no longer Celery's; False where it cannot go back."""

    def owe_yielded(self, request: Any) -> bool:
        """As `owe`, for a request whose task began and stopped at a checkpoint: its message may be acknowledged."""

    def keep(self, requests: Iterable[Any]) -> None:
        """Let the broker not take these running requests' messages for lost, however long their tasks wait."""

    def finish(self) -> None:
        """The worker stops, and no loop reads any more: take in what is still under way, so that it can go back."""

    def settle(self) -> None:
        """Hand back all that is owed; raises the broker's errors, and then all is still owed."""

    def settle_apart(self) -> None:
        """As `settle`, over a connection of its own: the consumer's was lost, and there will be no other."""

    def count_owed(self) -> int:
        """How many messages have not gone back yet, and should soon."""

    def look_at_redelivery(self) -> str | None:
        """What there is to say about whether lost workers' messages are given out again; raises the broker's errors."""

    def count_in_hand(self) -> int:
        """How many messages stay here while the gate is closed, since their way back would do harm."""

    def due_in_s(self) -> float | None:
        """When `settle` will have something to do although nothing happened; None: never."""


class Loop(Protocol):
    """What calls `tend` on the consumer's own thread."""

    def attach(self, consumer: Any, tend: Callable[[], None]) -> None:
        """A new connection: from now on `tend` is called when asked for."""

    def register(self, hub: Any) -> None:
        """The event loop starts, or was reset."""

    def wake(self) -> None:
        """Have `tend` called soon; from any thread."""

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> Any:
        """Call `callback` on the consumer's thread; what comes back has `cancel()`."""

    def close(self) -> None:
        """Give back what it holds of the system; only a test outlives a loop."""


@dataclass(frozen=True, slots=True)
class Sides:
    """What a worker stands on."""

    pool: PoolSide
    way_back: WayBack
    loop: Loop


def sides_of(worker: Any, cell: Cell, *, in_hand_s: float = IN_HAND_S) -> Sides:
    """The sides of this worker; raises InvalidSetting for what cannot be held. A gate that leaks is worse than none.

    `in_hand_s`: how long messages may be kept here that are better not returned (`AmqpWayBack`).
    """
    pool = _pool_side(worker)
    if pool is None:
        name = getattr(worker.pool_cls, "__module__", worker.pool_cls)
        raise InvalidSetting("worker_pool", f"{name} is not supported: use prefork, threads, solo or gevent")
    if pool is PreforkPool:
        # Celery 5.5 and 5.6 have no such setting: they always fork.
        if getattr(worker, "pool_start_method", "fork") != "fork":
            raise InvalidSetting("worker_pool_start_method", "spawn is not supported by this version: use fork")
        if worker.optimization in ("fast", "fcfs"):
            log.warning("sluicegate: with -O fast tasks are written ahead to busy children: a pause waits for them")
    way_back = _way_back(worker, in_hand_s)
    if worker.use_eventloop == (pool is GeventPool):
        raise InvalidSetting("worker_pool", f"{pool.name} with this broker has another event loop than was foreseen")
    return Sides(pool(worker, cell), way_back, HubLoop(worker) if worker.use_eventloop else DrainLoop())


def _pool_side(worker: Any) -> type[PreforkPool | ThreadsPool | SoloPool | GeventPool] | None:
    for cls in getattr(worker.pool_cls, "__mro__", ()):
        # By name: importing gevent's module where gevent is not installed or not wanted is no good idea.
        match (cls.__module__, cls.__name__):
            case ("celery.concurrency.prefork", "TaskPool"):
                return PreforkPool
            case ("celery.concurrency.thread", "TaskPool"):
                return ThreadsPool
            case ("celery.concurrency.solo", "TaskPool"):
                return SoloPool
            case ("celery.concurrency.gevent", "TaskPool"):
                return GeventPool
    return None


def _way_back(worker: Any, in_hand_s: float) -> WayBack:
    transport = worker._conninfo.transport
    if transport.driver_name == "py-amqp":
        return AmqpWayBack(in_hand_s)
    if transport.driver_type != "redis":
        raise InvalidSetting(
            "broker_url", f"{transport.driver_type} is not supported by this version: use Redis or RabbitMQ (py-amqp)"
        )
    if not worker._conninfo.transport_options.get("ack_emulation", True):
        raise InvalidSetting("broker_transport_options", "ack_emulation=False loses what is handed back: leave it on")
    if worker._conninfo.transport_cls == "sentinel" and not worker._conninfo.transport_options.get("master_name"):
        # kombu says so too, in a traceback.
        raise InvalidSetting("broker_transport_options", "has no master_name: the broker's URL names sentinels")
    return RedisWayBack()


def redis_broker_of(worker: Any) -> str | None:
    """The URL of the one Redis that the worker consumes from; None where it is another broker, or asks sentinels."""
    url = str(worker._conninfo.as_uri(include_password=True))
    return url if url.startswith(("redis://", "rediss://")) else None


# -- the loops ---------------------------------------------------------------------------------------------------


class HubLoop:
    """The event loop of prefork, threads and solo workers."""

    def __init__(self, worker: Any) -> None:
        self._worker = worker
        self._tend: Callable[[], None] = _nothing
        self._waker_r, self._waker_w = socket.socketpair()
        self._waker_r.setblocking(False)
        self._waker_w.setblocking(False)

    def attach(self, consumer: Any, tend: Callable[[], None]) -> None:
        """`register` follows when the loop starts."""
        self._tend = tend

    def register(self, hub: Any) -> None:
        """The hub forgets its readers when it is reset."""
        hub.add_reader(self._waker_r.fileno(), self._on_wake)

    def wake(self) -> None:
        """By a byte in a pipe, which the loop listens to."""
        # Where the pipe is full of wake-ups that have not been read, one of them will do.
        with suppress(BlockingIOError):
            self._waker_w.send(b"\0")

    def _on_wake(self) -> None:
        with suppress(BlockingIOError):
            self._waker_r.recv(4096)
        self._tend()

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> Any:
        """By the hub's timer."""
        return self._worker.hub.call_later(delay_s, callback)

    def close(self) -> None:
        """The pipe."""
        self._waker_r.close()
        self._waker_w.close()


class DrainLoop:
    """For gevent, whose workers have no event loop: they call `drain_events` again and again, up to 2 s each.

    What is asked for is done between two of these calls, so that it happens on the main greenlet (on another one
    the hand-back was seen to hang), and no call may take longer than CAP_S.
    """

    CAP_S = 0.05

    def __init__(self) -> None:
        self._tend: Callable[[], None] = _nothing
        self._is_due = True
        self._look: _Look | None = None

    def attach(self, consumer: Any, tend: Callable[[], None]) -> None:
        """Stand in the place of the new connection's `drain_events`."""
        self._tend = tend
        self._is_due = True
        drain = consumer.connection.drain_events
        consumer.connection.drain_events = lambda timeout=None, **kw: self._drain(drain, timeout, kw)

    def register(self, hub: Any) -> None:
        """There is no hub."""

    def wake(self) -> None:
        """Noticed within CAP_S."""
        self._is_due = True

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> Any:
        """One at a time is all that is needed."""
        self._look = _Look(time.monotonic() + delay_s, callback)
        return self._look

    def close(self) -> None:
        """Nothing is held."""

    def _drain(self, drain: Callable[..., Any], timeout: float | None, kw: dict[str, Any]) -> Any:
        ends_at = None if timeout is None else time.monotonic() + timeout
        while True:
            self._do_what_is_due()
            now = time.monotonic()
            span_s = self.CAP_S if ends_at is None else min(self.CAP_S, max(0.0, ends_at - now))
            if self._look is not None:
                span_s = max(0.001, min(span_s, self._look.at - now))
            try:
                return drain(timeout=span_s, **kw)
            except TimeoutError:
                if ends_at is not None and time.monotonic() >= ends_at:
                    raise

    def _do_what_is_due(self) -> None:
        look = self._look
        if look is not None and (look.is_canceled or time.monotonic() >= look.at):
            self._look = None
            if not look.is_canceled:
                look.callback()
        if self._is_due:
            self._is_due = False
            self._tend()


@dataclass(slots=True)
class _Look:
    at: float
    callback: Callable[[], None]
    is_canceled: bool = False

    def cancel(self) -> None:
        self.is_canceled = True


def _nothing() -> None:
    pass


# -- prefork -----------------------------------------------------------------------------------------------------


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

    def __init__(self, worker: Any, cell: Cell) -> None:
        self._worker = worker
        self._cell = cell
        self._seen_started: set[int] = set()
        self._orphans: list[Orphan] = []
        self._flush_pool: Callable[[], None] = _nothing

    def guard(self, gate: Gate[Any], hold: Callable[[Any], None]) -> None:
        """Wrap what Celery calls for every start: fresh, waited for a slot, ETA fallen due, rate-limited."""
        worker = self._worker
        start = worker._process_task

        def process_task(request: Any) -> None:
            tell_queue(request)
            if not gate.pass_through(start, request):
                self._free_slot()
                hold(request)

        worker._process_task = process_task
        # Pool.create bound the original where no semaphore guards the pool; with one, it looks it up at each call.
        self._uses_slots = worker.process_task == getattr(worker, "_process_task_sem", None)
        if not self._uses_slots:
            worker.process_task = process_task

    def _free_slot(self) -> None:
        """Give back the slot of a start that did not happen, without waking the next waiter.

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

    def is_settled(self, is_wanted: Wanted) -> bool:
        """A job that a child accepted has not started yet: it accepts, and then enters the task.

        So each must have been seen running, by what the child writes right before the task's own code, in two looks
        a millisecond apart.
        """
        processes = {process.pid: process.index for process in self._pool._pool}
        is_settled = True
        alive: set[int] = set()
        for number, job in list(self._pool._cache.items()):
            if not self._is_task(job):
                continue
            alive.add(number)
            if number in self._seen_started or not is_wanted(job._accept_callback.__self__):
                continue
            is_settled = False
            slot = processes.get(job._worker_pid, -1)
            if job._accepted and (not self._cell.can_see(slot) or self._cell.slot(slot).runs_task(job.correlation_id)):
                self._seen_started.add(number)
        self._seen_started &= alive
        self._orphans = [orphan for orphan in self._orphans if self._has_work(orphan)]
        return is_settled and all(orphan.was_seen for orphan in self._orphans)

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
        """The orphans that still run, or will."""
        return tuple(orphan.task for orphan in list(self._orphans) if self._has_work(orphan))

    def end(self, request: Any, then: Then, *, is_hard: bool) -> bool:
        """By a signal to its child, as a revoke does; of one that is to be given back nobody is told."""
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


# -- pools within the process ------------------------------------------------------------------------------------


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

    def note_begun(self) -> None:
        self.thread = threading.get_ident()


class _PoolWithin:
    """A pool that runs tasks in this process. Handing over is not starting here: it may lie there for long.

    So each start is checked where it really happens, right before the accept callback (that is where an early
    acknowledgement is sent), by the thread or greenlet that will run it.
    """

    name = ""

    def __init__(self, worker: Any, cell: Cell) -> None:
        self._worker = worker
        self._jobs: set[_Job] = set()
        self._by_task: dict[str, _Job] = {}
        self._gate: Gate[Any] | None = None
        self._hold: Callable[[Any], None] = lambda request: None
        self._apply: Callable[..., Any] = _nothing

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

    def watch(self) -> None:
        """Stand before `on_apply`, and have tasks note when they begin."""
        self._apply = self._worker.pool.on_apply
        self._worker.pool.on_apply = self._on_apply

    def _on_apply(
        self, target: Any, args: Any = None, kwargs: Any = None, *, accept_callback: Any, **options: Any
    ) -> Any:
        job = _Job(accept_callback.__self__)
        self._note_starts_of(job.request.task)
        self._jobs.add(job)
        self._by_task[job.request.id] = job

        def accept(*said: Any) -> None:
            assert self._gate is not None
            if not self._gate.pass_through(lambda _: job.note_begun(), job.request):
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

    def _end(self, job: _Job) -> None:
        """Its run is over, or it was held back."""
        self._jobs.discard(job)
        if self._by_task.get(job.request.id) is job:
            del self._by_task[job.request.id]

    def _note_starts_of(self, task: Any) -> None:
        """Have this task's class say when it begins; once. Celery looks for `before_start` when it builds a tracer."""
        if not hasattr(type(task).before_start, "is_noted"):
            note_begin_of(type(task), self._note_begin)
            app = self._worker.app
            task.__trace__ = build_tracer(task.name, task, app.loader, self._worker.hostname, app=app)

    def _note_begin(self, task_id: str) -> None:
        job = self._by_task.get(task_id)
        if job is not None:
            job.seen_at = time.monotonic()

    def unstarted(self, is_wanted: Wanted) -> Iterator[Any]:
        """What lies in the pool and can be taken out of it."""
        yield from ()

    def go_on(self) -> None:
        """No slots are counted here."""

    def is_settled(self, is_wanted: Wanted) -> bool:
        """Has each job that was let through entered the task's own code?"""
        return all(self._has_started(job) for job in list(self._jobs) if is_wanted(job.request))

    def _has_started(self, job: _Job) -> bool:
        return job.seen_at is not None

    def forget_looks(self) -> None:
        """A job that has started has started."""

    def forgotten(self) -> tuple[RunningTask, ...]:
        """Nothing runs here that Celery does not know of."""
        return ()

    def end(self, request: Any, then: Then, *, is_hard: bool) -> bool:
        """A thread cannot be ended."""
        return False

    def has_ended(self, request: Any) -> bool:
        """Its run is over."""
        return all(job.request is not request for job in list(self._jobs))

    def is_busy(self) -> bool:
        """Does any task run?"""
        return bool(self._jobs)

    def note_waiting(self, task_id: str, is_waiting: bool) -> None:
        """With its job."""
        job = self._by_task.get(task_id)
        if job is not None:
            job.is_waiting = is_waiting

    def is_waiting(self, request: Any) -> bool:
        """By its job."""
        job = self._by_task.get(request.id)
        return job is not None and job.is_waiting


class SoloPool(_PoolWithin):
    """The consumer's own thread runs the task: while it does, nothing else happens on it."""

    name = "solo"

    def _hand_over(self, job: _Job, target: Any, args: Any, kwargs: Any, **options: Any) -> Any:
        try:
            return self._apply(target, args, kwargs, **options)
        except _HeldBack:
            return None
        finally:
            self._end(job)


class ThreadsPool(_PoolWithin):
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


class GeventPool(_PoolWithin):
    """Greenlets of one thread: none is interrupted between the check, the note and the task's own code."""

    name = "gevent"

    _LOOK_S = 0.05

    def watch(self) -> None:
        """Celery's way into a full pool waits on the main greenlet for as long as it takes: ours gives up."""
        super().watch()
        self._worker.pool._quick_put = self._put

    def end(self, request: Any, then: Then, *, is_hard: bool) -> bool:
        """Celery takes a greenlet that was ended for one that succeeded: its message could not be given back."""
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


_TRACE = next(code for code in build_tracer.__code__.co_consts if getattr(code, "co_name", "") == "trace_task")


def has_entered(top: FrameType | None) -> bool:
    """Does this thread's stack show that the task's own code has begun? `top` is the innermost frame.

    What Celery's tracer calls after `before_start` is the task. CPython hands the interpreter to another thread
    where a function begins, before its first instruction: a stack that ends there shows no start yet, also where
    something of Celery's own stands in between (autoretry). False where it cannot be told.
    """
    if top is None:
        return False
    is_inside = False
    called: FrameType | None = None
    frame: FrameType | None = top
    while frame is not None:
        if frame.f_code is _TRACE:
            # A task may apply another within itself: the outermost decides.
            is_inside = called is not None and called.f_code.co_name != "before_start"
        called, frame = frame, frame.f_back
    return is_inside and top.f_lasti > _resume_at(top.f_code)


@lru_cache(maxsize=4096)
def _resume_at(code: CodeType) -> int:
    """Where a function's first instruction stands (dis: RESUME), in bytes."""
    return next((step.offset for step in dis.get_instructions(code) if step.opname == "RESUME"), -1)


# -- what waits elsewhere ----------------------------------------------------------------------------------------


def claim_of(request: Any, worker: Claim) -> Claim:
    """What starting this request is to a scope, on a worker that is `worker`."""
    return replace(worker, queue=queue_of(request), task=request.type)


def queue_of(request: Any) -> str | None:
    """The queue that it came from; None where that is not known."""
    return queue_of_message(request.message)


def queue_of_message(message: Any) -> str | None:
    """The same of a message."""
    arrival: Arrival | None = getattr(message, "sluicegate_arrival", None)
    return None if arrival is None else arrival.queue


def tell_queue(request: Any) -> None:
    """Let the task know its queue, wherever it runs: its checkpoints ask for it by `queue_told`."""
    message = request.message
    queue = queue_of_message(message)
    if queue is not None and queue != _default_queue(message.delivery_info or {}):
        request.request_dict["sluicegate_queue"] = queue


def queue_told(context: Any) -> str | None:
    """The queue of a running task, by its `task.request`; None where it is not known."""
    return _default_queue(context.delivery_info or {}) or getattr(context, "sluicegate_queue", None)


def _default_queue(delivery_info: Any) -> str | None:
    """What comes over the default exchange, as tasks do where nothing else was set up, says its queue by itself.

    To say it once more would cost each of them some microseconds, in the worker and in the child. AMQP 0-9-1, 3.1.3.1:
    the default exchange has no name, and the routing key is the queue's.
    """
    return None if delivery_info.get("exchange") else delivery_info.get("routing_key")


def rate_limited(consumer: Any, is_wanted: Wanted) -> Iterator[Any]:
    """Take out the requests that wait in rate-limit buckets."""
    for bucket in consumer.task_buckets.values():
        if bucket is not None:
            for _ in range(len(bucket.contents)):
                entry = bucket.contents.popleft()
                if is_wanted(entry[0]):
                    yield entry[0]
                else:
                    bucket.contents.append(entry)


def waiting_for_eta(consumer: Any, is_wanted: Wanted) -> Iterator[Any]:
    """Take out the requests that wait for their ETA: they too outlive the visibility timeout in a long pause."""
    for ticket, request in _eta_tickets(consumer.timer):
        if not is_wanted(request):
            continue
        consumer.timer.cancel(ticket)
        # The strategy raised the prefetch count for it, and lowers it when the ETA fires.
        consumer.qos.decrement_eventually()
        yield request


def _eta_tickets(timer: Any) -> list[tuple[Any, Any]]:
    """What to cancel, and the request that it would start: `apply_eta_task` and `_limit_post_eta` take it first.

    The queue of gevent's timer holds the greenlet that would call the entry, and that is what must be cancelled.
    """
    found = []
    for scheduled in list(timer._queue):
        entry = scheduled.entry
        if not entry.canceled and entry.args and isinstance(entry.args[0], Request):
            found.append((scheduled if hasattr(scheduled, "kill") else entry, entry.args[0]))
    return found


def is_stopping(consumer: Any) -> bool:
    """Does the whole worker stop, and not only this broker connection?"""
    return bool(consumer.controller.blueprint.state != bootsteps.RUN)  # type: ignore[attr-defined]


def forget(request: Any) -> None:
    """Take a request that is not to start out of Celery's books."""
    worker_state.requests.pop(request.id, None)
    worker_state.reserved_requests.discard(request)
    if _scheduled is not None:
        _scheduled.discard(request)


def running_requests() -> list[Any]:
    """The requests that the pool has accepted and not finished; from any thread."""
    return _copied(worker_state.active_requests)


def running_task(request: Any, *, is_waiting: bool) -> RunningTask:
    """What is said of a running request."""
    started_at = datetime.fromtimestamp(request.time_start, UTC) if request.time_start else None
    return RunningTask(
        id=request.id, name=request.name, queue=queue_of(request), started_at=started_at, is_waiting=is_waiting
    )


def count_reserved(worker: Any) -> int:
    """How many messages are in hand and not started, ETA ones included; from any thread."""
    reserved = set(_copied(worker_state.reserved_requests)) - set(_copied(worker_state.active_requests))
    return len(reserved.union(request for _, request in _eta_tickets(worker.timer)))


def _copied(weak: Any) -> list[Any]:
    """A copy of a set that another thread changes meanwhile: the copy fails then, and is made again."""
    for _ in range(100):
        try:
            return list(weak)
        except RuntimeError:
            continue
    return []


# -- the way back to Redis ---------------------------------------------------------------------------------------


class RedisWayBack:
    """To the head of the list that each message came from, in their order, exactly once."""

    def __init__(self) -> None:
        self._consumer: Any = None
        self._owed: list[Owed] = []
        self._aside: list[Owed] = []
        self._late: list[Late] = []
        self._returned: dict[str, Returned] = {}
        self._serials = itertools.count()
        self._credit: Any = None
        self._wake: Callable[[], None] = _nothing
        self._redelivery: RedeliveryWatch | None = None

    @property
    def _channel(self) -> Any:
        return self._consumer.task_consumer.channel

    def attach(self, consumer: Any, wake: Callable[[], None]) -> None:
        """Remember of each message which queue it came from: kombu does not say."""
        self._consumer = consumer
        self._wake = wake
        # Of what came on an earlier connection kombu may have restored some when that was closed.
        self._doubt()
        self._returned.clear()
        channel = self._channel
        basic_consume = channel.basic_consume
        serials, now = self._serials, time.monotonic

        def remember_queue(queue: str, no_ack: bool, callback: Callable[[Any], None], *args: Any, **kw: Any) -> Any:
            def arrived(message: Any) -> None:
                message.sluicegate_arrival = Arrival(queue, next(serials), now())
                callback(message)

            return basic_consume(queue, no_ack, arrived, *args, **kw)

        channel.basic_consume = remember_queue

    def stop_consuming(self) -> None:
        """Cancel, and catch what an outstanding BRPOP may still deliver: kombu would put it at the tail."""
        tasks = self._consumer.task_consumer
        queues = [name for name in tasks.channel._active_queues if name not in tasks.channel._fanout_queues]
        tasks.cancel()
        # Without credit kombu leaves the reply of that BRPOP unread, and the message in it is nowhere: not in the
        # queue, not in unacked. No new BRPOP is sent while no queue is active, so this lets in no other.
        qos = tasks.channel.qos
        credit = qos.__dict__.get("can_consume")
        if credit is not _always:
            self._credit = credit
            qos.can_consume = _always
        callbacks = tasks.channel.connection._callbacks
        for queue in queues:
            callbacks[queue] = self._late_callback(queue)

    def finish(self) -> None:
        """A BRPOP that is out would be served with the head of what goes back, and nobody would read it.

        It ends by itself within `brpop_timeout`, a second by default; kombu waits for it too, when it closes.
        """
        self.stop_consuming()
        if self._channel._in_poll:
            with suppress(Empty):
                self._channel._brpop_read()

    def stop_queue(self, queue: str) -> None:
        """A BRPOP that is out asks for it too: what it delivers is caught."""
        channel = self._channel
        self._consumer.task_consumer.cancel_by_queue(queue)
        if queue not in channel._fanout_queues:
            channel.connection._callbacks[queue] = self._late_callback(queue)

    def before_consuming(self) -> None:
        """Take back what `stop_consuming` put over the channel's credit; Celery may have put something there too."""
        self._returned.clear()
        qos = self._channel.qos
        if qos.__dict__.get("can_consume") is not _always:
            return
        if self._credit is None:
            del qos.can_consume
        else:
            qos.can_consume = self._credit

    def _late_callback(self, queue: str) -> Callable[[dict[str, Any]], None]:
        channel = self._channel

        def arrived_late(raw: dict[str, Any]) -> None:
            late = Late(queue, raw, next(self._serials))
            self._late.append(late)
            self._wake()
            # At once, as kombu does on arrival: until then nobody has it but this process, which may be killed. Where
            # that fails, `settle` tries again, and what it raises is told.
            with suppress(Exception), channel.conn_or_acquire() as client:
                self._store_late(channel, client, late)

        return arrived_late

    def count_owed(self) -> int:
        """Late ones included."""
        return len(self._owed) + len(self._aside) + len(self._late)

    def owe_yielded(self, request: Any) -> bool:
        """Where it was acknowledged, it stands in `unacked` no more, and must be put there before it can go back."""
        entry = None
        if request.acknowledged:
            info = request.message.delivery_info
            entry = dumps([request.message._raw, info.get("exchange"), info.get("routing_key")])
        is_owed = self._take_over(request, entry)
        if is_owed:
            _tell_rejected(request)
        return is_owed

    can_set_aside = True

    def set_aside(self, request: Any) -> None:
        """To a list beside the one it came from; a broadcast is nobody else's, and is dropped here."""
        if self.owe(request):
            self._aside.append(self._owed.pop())

    def take_back_aside(self, held: Collection[str]) -> bool:
        """One look, and one script for each list that there is something in."""
        channel = self._channel
        queues = [queue.name for queue in self._consumer.task_consumer.queues]
        names = dict.fromkeys(channel._q_for_pri(queue, pri) for queue in queues for pri in channel.priority_steps)
        lists = [_prefix(channel) + name for name in names]
        if not lists:
            return False
        with channel.conn_or_acquire() as client:
            lengths = client.execute_command("EVAL", LENGTHS, len(lists), *map(aside_key, lists))
            filled = [key for key, length in zip(lists, lengths, strict=True) if length]
            for key in filled:
                client.execute_command("EVAL", TAKE_BACK_ASIDE, 2, aside_key(key), key, *sorted(held))
        return bool(filled)

    def keep(self, requests: Iterable[Any]) -> None:
        """By making them look as if they had just come; one that was restored meanwhile is left alone."""
        channel = self._channel
        tags = [r.message.delivery_tag for r in requests if not r.acknowledged and r.message.channel is channel]
        if tags:
            with channel.conn_or_acquire() as client:
                client.execute_command("EVAL", KEEP, 1, _unacked(channel)[1], time.time(), *tags)

    def look_at_redelivery(self) -> str | None:
        """By the lock under which any worker does it for all."""
        channel = self._channel
        key = _prefix(channel) + channel.unacked_mutex_key
        if self._redelivery is None:
            self._redelivery = RedeliveryWatch(key, channel.unacked_mutex_expire)
        with channel.conn_or_acquire() as client:
            holder = client.execute_command("GET", key)
        return self._redelivery.see(holder, time.monotonic())

    def count_in_hand(self) -> int:
        """Broadcasts are kept by whoever asked."""
        return 0

    def due_in_s(self) -> float | None:
        """Never: what is owed is handed back at once."""
        return None

    def owe(self, request: Any) -> bool:
        """False for a broadcast, which has no list to go back to."""
        is_owed = self._take_over(request)
        if is_owed:
            # Last, since it goes to the broker and may fail: the debt stands by then.
            request.send_event("task-rejected", requeue=True)
        return is_owed

    def _take_over(self, request: Any, entry: str | None = None) -> bool:
        """Make a debt of its message. `entry`: as `Owed` has it."""
        channel = self._channel
        message = request.message
        arrival: Arrival | None = getattr(message, "sluicegate_arrival", None)
        if arrival is None or arrival.queue in channel._fanout_queues:
            return False
        priority = channel._get_message_priority(message._raw, reverse=False)
        self._owed.append(
            Owed(
                tag=message.delivery_tag,
                key=_prefix(channel) + channel._q_for_pri(arrival.queue, priority),
                serial=arrival.serial,
                arrived_at=arrival.at,
                payload=dumps(message._raw),
                is_sure=message.channel is channel,
                entry=entry,
            )
        )
        # From here on the message is not Celery's: neither acknowledged nor restored by it.
        channel.qos._quick_ack(message.delivery_tag)
        request.acknowledged = True
        message._state = "REQUEUED"
        return True

    def settle(self) -> None:
        """Tags and lists in one script."""
        if self.count_owed():
            self._settle_over(self._channel)

    def settle_apart(self) -> None:
        """What came on the lost connection kombu may have restored when that was closed."""
        self._doubt()
        with self._consumer.app.connection_for_read() as connection:
            self._settle_over(connection.default_channel)

    def _doubt(self) -> None:
        self._owed = [replace(owed, is_sure=False) for owed in self._owed]
        self._aside = [replace(owed, is_sure=False) for owed in self._aside]

    def _settle_over(self, channel: Any) -> None:
        with channel.conn_or_acquire() as client:
            self._store_acknowledged(channel, client)
            self._put_aside(channel, client)
            if self._owed:
                self._give_back(channel, client)
            while self._late:
                self._give_back_late(channel, client, self._late[0])
                self._late.pop(0)

    def _store_acknowledged(self, channel: Any, client: Any) -> None:
        for number, owed in enumerate(self._owed):
            if owed.entry is not None:
                self._store(channel, client, owed.tag, owed.entry, owed.debt)
                # From here on a tag that is gone was handed back.
                self._owed[number] = replace(owed, entry=None, is_sure=False)

    def _store(self, channel: Any, client: Any, tag: str, entry: str, debt: str) -> None:
        keys = (*_unacked(channel), stored_key(_prefix(channel), debt))
        client.execute_command("EVAL", STORE, len(keys), *keys, tag, entry, time.time(), STORED_FOR_S)

    def _put_aside(self, channel: Any, client: Any) -> None:
        self._aside.sort(key=lambda owed: owed.serial)
        while self._aside:
            owed = self._aside[0]
            # As below: if this fails, its reply may be all that was lost.
            self._aside[0] = replace(owed, is_sure=False)
            force = "1" if owed.is_sure else ""
            keys = (*_unacked(channel), aside_key(owed.key))
            client.execute_command("EVAL", SET_ASIDE, len(keys), *keys, owed.tag, owed.payload, force)
            del self._aside[0]

    def _give_back(self, channel: Any, client: Any) -> None:
        unacked, index = _unacked(channel)
        self._owed.sort(key=lambda owed: owed.serial)
        # Where some went back before, these may not go in front of them: each is put in its place, oldest first.
        stragglers = [owed for owed in self._owed if owed.key in self._returned]
        self._owed = [owed for owed in self._owed if owed.key not in self._returned] + stragglers
        while len(self._owed) > len(stragglers):
            # Newest first, and not all in one script: an unlimited prefetch may have brought a million.
            end = len(self._owed) - len(stragglers)
            chunk = slice(max(0, end - _CHUNK), end)
            newest = self._owed[chunk][::-1]
            # What is stored is what was delivered; our copy serves where the broker lost its data meanwhile.
            stored = client.execute_command("HMGET", unacked, *(owed.tag for owed in newest))
            now = time.monotonic()
            args: list[str] = []
            payloads: list[str] = []
            for owed, entry in zip(newest, stored, strict=True):
                payload = dumps(loads(entry)[0]) if entry else owed.payload
                is_sure = owed.is_sure and now - owed.arrived_at < channel.visibility_timeout / 2
                args += [owed.tag, owed.key, payload, "1" if is_sure else ""]
                payloads.append(payload)
            # If this fails, its reply may be all that was lost: then a tag that is gone was handed back by it.
            self._owed[chunk] = [replace(owed, is_sure=False) for owed in reversed(newest)]
            client.execute_command("EVAL", GIVE_BACK, 2, unacked, index, *args)
            del self._owed[chunk]
            for owed, payload in zip(newest, payloads, strict=True):
                self._returned.setdefault(owed.key, Returned()).add(owed.tag, owed.serial, payload)
        while self._owed:
            owed = self._owed[0]
            self._put_in_place(channel, client, owed.key, owed.tag, owed.serial, owed.payload)
            del self._owed[0]

    def _store_late(self, channel: Any, client: Any, late: Late) -> None:
        info = late.raw["properties"]["delivery_info"]
        entry = dumps([late.raw, info["exchange"], info["routing_key"]])
        self._store(channel, client, late.tag, entry, late.debt)
        late.is_stored = True

    def _give_back_late(self, channel: Any, client: Any, late: Late) -> None:
        if not late.is_stored:
            # So that a second try can tell a first one.
            self._store_late(channel, client, late)
        priority = channel._get_message_priority(late.raw, reverse=False)
        key = _prefix(channel) + channel._q_for_pri(late.queue, priority)
        self._put_in_place(channel, client, key, late.tag, late.serial, dumps(late.raw))

    def _put_in_place(self, channel: Any, client: Any, key: str, tag: str, serial: int, payload: str) -> None:
        ours = self._returned.setdefault(key, Returned())
        # One of ours can only have been caught at the head, where nothing of ours is in front of it.
        is_ours = tag in ours.tags
        older = [] if is_ours else ours.older_than(serial)
        client.execute_command("EVAL", PUT_IN_PLACE, 3, *_unacked(channel), key, tag, payload, _LOOK_FOR_OURS, *older)
        if not is_ours:
            ours.add(tag, serial, payload)


def _prefix(channel: Any) -> str:
    """The prefixing client of kombu puts it on for some commands: it gets none of those, and this on every key."""
    return getattr(channel, "global_keyprefix", None) or ""


def _unacked(channel: Any) -> tuple[str, str]:
    """The keys of what was delivered and not acknowledged: the hash, and the index by time."""
    return _prefix(channel) + channel.unacked_key, _prefix(channel) + channel.unacked_index_key


def _tell_rejected(request: Any) -> None:
    """For who watches. It goes to the broker, which may be away: the task's way back does not depend on it."""
    try:
        request.send_event("task-rejected", requeue=True)
    except Exception as error:
        log.debug("sluicegate: the event of %s could not be sent (%s)", request.id, error)


def _always() -> bool:
    return True


# -- the way back to RabbitMQ ------------------------------------------------------------------------------------


@dataclass(slots=True, eq=False)
class _Delivery:
    """A message of an AMQP queue that came and has not started. `again` gives it to Celery as if it came now."""

    message: Any
    queue: str
    again: Callable[[], None]
    task: str = ""
    since: float = field(default_factory=time.monotonic)

    @property
    def tag(self) -> int:
        """Its delivery tag: one channel's come in rising order."""
        return int(self.message.delivery_tag)

    @property
    def count(self) -> int:
        """How often a quorum queue has got it back."""
        return int((self.message.headers or {}).get("x-delivery-count") or 0)


class AmqpWayBack:
    """To its place in the queue where RabbitMQ has one for it; where it has none, in hand for as long as that may be.

    A classic queue puts a message that is returned where it was, in whatever order and from however many workers they
    come. A quorum queue counts each return, and drops what was returned more often than its delivery limit (20 since
    RabbitMQ 4.0); without a limit (the default before) what is returned goes to the tail. So what came from a quorum
    queue is not returned: the consumer stays, and what it delivers, at most the prefetch, is kept here unacknowledged
    and given to Celery when the gate opens. If the worker dies, RabbitMQ puts it back to the head in its order. Only
    when it has been kept for `in_hand_s` is it returned, the oldest first, and the consumer cancelled. The same holds
    for a queue that would be deleted with its last consumer (auto-delete: Celery's broadcasts).

    docs/decisions/0022-rabbitmq.md has the experiments.
    """

    def __init__(self, in_hand_s: float = IN_HAND_S) -> None:
        self._in_hand_s = in_hand_s
        self._consumer: Any = None
        self._wake: Callable[[], None] = _nothing
        self._is_open = False
        self._stopped: set[str] = set()
        self._owed: list[_Delivery] = []
        self._yielded: list[Any] = []
        self._in_hand: list[_Delivery] = []
        self._queues: dict[str, str] = {}
        self._cancelling: set[str] = set()
        self._was_warned = False

    @property
    def _tasks(self) -> Any:
        return self._consumer.task_consumer

    @property
    def _channel(self) -> Any:
        return self._tasks.channel

    def attach(self, consumer: Any, wake: Callable[[], None]) -> None:
        """Remember which queue each message came from.

        Nothing that was unacknowledged on the connection before is owed any more: RabbitMQ itself returned it.
        """
        self._consumer = consumer
        self._wake = wake
        self._is_open = False
        self._owed.clear()
        self._in_hand.clear()
        self._stopped.clear()
        self._queues.clear()
        self._cancelling.clear()
        channel = self._channel
        basic_consume, to_python = channel.basic_consume, channel.message_to_python

        def remember_queue(queue: str, *args: Any, consumer_tag: str, **kw: Any) -> Any:
            self._queues[consumer_tag] = queue
            return basic_consume(queue, *args, consumer_tag=consumer_tag, **kw)

        def arrived(raw: Any) -> Any:
            message = to_python(raw)
            if (queue := self._queues.get(raw.delivery_info.get("consumer_tag"))) is not None:
                message.sluicegate_arrival = Arrival(queue, message.delivery_tag, time.monotonic())
            return message

        channel.basic_consume, channel.message_to_python = remember_queue, arrived
        self._warn_once()

    def _warn_once(self) -> None:
        if self._was_warned or self._version() >= (4, 0):
            return
        self._was_warned = True
        names = [name for name in self._consumer.app.amqp.queues.consume_from if self._is_quorum(name)]
        if unlimited := [name for name in names if self._limit_of(name) is None]:
            log.warning(
                "sluicegate: queue %s declares no x-delivery-limit: RabbitMQ before 4.0 puts what is returned after "
                "%g s of a pause to the tail, unless a policy sets a delivery-limit",
                ", ".join(unlimited),
                self._in_hand_s,
            )

    def _version(self) -> tuple[int, ...]:
        text = str(self._channel.connection.server_properties.get("version", ""))
        return tuple(int(part) for part in text.split(".")[:2] if part.isdigit())

    def _declared(self, queue: str) -> Any:
        return self._consumer.app.amqp.queues.get(queue)

    def _is_quorum(self, queue: str) -> bool:
        arguments = getattr(self._declared(queue), "queue_arguments", None) or {}
        return bool(arguments.get("x-queue-type") == "quorum")

    def _is_deleted_with_its_consumer(self, queue: str) -> bool:
        return bool(getattr(self._declared(queue), "auto_delete", False))

    def _stays(self, queue: str) -> bool:
        return self._is_quorum(queue) or self._is_deleted_with_its_consumer(queue)

    def _limit_of(self, queue: str) -> int | None:
        """The delivery limit as far as it can be known: a policy's is not shown to clients."""
        arguments = getattr(self._declared(queue), "queue_arguments", None) or {}
        limit = arguments.get("x-delivery-limit", 20 if self._version() >= (4, 0) else None)
        return None if limit is None or limit < 0 else int(limit)

    def stop_consuming(self) -> None:
        """Catch what is still under way; cancel where what is caught can be returned.

        The broker's answer to the cancel is not waited for here: a broker that hangs must not hang the worker. Until it
        has come, `count_owed` says that something may be under way.
        """
        self._is_open = False
        for queue in list(self._tasks._active_tags):
            self._catch(queue)

    def stop_queue(self, queue: str) -> None:
        """And take it out of what the next `consume()` asks for."""
        self._stopped.add(queue)
        if queue in self._tasks._active_tags:
            self._catch(queue)
        self._tasks._queues.pop(queue, None)

    def _catch(self, queue: str) -> None:
        tag = self._tasks._active_tags[queue]
        if tag in self._channel.callbacks:
            self._channel.callbacks[tag] = self._caught
        if not self._stays(queue):
            self._cancel(queue)

    def _cancel(self, queue: str) -> None:
        channel, tasks = self._channel, self._tasks
        tag = tasks._active_tags[queue]
        channel.send_method(spec.Basic.Cancel, "sb", (tag, False))
        del tasks._active_tags[queue]
        # kombu 5.5 keeps no such book.
        getattr(tasks, "_active_queue_no_ack", {}).pop(queue, None)
        channel.no_ack_consumers.discard(tag)
        self._cancelling.add(tag)

    def _caught(self, raw: Any) -> None:
        """In the place of the consumer's callback from the first pause on."""
        receive = self._tasks._receive_callback
        queue = self._queues.get(raw.delivery_info.get("consumer_tag"), "")
        if self._is_open and queue not in self._stopped:
            receive(raw)
            return
        self._take(self._channel.message_to_python(raw), lambda: receive(raw))
        self._wake()

    def _take(self, message: Any, again: Callable[[], None]) -> None:
        delivery = _Delivery(message, queue_of_message(message) or "", again)
        # The header tells of a quorum queue that the app does not know to be one.
        (self._in_hand if self._stays(delivery.queue) or delivery.count else self._owed).append(delivery)

    def before_consuming(self) -> None:
        """Give Celery what is in hand, in the order in which it came, before anything newer can come."""
        self._is_open = True
        self._stopped = {queue for queue in self._stopped if queue not in self._tasks._queues}
        self._give_again(lambda delivery: not delivery.task and delivery.queue not in self._stopped)

    def _give_again(self, is_wanted: Callable[[_Delivery], bool]) -> bool:
        wanted = sorted((delivery for delivery in self._in_hand if is_wanted(delivery)), key=lambda d: d.tag)
        for delivery in wanted:
            self._in_hand.remove(delivery)
            delivery.again()
        return bool(wanted)

    can_set_aside = True

    def set_aside(self, request: Any) -> None:
        """In hand, unacknowledged: AMQP has no place beside a queue. They take up the prefetch meanwhile."""
        message, tasks = request.message, self._tasks
        request.acknowledged = True
        if message.channel is tasks.channel:
            again = partial(tasks.on_message, message)
            self._in_hand.append(_Delivery(message, queue_of_message(message) or "", again, task=request.type))
        request.send_event("task-rejected", requeue=True)

    def take_back_aside(self, held: Collection[str]) -> bool:
        """To Celery itself; what a worker that is gone had set aside, RabbitMQ has returned."""
        return self._give_again(lambda delivery: bool(delivery.task) and delivery.task not in held)

    def owe(self, request: Any) -> bool:
        """Always true: what cannot go back is kept here, and what came on a lost connection went back by itself."""
        message, tasks = request.message, self._tasks
        request.acknowledged = True
        if message.channel is tasks.channel:
            self._take(message, partial(tasks.on_message, message))
        # Last, since it goes to the broker and may fail.
        request.send_event("task-rejected", requeue=True)
        return True

    def owe_yielded(self, request: Any) -> bool:
        """Where it was acknowledged, RabbitMQ has it no more: it is sent again, and goes to the tail."""
        if not request.acknowledged:
            return self.owe(request)
        self._yielded.append(request.message)
        _tell_rejected(request)
        return True

    def keep(self, requests: Iterable[Any]) -> None:
        """RabbitMQ asks for no sign of life of a message; its `consumer_timeout` cannot be put off either."""

    def finish(self) -> None:
        """What comes now is not acknowledged: RabbitMQ returns it when the connection closes."""

    def count_owed(self) -> int:
        """Consumers whose cancel the broker has not confirmed count too: something may be under way from them."""
        return len(self._owed) + len(self._yielded) + self._count_cancelling()

    def _count_cancelling(self) -> int:
        self._cancelling = {tag for tag in self._cancelling if tag in self._channel.callbacks}
        return len(self._cancelling)

    def look_at_redelivery(self) -> str | None:
        """The server gives out again what a closed connection had in hand, and needs no worker for it."""
        return None

    def count_in_hand(self) -> int:
        """From quorum queues and auto-delete queues, and what was set aside; from any thread."""
        return len(self._in_hand)

    def due_in_s(self) -> float | None:
        """When what is in hand has been kept for long enough."""
        if not self._in_hand:
            return None
        return max(0.0, min(delivery.since for delivery in self._in_hand) + self._in_hand_s - time.monotonic())

    def settle(self) -> None:
        """Return what is owed, the oldest first: that is the order in which a quorum queue will give it out again."""
        if self.due_in_s() == 0:
            self._return_what_is_in_hand()
        self._owed.sort(key=lambda delivery: delivery.tag)
        while self._owed:
            self._return(self._owed[0].message)
            del self._owed[0]
        if self._yielded:
            self._send_yielded(self._channel.connection)

    def settle_apart(self) -> None:
        """What was unacknowledged on the lost connection, RabbitMQ itself returned."""
        self._owed.clear()
        self._in_hand.clear()
        self._cancelling.clear()
        if self._yielded:
            with self._consumer.app.connection_for_read() as connection:
                self._send_yielded(connection.default_channel.connection)

    def _send_yielded(self, connection: Any) -> None:
        while self._yielded:
            self._send_again(connection, self._yielded[0])
            del self._yielded[0]

    def _return(self, message: Any) -> None:
        """By basic.nack, which py-amqp does not offer: since RabbitMQ 4.3 it does not count, as basic.reject does."""
        channel = self._channel
        if message.acknowledged:
            return
        if channel.connection.server_capabilities.get("basic.nack"):
            channel.send_method(spec.Basic.Nack, "Lbb", (message.delivery_tag, False, True))
        else:
            channel.basic_reject(message.delivery_tag, requeue=True)
        message._state = "REQUEUED"

    def _send_again(self, connection: Any, message: Any) -> None:
        """The same message, straight to the queue it came from, on a channel of its own that waits for the answer."""
        properties = dict(message.properties)
        headers = dict(message.headers or {})
        # kombu has unpacked the body; the count was the broker's.
        for name in ("compression", "x-delivery-count"):
            headers.pop(name, None)
        properties["application_headers"] = headers
        channel = connection.channel()
        try:
            again = amqp.Message(message.body, **properties)
            channel.basic_publish_confirm(again, exchange="", routing_key=queue_of_message(message) or "")
        finally:
            channel.close()

    def _return_what_is_in_hand(self) -> None:
        """Cancel first, and return when the broker has confirmed that: it would be delivered here again at once.

        What came from an auto-delete queue is, and on purpose: to be in hand anew.
        """
        active = self._tasks._active_tags
        for queue in {delivery.queue for delivery in self._in_hand if self._is_quorum(delivery.queue)} & set(active):
            if not self._is_open or queue in self._stopped:
                self._cancel(queue)
        if self._count_cancelling():
            return
        now = time.monotonic()
        kept = [delivery for delivery in self._in_hand if not self._may_be_returned(delivery)]
        self._owed += [delivery for delivery in self._in_hand if delivery not in kept]
        for delivery in kept:
            delivery.since = now
        self._in_hand = kept

    def _may_be_returned(self, delivery: _Delivery) -> bool:
        if self._is_quorum(delivery.queue) and delivery.queue in self._tasks._active_tags:
            return False
        limit = self._limit_of(delivery.queue) if self._version() < (4, 3) else None
        if limit is None or delivery.count < limit:
            return True
        log.warning("sluicegate: %s is at its delivery limit and is kept: a return would drop it", delivery.message)
        return False


# -- tasks that stop at a checkpoint -----------------------------------------------------------------------------


class YieldedRun(Ignore):
    """How a run ends that stopped at a checkpoint and goes on later: no result, no failure, no retry."""


def prepare_tasks(app: Any, station: Station, on_yield: Callable[[Any], None]) -> None:
    """Have the runs of tasks that declare `on_quiesce` end as they said; raises InvalidSetting.

    Before the pool forks. `on_yield` takes the request of a run that yielded, from whichever thread hears of it.
    """
    for name, task in app.tasks.items():
        way = way_of(task)
        if not hasattr(task, "on_quiesce"):
            continue
        task.run = _minding_the_cursor(task, station)
        # One that waits yields too, when its worker is told to stop.
        task.Request = _yielding(symbol_by_name(task.Request), on_yield)
        if way == YIELD:
            log.debug("sluicegate: %s yields when it is quiesced", name)


def _minding_the_cursor(task: Any, station: Station) -> Callable[..., Any]:
    run = task.run

    @wraps(run)
    def runs(*args: Any, **kwargs: Any) -> Any:
        request = task.request
        if request.called_directly or request.is_eager:
            return run(*args, **kwargs)
        try:
            value = run(*args, **kwargs)
        except Yielded:
            station.let_go(request.id)
            raise YieldedRun from None
        except (Retry, Reject):
            station.let_go(request.id)
            raise
        except Exception:
            station.drop_cursor(request.id)
            raise
        station.drop_cursor(request.id)
        return value

    return runs


def _yielding(base: Any, on_yield: Callable[[Any], None]) -> type:
    class YieldingRequest(base):  # type: ignore[misc]
        def on_failure(self, exc_info: Any, *args: Any, **kwargs: Any) -> Any:
            exc = exc_info.exception
            if not isinstance(getattr(exc, "exc", exc), YieldedRun):
                return super().on_failure(exc_info, *args, **kwargs)
            worker_state.task_ready(self)
            on_yield(self)
            return None

    return YieldingRequest


# -- seeing a start ----------------------------------------------------------------------------------------------


def note_begin_of(task_class: Any, note: Callable[[str], None]) -> None:
    """Have `note` called with the task's id when a task of this class begins; once, where tasks share the class.

    `before_start` is the last thing that Celery calls before the task's own code, after every receiver of
    `task_prerun` and after the STARTED state has been stored: seen later than that, a start is a start.
    """
    original = task_class.before_start
    if hasattr(original, "is_noted"):
        return

    def before_start(task: Any, task_id: str, args: Any, kwargs: Any) -> None:
        note(task_id)
        # Celery's own does nothing, and most tasks have no other.
        if original is not Task.before_start:
            original(task, task_id, args, kwargs)

    before_start.is_noted = True  # type: ignore[attr-defined]
    task_class.before_start = before_start


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

    The tracers are built once more, since they look for `before_start` when they are built.
    """
    parent = os.getpid()

    def note_starts(**_: Any) -> None:
        if os.getpid() == parent:
            return
        slot = getattr(billiard.current_process(), "index", -1)
        child = _Child(cell, slot)
        for name, task in app.tasks.items():
            note_begin_of(type(task), child.note_begin)
            task.__trace__ = child.noting_end(build_tracer(name, task, app.loader, hostname, app=app))

    return note_starts


class _Child:
    """A pool child that writes what it begins and ends. It runs one task at a time."""

    def __init__(self, cell: Cell, slot: int) -> None:
        self._begin, self._end = cell.noting(slot)
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
