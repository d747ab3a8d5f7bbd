"""Everything that touches the insides of Celery, kombu and billiard. Nothing else in sluicegate does.

Read from Celery 5.5.3 and 5.7.0, kombu 5.5.4 and 5.7.0, billiard 4.3.2. `tests/unit/test_celery_inside.py`
asserts each name and each shape used here, so that a new version that changes one fails loudly.

What is relied on                                             where it stands
- `WorkController._process_task`, looked up at call time      celery/worker/worker.py
- `WorkController.process_task`, bound when the pool is made  celery/worker/components.py (Pool.create)
- `LaxBoundedSemaphore._waiting`, `.value`                    kombu/asynchronous/semaphore.py
- `Consumer.task_buckets`, `TokenBucket.contents`             celery/worker/consumer/consumer.py, kombu/utils/limits.py
- ETA entries on the timer with the request as first argument celery/worker/strategy.py (call_at), kombu/.../timer.py
- `AsynPool.outbound_buffer`, `._cache`, `._pool[].index`     celery/concurrency/asynpool.py, billiard/pool.py
- `ApplyResult._accepted`, `._accept_callback`, `._worker_pid`, `._write_to`  billiard/pool.py
- `TaskPool.flush`, called when the broker drops, forgets jobs in a child's pipe   celery/concurrency/asynpool.py
- `build_tracer`: `before_start` comes last before the task's code; a child calls `__trace__`  celery/app/trace.py
- `state.requests`, `.reserved_requests`, `.active_requests`, `.scheduled_requests` (5.7)   celery/worker/state.py
- `task_consumer.consume`, made in `Tasks.start` but first called by the event loop   celery/worker/loops.py
- the Redis channel: `unacked_key`, `unacked_index_key`, `qos._quick_ack`, `qos.can_consume`, `_q_for_pri`,
  `_get_message_priority`, `conn_or_acquire`, `_fanout_queues`, `global_keyprefix`     kombu/transport/redis.py
- `Transport._callbacks`, kombu's queue name -> callback      kombu/transport/virtual/base.py
"""

from __future__ import annotations

import itertools
import logging
import os
import socket
import time
from bisect import insort
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, NamedTuple

import billiard
from celery.app.trace import build_tracer
from celery.concurrency.prefork import TaskPool as PreforkPool
from celery.worker import state as worker_state
from celery.worker.request import Request
from kombu.utils.json import dumps, loads
from redis.exceptions import ResponseError

from sluicegate.schemas.beats import RunningTask
from sluicegate.schemas.errors import InvalidSetting
from sluicegate.workers.cell import Cell, mark_of
from sluicegate.workers.gate import Gate

log = logging.getLogger(__name__)

READ_FROM = {"celery": ("5.5", "5.6", "5.7"), "kombu": ("5.5", "5.6", "5.7"), "billiard": ("4.2", "4.3")}
"""The minor versions that the above holds for: the fleet tests run on the newest and on Celery 5.5.0 with kombu 5.5.4,
and the test of the names and shapes has also passed on Celery 5.6.2 with kombu 5.6.2 and billiard 4.2.4."""

_scheduled: Any = getattr(worker_state, "scheduled_requests", None)
"""Requests that wait for their ETA; Celery keeps this set since 5.7."""

_CHUNK = 500
_REMEMBERED = 100
_LOOK_FOR_OURS = 2000
_SETTLE_S = 0.001
_SETTLE_AT_MOST_S = 0.05
_RETRY_S = 0.1
_RETRY_AT_MOST_S = 5.0

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

