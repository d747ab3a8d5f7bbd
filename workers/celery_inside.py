"""Everything that touches the insides of Celery, kombu and billiard. Nothing else in sluicegate does.

Read from Celery 5.5.3, 5.6.0 and 5.7.0, kombu 5.5.4 and 5.7.0, billiard 4.3.2. `tests/unit/test_celery_inside.py`
asserts each name and each shape used here, so that a new version that changes one fails loudly.

What is relied on                                             where it stands
- `WorkController._process_task`, looked up at call time      celery/worker/worker.py
- `WorkController.process_task`, bound when the pool is made  celery/worker/components.py (Pool.create)
- `LaxBoundedSemaphore._waiting`, `.value`                    kombu/asynchronous/semaphore.py
- `Consumer.task_buckets`, `TokenBucket.contents`             celery/worker/consumer/consumer.py, kombu/utils/limits.py
- ETA entries on the timer with the request as first argument celery/worker/strategy.py (call_at), kombu/.../timer.py
- `AsynPool.outbound_buffer`, `._cache`, `._pool[].index`     celery/concurrency/asynpool.py, billiard/pool.py
- `ApplyResult._accepted`, `._accept_callback`, `._worker_pid`  billiard/pool.py
- `state.requests`, `.reserved_requests`, `.active_requests`, `.scheduled_requests` (5.7)   celery/worker/state.py
- `task_consumer.consume`, made in `Tasks.start` but first called by the event loop   celery/worker/loops.py
- the Redis channel: `unacked_key`, `unacked_index_key`, `qos._quick_ack`, `_q_for_pri`, `_get_message_priority`,
  `conn_or_acquire`, `_fanout_queues`, `global_keyprefix`     kombu/transport/redis.py
- `Transport._callbacks`, kombu's queue name -> callback      kombu/transport/virtual/base.py
"""

from __future__ import annotations

import itertools
import logging
import os
import socket
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import billiard
from celery.concurrency.prefork import TaskPool as PreforkPool
from celery.worker import state as worker_state
from celery.worker.request import Request
from kombu.utils.json import dumps, loads

from sluicegate.schemas.beats import RunningTask
from sluicegate.schemas.errors import InvalidSetting
from sluicegate.workers.cell import Cell
from sluicegate.workers.gate import Gate

log = logging.getLogger(__name__)

READ_FROM = {"celery": ("5.5", "5.6", "5.7"), "kombu": ("5.5", "5.6", "5.7"), "billiard": ("4.2", "4.3")}
"""The minor versions that the above was read from and tested with."""

_scheduled: Any = getattr(worker_state, "scheduled_requests", None)
"""Requests that wait for their ETA; Celery keeps this set since 5.7."""

_CHUNK = 500
_LOOK_FOR_OURS = 2000
_SETTLE_S = 0.001
_RETRY_S = 0.1

# Puts messages back at the HEAD of their lists. BRPOP takes from the right, so the head is the right end, and
# they come newest first: the oldest ends in front. Dropping the tag and pushing are one step, and a tag that is
# no longer there was restored by someone else: pushing it too would run it twice. `force` is for messages whose
# tag cannot have been restored yet, so that its absence means that the broker lost its data.
#   KEYS[1] unacked, KEYS[2] unacked index; ARGV: tag, key, payload, force ("1" or ""), and so on
_GIVE_BACK = """
local returned = 0
for i = 1, #ARGV, 4 do
  local was_ours = redis.call('HDEL', KEYS[1], ARGV[i])
  redis.call('ZREM', KEYS[2], ARGV[i])
  if was_ours == 1 or ARGV[i + 3] == '1' then
    redis.call('RPUSH', ARGV[i + 1], ARGV[i + 2])
    returned = returned + 1
  end
end
return returned
"""

# A message that a BRPOP delivered after the hand-back belongs right behind the newest of ours that was older,
# wherever that stands by now: other workers may have put theirs in front. Where none of ours is found near the
# head, they have been taken, and it goes to the head itself. No tag exists for it yet.
#   KEYS[1] list; ARGV[1] payload; ARGV[2] how far to look; ARGV[3..] the older payloads of ours, oldest first
_GIVE_BACK_LATE = """
for i = #ARGV, 3, -1 do
  local at = redis.call('LPOS', KEYS[1], ARGV[i], 'RANK', -1, 'MAXLEN', ARGV[2])
  if at then
    local before = redis.call('RPOP', KEYS[1], redis.call('LLEN', KEYS[1]) - at)
    redis.call('RPUSH', KEYS[1], ARGV[1])
    for j = #before, 1, -1 do
      redis.call('RPUSH', KEYS[1], before[j])
    end
    return #before
  end
end
redis.call('RPUSH', KEYS[1], ARGV[1])
return 0
"""


@dataclass(frozen=True, slots=True)
class Arrival:
    """Where a message came from, how many came before it, and when (monotonic seconds)."""

    queue: str
    serial: int
    at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Owed:
    """A message that must go back: its delivery tag, the list it came from, and its place among the others.

    `is_sure`: it came on the connection that is still open, so that nobody but us can have restored it.
    """

    tag: str
    key: str
    serial: int
    arrived_at: float
    payload: str
    is_sure: bool = True


def check_worker(worker: Any) -> None:
    """Refuse what this version cannot hold; raises InvalidSetting. A gate that leaks is worse than none."""
    if not (isinstance(worker.pool_cls, type) and issubclass(worker.pool_cls, PreforkPool)):
        name = getattr(worker.pool_cls, "__module__", worker.pool_cls)
        raise InvalidSetting("worker_pool", f"{name} is not supported by this version: use prefork")
    # Celery 5.5 and 5.6 have no such setting: they always fork.
    if getattr(worker, "pool_start_method", "fork") != "fork":
        raise InvalidSetting("worker_pool_start_method", "spawn is not supported by this version: use fork")
    transport = worker._conninfo.transport
    if transport.driver_type != "redis":
        raise InvalidSetting("broker_url", f"{transport.driver_type} is not supported by this version: use Redis")
    if not worker.use_eventloop:
        raise InvalidSetting("worker_pool", "prefork without an event loop is not supported by this version")
    if not worker._conninfo.transport_options.get("ack_emulation", True):
        raise InvalidSetting("broker_transport_options", "ack_emulation=False loses what is handed back: leave it on")