# A message that comes back after others of ours (a BRPOP delivered it late, a dying child had it) belongs right
# behind the newest of ours that was older, wherever that stands by now: other workers may have put theirs in
# front. Where none of ours is found near the head, they have been taken, and it goes to the head itself. As above,
# a tag that is gone means that it was done.
#   KEYS[1] unacked, KEYS[2] unacked index, KEYS[3] list
#   ARGV[1] tag, ARGV[2] payload, ARGV[3] how far to look, ARGV[4..] payloads of ours that were older, newest first
_PUT_IN_PLACE = """
redis.call('ZREM', KEYS[2], ARGV[1])
if redis.call('HDEL', KEYS[1], ARGV[1]) == 0 then
  return 0
end
for i = 4, #ARGV do
  local at = redis.call('LPOS', KEYS[3], ARGV[i], 'RANK', -1, 'MAXLEN', ARGV[3])
  if at then
    local before = redis.call('RPOP', KEYS[3], redis.call('LLEN', KEYS[3]) - at)
    redis.call('RPUSH', KEYS[3], ARGV[2])
    for j = #before, 1, -1 do
      redis.call('RPUSH', KEYS[3], before[j])
    end
    return 1
  end
end
redis.call('RPUSH', KEYS[3], ARGV[2])
return 1
"""


class Arrival(NamedTuple):
    """Where a message came from, how many came before it, and when (monotonic seconds). One is made per message."""

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


@dataclass(slots=True)
class Late:
    """A message that came after the hand-back. `is_stored`: it stands in `unacked`, so that a retry can tell."""

    queue: str
    raw: dict[str, Any]
    serial: int
    is_stored: bool = False

    @property
    def tag(self) -> str:
        """Its delivery tag, unique to this delivery."""
        return str(self.raw["properties"]["delivery_tag"])


@dataclass(slots=True)
class Returned:
    """What was handed back to one list since the worker closed: all tags, and the newest with their place."""

    tags: set[str] = field(default_factory=set)
    newest: list[tuple[int, str]] = field(default_factory=list)

    def add(self, tag: str, serial: int, payload: str) -> None:
        """One more."""
        self.tags.add(tag)
        insort(self.newest, (serial, payload))
        del self.newest[:-_REMEMBERED]

    def older_than(self, serial: int) -> list[str]:
        """The payloads that came before `serial`, newest first."""
        return [payload for other, payload in reversed(self.newest) if other < serial]


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
    if worker.optimization in ("fast", "fcfs"):
        log.warning("sluicegate: with -O fast tasks are written ahead to busy children: a pause waits for their start")