class Hands:
    """What one prefork worker on Redis has in its hands, and how it comes back. Lives as long as the process.

    All methods but `wake` run on the consumer's thread, which is the event loop's.
    """

    def __init__(self, worker: Any, cell: Cell) -> None:
        self.worker = worker
        self.cell = cell
        self.gate: Gate[Any] | None = None
        self._consumer: Any = None
        self._consume: Callable[..., None] | None = None
        self._is_consuming = False
        self._held: list[Any] = []
        self._kept: list[Any] = []
        self._owed: list[Owed] = []
        self._late: list[tuple[str, dict[str, Any]]] = []
        self._returned: dict[str, list[str]] = {}
        self._serials = itertools.count()
        self._seen_started: set[int] = set()
        self._is_retry_set = False
        self._waker_r, self._waker_w = socket.socketpair()
        self._waker_r.setblocking(False)
        self._waker_w.setblocking(False)
        self._process_task = worker._process_task
        worker._process_task = self.process_task
        # Pool.create bound the original where no semaphore guards the pool; with one, it looks it up at each call.
        self._uses_slots = worker.process_task == getattr(worker, "_process_task_sem", None)
        if not self._uses_slots:
            worker.process_task = self.process_task

    # -- the way in ---------------------------------------------------------------------------------------

    def process_task(self, request: Any) -> None:
        """What Celery calls for every start: fresh, waited for a slot, ETA fallen due, rate-limited."""
        assert self.gate is not None
        if not self.gate.pass_through(self._process_task, request):
            self._free_slot()
            self._held.append(request)
            # The flip has called for the consumer's thread already, unless that ran before this one came.
            self.wake()

    def _free_slot(self) -> None:
        """Give back the slot of a start that did not happen, without waking the next waiter.

        `release()` would run that waiter inside this call, and so on through all of them.
        """
        if self._uses_slots:
            semaphore = self.worker.semaphore
            semaphore.value = min(semaphore.value + 1, semaphore.initial_value)

    # -- the consumer ---------------------------------------------------------------------------------------

    def attach(self, consumer: Any) -> None:
        """Take hold of a new broker connection's task consumer, before its first `consume()`."""
        self._consumer = consumer
        # Of what came on an earlier connection kombu may have restored some when that was closed.
        self._owe(self._held)
        self._held = []
        self._owed = [replace(owed, is_sure=False) for owed in self._owed]
        tasks = consumer.task_consumer
        self._consume = tasks.consume
        self._is_consuming = False
        self._returned.clear()
        tasks.consume = self.consume
        channel = tasks.channel
        basic_consume = channel.basic_consume

        def remember_queue(queue: str, no_ack: bool, callback: Callable[[Any], None], *args: Any, **kw: Any) -> Any:
            def arrived(message: Any) -> None:
                message.sluicegate_arrival = Arrival(queue, next(self._serials), time.monotonic())
                callback(message)

            return basic_consume(queue, no_ack, arrived, *args, **kw)

        channel.basic_consume = remember_queue

    def detach(self) -> None:
        """The broker connection is going: touch nothing of it any more. What is owed waits for the next one."""
        self._consumer = None

    def register(self, hub: Any) -> None:
        """Listen for `wake` on the event loop; again after every reset of the hub."""
        hub.add_reader(self._waker_r.fileno(), self._on_wake)
        # Celery cancels a broken connection's timer entries, ours among them: it would be waited for in vain.
        self._is_retry_set = False
        self.tend()

    def consume(self, no_ack: bool | None = None) -> None:
        """In the place of the task consumer's `consume`: at boot, on reconnect and for an added queue."""
        assert self.gate is not None
        assert self._consume is not None
        if not self.gate.standing.is_open:
            return
        self._consume(no_ack)
        self._is_consuming = True

    def wake(self) -> None:
        """Have `tend` called soon on the consumer's thread; safe from any thread."""
        # Where the pipe is full of wake-ups that have not been read, one of them will do.
        with suppress(BlockingIOError):
            self._waker_w.send(b"\0")

    def _on_wake(self) -> None:
        with suppress(BlockingIOError):
            self._waker_r.recv(4096)
        self.tend()

    def tend(self) -> None:
        """Bring the consumer in line with the gate, and acknowledge once it is."""
        assert self.gate is not None
        standing, was_closed = self.gate.take_duty()
        if self._consumer is None:
            # No broker connection: nothing is consumed, and `register` comes here again after the reconnect.
            return
        try:
            if was_closed:
                self._stop_consuming()
                self._owe(self._collect())
            self._settle_debts()
            if standing.is_open:
                self._start_consuming()
        except self._consumer.connection_errors as error:
            # What is owed stays owed: the reconnect, or the next try, hands it back.
            log.warning("sluicegate: handing back was cut off (%s): %d owed", error, len(self._owed) + len(self._late))
            self._again(_RETRY_S)
            return
        if standing.is_open or self._is_settled():
            self._seen_started.clear()
            if self.gate.acknowledge(standing):
                return
        self._again(_SETTLE_S)

    def _again(self, delay_s: float) -> None:
        if not self._is_retry_set:
            self._is_retry_set = True
            self.worker.hub.call_later(delay_s, self._on_retry)

    def _on_retry(self) -> None:
        self._is_retry_set = False
        self.tend()

    def _start_consuming(self) -> None:
        self._returned.clear()
        kept, self._kept = self._kept, []
        for request in kept:
            self.worker.process_task(request)
        if not self._is_consuming:
            assert self._consume is not None
            self._consume()
            self._is_consuming = True

    def _stop_consuming(self) -> None:
        """Cancel, and catch what an outstanding BRPOP may still deliver: kombu would put it at the tail."""
        tasks = self._consumer.task_consumer
        queues = [name for name in tasks.channel._active_queues if name not in tasks.channel._fanout_queues]
        tasks.cancel()
        self._is_consuming = False
        callbacks = tasks.channel.connection._callbacks
        for queue in queues:
            callbacks[queue] = self._late_callback(queue)

    def _late_callback(self, queue: str) -> Callable[[dict[str, Any]], None]:
        def late(raw: dict[str, Any]) -> None:
            self._late.append((queue, raw))
            self.wake()

        return late

    # -- the way back ---------------------------------------------------------------------------------------

    def _collect(self) -> list[Any]:
        """Take every request that has not been given to a pool child out of Celery's hands."""
        worker, consumer = self.worker, self._consumer
        taken, self._held = self._held, []
        if self._uses_slots:
            waiting = worker.semaphore._waiting
            while waiting:
                _, args, _ = waiting.popleft()
                taken.append(args[0])
        for bucket in consumer.task_buckets.values():
            while bucket is not None and bucket.contents:
                request, _ = bucket.contents.popleft()
                taken.append(request)
        for entry in _eta_entries(consumer.timer):
            consumer.timer.cancel(entry)
            # The strategy raised the prefetch count for it, and lowers it when the ETA fires.
            consumer.qos.decrement_eventually()
            taken.append(entry.args[0])
        taken.extend(self._unwritten())
        for request in taken:
            worker_state.requests.pop(request.id, None)
            worker_state.reserved_requests.discard(request)
            if _scheduled is not None:
                _scheduled.discard(request)
        return taken

    def _unwritten(self) -> Iterable[Any]:
        """The requests whose jobs wait in the pool for a child to be free: nothing of them was written yet."""
        outbound = self._pool.outbound_buffer
        for job in list(outbound):
            if job._accepted or job._terminated is not None:
                continue
            outbound.remove(job)
            job.discard()
            self._free_slot()
            yield job._accept_callback.__self__

    @property
    def _pool(self) -> Any:
        return self.worker.pool._pool

    def _owe(self, requests: list[Any]) -> None:
        channel = self._consumer.task_consumer.channel
        for request in requests:
            if request.acknowledged:
                continue
            message = request.message
            arrival: Arrival | None = getattr(message, "sluicegate_arrival", None)
            if arrival is None or arrival.queue in channel._fanout_queues:
                # A broadcast has no list to go back to; it waits here and starts when the gate opens.
                self._kept.append(request)
                continue
            priority = channel._get_message_priority(message._raw, reverse=False)
            self._owed.append(
                Owed(
                    tag=message.delivery_tag,
                    key=_prefix(channel) + channel._q_for_pri(arrival.queue, priority),
                    serial=arrival.serial,
                    arrived_at=arrival.at,
                    payload=dumps(message._raw),
                )
            )
            # From here on the message is not Celery's: neither acknowledged nor restored by it.
            channel.qos._quick_ack(message.delivery_tag)
            request.acknowledged = True
            message._state = "REQUEUED"
            request.send_event("task-rejected", requeue=True)

    def _settle_debts(self) -> None:
        """Hand back all that is owed; raises the broker's connection errors, and then all is still owed."""
        if not (self._owed or self._late):
            return
        channel = self._consumer.task_consumer.channel
        with channel.conn_or_acquire() as client:
            if self._owed:
                self._give_back(channel, client)
            while self._late:
                queue, raw = self._late[0]
                priority = channel._get_message_priority(raw, reverse=False)
                key, payload = _prefix(channel) + channel._q_for_pri(queue, priority), dumps(raw)
                ours = self._returned.setdefault(key, [])
                older = ours[: ours.index(payload)] if payload in ours else list(ours)
                client.execute_command("EVAL", _GIVE_BACK_LATE, 1, key, payload, _LOOK_FOR_OURS, *older)
                if payload not in ours:
                    ours.append(payload)
                self._late.pop(0)

    def _give_back(self, channel: Any, client: Any) -> None:
        unacked, index = _prefix(channel) + channel.unacked_key, _prefix(channel) + channel.unacked_index_key
        self._owed.sort(key=lambda owed: owed.serial)
        returned: dict[str, list[str]] = {}
        while self._owed:
            # Newest first, and not all in one script: an unlimited prefetch may have brought a million.
            newest = self._owed[-_CHUNK:][::-1]
            # What is stored is what was delivered; our copy serves where the broker lost its data meanwhile.
            stored = client.execute_command("HMGET", unacked, *(owed.tag for owed in newest))
            now = time.monotonic()
            args: list[str] = []
            for owed, entry in zip(newest, stored, strict=True):
                payload = dumps(loads(entry)[0]) if entry else owed.payload
                is_sure = owed.is_sure and now - owed.arrived_at < channel.visibility_timeout / 2
                args += [owed.tag, owed.key, payload, "1" if is_sure else ""]
                returned.setdefault(owed.key, []).insert(0, payload)
            client.execute_command("EVAL", _GIVE_BACK, 2, unacked, index, *args)
            del self._owed[-_CHUNK:]
        for key, payloads in returned.items():
            self._returned.setdefault(key, []).extend(payloads)

    # -- the barrier ------------------------------------------------------------------------------------------

    def _is_settled(self) -> bool:
        """Has everything that was given to the pool started or come back? Then nothing more can start.

        A job that a child accepted has not started yet: it accepts, and then enters the task. So each must have
        been seen started, by the mark that the child writes when it does, in two looks a millisecond apart.
        """
        slots = {process.pid: process.index for process in self._pool._pool}
        is_settled = True
        alive: set[int] = set()
        for number, job in list(self._pool._cache.items()):
            alive.add(number)
            if number in self._seen_started:
                continue
            is_settled = False
            slot = slots.get(job._worker_pid, -1)
            if job._accepted and self.cell.has_started(slot, job.correlation_id):
                self._seen_started.add(number)
        self._seen_started &= alive
        return is_settled and not self._held and not self._owed and not self._late

    # -- what the heartbeat says ------------------------------------------------------------------------------

    def running(self) -> tuple[RunningTask, ...]:
        """The tasks that pool children have accepted and not finished; from any thread."""
        return tuple(
            RunningTask(
                id=request.id,
                name=request.name,
                started_at=datetime.fromtimestamp(request.time_start, UTC) if request.time_start else None,
            )
            for request in _copied(worker_state.active_requests)
        )

    def count_reserved(self) -> int:
        """How many messages are in hand and not started, ETA ones included; from any thread."""
        reserved = set(_copied(worker_state.reserved_requests)) - set(_copied(worker_state.active_requests))
        waiting_for_eta = [entry.args[0] for entry in _eta_entries(self.worker.timer)]
        return len(reserved.union(waiting_for_eta))

    def queues(self) -> tuple[str, ...]:
        """The names of the queues that this worker consumes when it is open."""
        return tuple(self.worker.app.amqp.queues.consume_from)


def _eta_entries(timer: Any) -> list[Any]:
    """The timer's entries that will start a request: `apply_eta_task` and `_limit_post_eta` both take it first."""
    entries = [scheduled.entry for scheduled in list(timer._queue)]
    return [e for e in entries if not e.canceled and e.args and isinstance(e.args[0], Request)]


def _prefix(channel: Any) -> str:
    """The prefixing client of kombu does not know the commands used here; the prefix is put on by hand."""
    return getattr(channel, "global_keyprefix", None) or ""


def _copied(weak: Any) -> list[Any]:
    """A copy of a set that another thread changes meanwhile: the copy fails then, and is made again."""
    for _ in range(100):
        try:
            return list(weak)
        except RuntimeError:
            continue
    return []


def note_start_in_child(cell: Cell) -> Callable[..., None]:
    """The receiver of `task_prerun` that leaves the mark; it does nothing outside a pool child.

    It is called in the child right before the task's own code; `index` is the child's number in the pool.
    """
    parent = os.getpid()

    def note_start(task_id: str = "", **_: Any) -> None:
        if os.getpid() != parent:
            cell.note_start(getattr(billiard.current_process(), "index", -1), task_id)

    return note_start