class Hands:
    """What one prefork worker on Redis has in its hands, and how it comes back. Lives as long as the process.

    All methods run on the consumer's thread, which is the event loop's, but for `wake` and what the heartbeat says.
    """

    def __init__(self, worker: Any, cell: Cell) -> None:
        self.worker = worker
        self.cell = cell
        self.gate: Gate[Any] | None = None
        self._consumer: Any = None
        self._consume: Callable[..., None] | None = None
        self._is_consuming = False
        self._held: deque[Any] = deque()
        self._kept: list[Any] = []
        self._owed: list[Owed] = []
        self._late: list[Late] = []
        self._returned: dict[str, Returned] = {}
        self._serials = itertools.count()
        self._seen_started: set[int] = set()
        self._orphans: list[Orphan] = []
        self._credit: Any = None
        self._flush_pool: Callable[[], None] | None = None
        self._next_look: Any = None
        self._looks = 0
        self._failures = 0
        self._last_failure = ""
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

    def watch_pool(self) -> None:
        """Stand before the pool's `flush`, which exists once the pool has started."""
        self._flush_pool = self.worker.pool.flush
        self.worker.pool.flush = self._flush

    def _flush(self) -> None:
        """Celery forgets every job that no child has accepted; those written to a pipe will run nevertheless."""
        for job in list(self._pool._cache.values()):
            process = job._write_to
            if not job._accepted and process is not None and self._is_task(job) and self.cell.can_see(process.index):
                request = job._accept_callback.__self__
                task = RunningTask(id=request.id, name=request.name)
                begun = self.cell.slot(process.index).begun
                self._orphans.append(Orphan(task=task, pid=process.pid, slot=process.index, begun=begun))
        assert self._flush_pool is not None
        self._flush_pool()

    # -- the consumer ---------------------------------------------------------------------------------------

    def attach(self, consumer: Any) -> None:
        """Take hold of a new broker connection's task consumer, before its first `consume()`."""
        self._consumer = consumer
        # Of what came on an earlier connection kombu may have restored some when that was closed.
        self._owe_held()
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
        if self._next_look is not None:
            self._next_look.cancel()
            self._next_look = None
        self.tend()

    def consume(self, no_ack: bool | None = None) -> None:
        """In the place of the task consumer's `consume`: at boot, on reconnect and for an added queue."""
        assert self.gate is not None
        assert self._consume is not None
        if not self.gate.standing.is_open:
            return
        self._read_as_before()
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
            if was_closed or self._held:
                self._stop_consuming()
                self._collect()
                self._owe_held()
            self._settle_debts()
            if standing.is_open:
                self._start_consuming()
            is_done = standing.is_open or self._is_settled()
        except Exception as error:
            # Whatever the broker said (gone, read-only after a failover, no permission), a worker must not die of
            # a pause, nor go deaf: what is owed stays owed, and the reconnect or the next try hands it back.
            self._note_failure(error)
            return
        self._failures = 0
        if is_done and self.gate.acknowledge(standing):
            self._seen_started.clear()
            self._looks = 0
            return
        self._looks += 1
        # A pause is most often complete within milliseconds; where it is not, nobody is helped by a busy loop.
        self._look_again(_SETTLE_S if self._looks < 100 else _SETTLE_AT_MOST_S)

    def _note_failure(self, error: Exception) -> None:
        said = f"{type(error).__name__}: {error}"
        if self._failures == 0 or said != self._last_failure:
            owed = len(self._owed) + len(self._late)
            is_usual = isinstance(error, (*self._consumer.connection_errors, ResponseError))
            log.error("sluicegate: handing back failed, %d owed (%s)", owed, said, exc_info=not is_usual)
        self._last_failure = said
        self._look_again(min(_RETRY_AT_MOST_S, _RETRY_S * 2 ** min(self._failures, 6)))
        self._failures += 1

    def _look_again(self, delay_s: float) -> None:
        if self._next_look is None:
            self._next_look = self.worker.hub.call_later(delay_s, self._on_next_look)

    def _on_next_look(self) -> None:
        self._next_look = None
        self.tend()

    def _start_consuming(self) -> None:
        self._returned.clear()
        kept, self._kept = self._kept, []
        for request in kept:
            self.worker.process_task(request)
        if not self._is_consuming:
            assert self._consume is not None
            self._read_as_before()
            self._consume()
            self._is_consuming = True

    def _stop_consuming(self) -> None:
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
        self._is_consuming = False
        callbacks = tasks.channel.connection._callbacks
        for queue in queues:
            callbacks[queue] = self._late_callback(queue)

    def _read_as_before(self) -> None:
        """Take back what `_stop_consuming` put over the channel's credit; Celery may have put something there too."""
        qos = self._consumer.task_consumer.channel.qos
        if qos.__dict__.get("can_consume") is not _always:
            return
        if self._credit is None:
            del qos.can_consume
        else:
            qos.can_consume = self._credit

    def _late_callback(self, queue: str) -> Callable[[dict[str, Any]], None]:
        def late(raw: dict[str, Any]) -> None:
            self._late.append(Late(queue, raw, next(self._serials)))
            self.wake()

        return late

    # -- the way back ---------------------------------------------------------------------------------------

    def _collect(self) -> None:
        """Take every request that has not been given to a pool child out of Celery's hands, and hold it."""
        worker, consumer, held = self.worker, self._consumer, self._held
        if self._uses_slots:
            waiting = worker.semaphore._waiting
            while waiting:
                _, args, _ = waiting.popleft()
                held.append(args[0])
        for bucket in consumer.task_buckets.values():
            while bucket is not None and bucket.contents:
                request, _ = bucket.contents.popleft()
                held.append(request)
        for entry in _eta_entries(consumer.timer):
            consumer.timer.cancel(entry)
            # The strategy raised the prefetch count for it, and lowers it when the ETA fires.
            consumer.qos.decrement_eventually()
            held.append(entry.args[0])
        held.extend(self._unwritten())

    def _unwritten(self) -> Iterable[Any]:
        """The requests whose jobs wait in the pool for a child to be free: nothing of them was written yet."""
        outbound = self._pool.outbound_buffer
        for job in list(outbound):
            if job._accepted or job._terminated is not None or not self._is_task(job):
                continue
            outbound.remove(job)
            job.discard()
            self._free_slot()
            yield job._accept_callback.__self__

    @property
    def _pool(self) -> Any:
        return self.worker.pool._pool

    @staticmethod
    def _is_task(job: Any) -> bool:
        """The pool has jobs of its own: a restart sends each child one that does nothing."""
        return job.correlation_id is not None and job._accept_callback is not None

    def _owe_held(self) -> None:
        """Make a debt of every request that is held; one that fails leaves the others held, for the next try."""
        while self._held:
            request = self._held.popleft()
            worker_state.requests.pop(request.id, None)
            worker_state.reserved_requests.discard(request)
            if _scheduled is not None:
                _scheduled.discard(request)
            if not request.acknowledged:
                self._owe(request)

    def _owe(self, request: Any) -> None:
        channel = self._consumer.task_consumer.channel
        message = request.message
        arrival: Arrival | None = getattr(message, "sluicegate_arrival", None)
        if arrival is None or arrival.queue in channel._fanout_queues:
            # A broadcast has no list to go back to; it waits here and starts when the gate opens.
            self._kept.append(request)
            return
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
        # Last, since it goes to the broker and may fail: the debt stands by then.
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
                self._give_back_late(channel, client, self._late[0])
                self._late.pop(0)

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
            client.execute_command("EVAL", _GIVE_BACK, 2, unacked, index, *args)
            del self._owed[chunk]
            for owed, payload in zip(newest, payloads, strict=True):
                self._returned.setdefault(owed.key, Returned()).add(owed.tag, owed.serial, payload)
        while self._owed:
            owed = self._owed[0]
            self._put_in_place(channel, client, owed.key, owed.tag, owed.serial, owed.payload)
            del self._owed[0]

    def _give_back_late(self, channel: Any, client: Any, late: Late) -> None:
        unacked, index = _unacked(channel)
        info = late.raw["properties"]["delivery_info"]
        if not late.is_stored:
            # As kombu does on arrival, and for the same reason; and so that a second try can tell a first one.
            entry = dumps([late.raw, info["exchange"], info["routing_key"]])
            client.execute_command("HSET", unacked, late.tag, entry)
            client.execute_command("ZADD", index, time.time(), late.tag)
            late.is_stored = True
        priority = channel._get_message_priority(late.raw, reverse=False)
        key = _prefix(channel) + channel._q_for_pri(late.queue, priority)
        self._put_in_place(channel, client, key, late.tag, late.serial, dumps(late.raw))

    def _put_in_place(self, channel: Any, client: Any, key: str, tag: str, serial: int, payload: str) -> None:
        ours = self._returned.setdefault(key, Returned())
        # One of ours can only have been caught at the head, where nothing of ours is in front of it.
        is_ours = tag in ours.tags
        older = [] if is_ours else ours.older_than(serial)
        client.execute_command("EVAL", _PUT_IN_PLACE, 3, *_unacked(channel), key, tag, payload, _LOOK_FOR_OURS, *older)
        if not is_ours:
            ours.add(tag, serial, payload)

    # -- the barrier ------------------------------------------------------------------------------------------

    def _is_settled(self) -> bool:
        """Has everything that was given to the pool started or come back? Then nothing more can start.

        A job that a child accepted has not started yet: it accepts, and then enters the task. So each must have
        been seen running, by what the child writes right before the task's own code, in two looks a millisecond
        apart.
        """
        processes = {process.pid: process.index for process in self._pool._pool}
        is_settled = not (self._held or self._owed or self._late)
        alive: set[int] = set()
        for number, job in list(self._pool._cache.items()):
            if not self._is_task(job):
                continue
            alive.add(number)
            if number in self._seen_started:
                continue
            is_settled = False
            slot = processes.get(job._worker_pid, -1)
            if job._accepted and (not self.cell.can_see(slot) or self.cell.slot(slot).runs_task(job.correlation_id)):
                self._seen_started.add(number)
        self._seen_started &= alive
        self._orphans = [orphan for orphan in self._orphans if self._has_work(orphan)]
        return is_settled and all(orphan.was_seen for orphan in self._orphans)

    def _has_work(self, orphan: Orphan) -> bool:
        """Is it still to run, or running? Notes when it is seen running."""
        if all(process.pid != orphan.pid for process in self._pool._pool):
            return False
        slot = self.cell.slot(orphan.slot)
        if slot.runs_task(orphan.task.id):
            orphan.was_seen = True
            return True
        # It ran if it was seen, if the child has begun another task since, or if it is what the child ran last.
        return not (orphan.was_seen or slot.begun != orphan.begun or slot.mark == mark_of(orphan.task.id))

    # -- what the heartbeat says ------------------------------------------------------------------------------

    def running(self) -> tuple[RunningTask, ...]:
        """The tasks that pool children have accepted and not finished, forgotten ones too; from any thread."""
        orphans = tuple(orphan.task for orphan in list(self._orphans) if self._has_work(orphan))
        return orphans + tuple(
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

    def has_children(self) -> bool:
        """Is any pool child alive?"""
        pool = getattr(self.worker.pool, "_pool", None)
        return pool is not None and any(process._is_alive() for process in pool._pool)

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


def _unacked(channel: Any) -> tuple[str, str]:
    """The keys of what was delivered and not acknowledged: the hash, and the index by time."""
    return _prefix(channel) + channel.unacked_key, _prefix(channel) + channel.unacked_index_key


def _always() -> bool:
    return True


def note_starts_in_children(app: Any, hostname: str, cell: Cell) -> Callable[..., None]:
    """The receiver of `worker_process_init` that makes a pool child write what it begins and ends.

    `before_start` is the last thing that Celery calls before the task's own code, after every receiver of
    `task_prerun` and after the STARTED state has been stored: seen later than that, a start is a start. The
    tracers are built once more, since they look for it when they are built.
    """
    parent = os.getpid()

    def note_starts(**_: Any) -> None:
        if os.getpid() == parent:
            return
        slot = getattr(billiard.current_process(), "index", -1)
        # The child before this one may have been killed in the middle of a task that comes here again.
        cell.note_end(slot)
        child = _Child(cell, slot)
        for name, task in app.tasks.items():
            child.note_begin_of(type(task))
            task.__trace__ = child.noting_end(build_tracer(name, task, app.loader, hostname, app=app))

    return note_starts


class _Child:
    """A pool child that writes what it begins and ends. It runs one task at a time."""

    def __init__(self, cell: Cell, slot: int) -> None:
        self._cell = cell
        self._slot = slot
        self._traced = ""

    def note_begin_of(self, task_class: Any) -> None:
        """Have tasks of this class noted when they begin; once, where several tasks share the class."""
        original = task_class.before_start
        if hasattr(original, "is_noted"):
            return
        cell, slot = self._cell, self._slot

        def before_start(task: Any, task_id: str, args: Any, kwargs: Any) -> Any:
            # A task that is applied inside another one has another id, and runs under that one's start.
            if task_id == self._traced:
                cell.note_begin(slot, task_id)
            return original(task, task_id, args, kwargs)

        before_start.is_noted = True  # type: ignore[attr-defined]
        task_class.before_start = before_start

    def noting_end(self, trace: Callable[..., Any]) -> Callable[..., Any]:
        """What the pool calls for each task, with the end noted."""

        def traced(uuid: str, *args: Any, **kwargs: Any) -> Any:
            self._traced = uuid
            try:
                return trace(uuid, *args, **kwargs)
            finally:
                self._cell.note_end(self._slot)

        return traced
