"""Messages come back to the head of their own queue, in their order, exactly once (R-B2, S5, S6).

Real kombu on a real Valkey; what stands in for Celery is only what `Hands` touches of a worker.
"""

from __future__ import annotations

import json
from base64 import b64decode
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from types import MethodType, SimpleNamespace
from typing import Any
from uuid import UUID, uuid4

import pytest
from kombu import Connection, Consumer, Exchange, Queue
from kombu.asynchronous.semaphore import LaxBoundedSemaphore
from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError

from sluicegate.control.embedded import EmbeddedValkey
from sluicegate.schemas.adapters.aside import aside_key
from sluicegate.schemas.beats import RunningTask
from sluicegate.schemas.holds.hold import Hold, Holds
from sluicegate.schemas.modes import Mode
from sluicegate.schemas.scopes import GLOBAL, Scope, Subject
from sluicegate.schemas.snapshots import Snapshot
from sluicegate.workers.celery_inside.books import CeleryBooks
from sluicegate.workers.celery_inside.consumer import CeleryConsumer
from sluicegate.workers.celery_inside.loops import HubLoop
from sluicegate.workers.celery_inside.prefork import PreforkPool
from sluicegate.workers.celery_inside.redis_debts import HAND_BACK, PUT_IN_PLACE, STORE
from sluicegate.workers.celery_inside.redis_hand_back import RedisWayBack
from sluicegate.workers.celery_inside.requests import subject_of
from sluicegate.workers.cell import Cell
from sluicegate.workers.gate import Gate
from sluicegate.workers.hands import Hands
from sluicegate.workers.ports import Sides
from sluicegate.workers.report import Identity, Report
from tests.fleet.waiting import until

NOW = datetime(2026, 3, 1, tzinfo=UTC)


class Parcel:
    """A request, as far as the hand-back looks at one."""

    def __init__(self, message: Any) -> None:
        self.message = message
        self.id = str(uuid4())
        self.type = "app.work"
        self.request_dict: dict[str, Any] = {}
        self.acknowledged = False
        self.events: list[str] = []

    def send_event(self, kind: str, **_: Any) -> None:
        self.events.append(kind)


class Timer:
    """The event loop's timer: entries are called when the test says so."""

    def __init__(self) -> None:
        self._queue: list[Any] = []
        # As kombu's timer: what is scheduled stands in itself.
        self.schedule = self
        self.due: deque[Any] = deque()

    def call_later(self, delay_s: float, callback: Any) -> TimerEntry:
        entry = TimerEntry(callback)
        self.due.append(entry)
        return entry


@dataclass
class TimerEntry:
    callback: Any
    is_canceled: bool = False

    def cancel(self) -> None:
        self.is_canceled = True


class Bench:
    """One worker's hands on a queue of its own."""

    def __init__(
        self, valkey: EmbeddedValkey, queues: list[Queue] | None = None, *, prefix: str = "", **options: Any
    ) -> None:
        self.name = f"hands-{uuid4().hex[:8]}"
        self.prefix = prefix
        self.list = prefix + self.name
        self.stored = f"{prefix}unacked-{self.name}"
        self.index = f"{prefix}index-{self.name}"
        self.queues = queues or [Queue(self.name, Exchange(self.name), routing_key=self.name)]
        self.redis = Redis.from_url(valkey.url)
        own = {"unacked_key": f"unacked-{self.name}", "unacked_index_key": f"index-{self.name}"}
        if prefix:
            own["global_keyprefix"] = prefix
        self.options = {**own, "priority_steps": [0, 3, 6, 9], **options}
        self.url = valkey.url
        self.started: list[int] = []
        self.refused: list[int] = []
        self.arrived: list[Parcel] = []
        self.pool = SimpleNamespace(outbound_buffer=deque(), _cache={}, _pool=[])
        self.timer = Timer()
        self.worker: Any = SimpleNamespace(
            _process_task=self._start,
            semaphore=LaxBoundedSemaphore(1),
            hub=self.timer,
            timer=self.timer,
            pool=SimpleNamespace(_pool=self.pool),
            app=SimpleNamespace(tasks={}),
            concurrency=1,
        )
        self.worker._process_task_sem = lambda request: self.worker.semaphore.acquire(
            self.worker._process_task, request
        )
        self.worker.process_task = self.worker._process_task_sem
        self.cell = Cell()
        self.loop = HubLoop(self.worker)
        self.way_back = RedisWayBack()
        self.side = PreforkPool(self.worker, self.cell)
        self.books = CeleryBooks(self.worker)
        self.gate: Gate[Any] = Gate(self.cell, Subject(), wake=self.loop.wake, on_applied=lambda: None)
        self.sides = Sides(
            pool=self.side, way_back=self.way_back, loop=self.loop, consumer=CeleryConsumer(), books=self.books
        )
        self.hands = Hands(self.gate, self.sides)
        self.version = 0
        self.connect()

    def connect(self) -> None:
        self.connection = Connection(self.url, transport_options=self.options)
        tasks = Consumer(self.connection.default_channel, self.queues, on_message=self._arrive)
        tasks.qos(prefetch_count=100)
        self.consumer = SimpleNamespace(
            task_consumer=tasks,
            task_buckets={},
            timer=self.timer,
            qos=SimpleNamespace(decrement_eventually=lambda: None),
            connection_errors=self.connection.connection_errors,
            app=self.worker.app,
            on_unknown_task=self._refuse,
            on_invalid_task=self._refuse,
            on_decode_error=self._refuse,
        )
        self.hands.attach(self.consumer)

    def close(self) -> None:
        # What was not handed back must not be restored into the next test's counts.
        channel: Any = self.connection.default_channel
        channel.do_restore = False
        self.connection.release()
        self.loop.close()
        self.redis.close()

    def send(self, *numbers: int, priority: int = 0) -> None:
        with Connection(self.url, transport_options=self.options) as connection:
            producer = connection.Producer()
            for number in numbers:
                producer.publish(
                    number,
                    exchange=self.queues[0].exchange,
                    routing_key=self.queues[0].routing_key,
                    declare=self.queues,
                    priority=priority,
                )

    def order(self, *modes: Mode) -> None:
        self.version += 1
        holds = frozenset(
            Hold(id=UUID(int=n), scope=GLOBAL, mode=mode, reason="r", actor="a", created_at=NOW, source=str(n))
            for n, mode in enumerate(modes)
        )
        state = Holds(version=self.version, active=holds)
        self.gate.put_in_force(Snapshot(namespace="default", epoch=1, holds=state, publication=1, issued_at=NOW))

    def pause(self) -> None:
        self.order(Mode.DRAIN)

    def resume(self) -> None:
        self.order()

    def open_and_receive(self, count: int) -> None:
        self.resume()
        self.hands.tend()
        self.receive(count)

    def receive(self, count: int) -> None:
        def have() -> bool:
            with suppress(TimeoutError):
                while len(self.arrived) < count:
                    self.connection.drain_events(timeout=0.1)
            return len(self.arrived) >= count

        until(f"{count} messages have arrived", have)

    def waiting(self, queue: str | None = None, priority: int = 0) -> list[int]:
        """What lies in the list, next to be taken first."""
        key = self.prefix + (queue or self.name) + (f"\x06\x16{priority}" if priority else "")
        return [_number(json.loads(raw)) for raw in reversed(self.redis.lrange(key, 0, -1))]

    def look_again(self) -> None:
        """What the timer does: call the one entry that was not canceled."""
        due = [entry for entry in self.timer.due if not entry.is_canceled]
        self.timer.due.clear()
        (entry,) = due
        entry.callback()

    def running(self) -> tuple[RunningTask, ...]:
        """As the heartbeat says it."""
        follower: Any = None
        identity = Identity(nodename="w1@h", incarnation="1", host="h")
        return Report(identity, gate=self.gate, follower=follower, hands=self.hands, sides=self.sides).running()

    @property
    def has_acknowledged(self) -> bool:
        return self.gate.applied.edition.version == self.version

    @contextmanager
    def losing_answers_of(self, script: str) -> Iterator[None]:
        """It runs, and its answers are lost on the way back."""
        channel = self.consumer.task_consumer.channel
        whole = channel.conn_or_acquire

        @contextmanager
        def losing() -> Iterator[Any]:
            with whole() as client:
                yield SimpleNamespace(execute_command=partial(_lose_the_answer, client, script))

        channel.conn_or_acquire = losing
        yield
        channel.conn_or_acquire = whole

    def _arrive(self, message: Any) -> None:
        parcel = Parcel(message)
        self.arrived.append(parcel)
        self.worker.process_task(parcel)

    def _refuse(self, body: Any, message: Any, error: Exception) -> None:
        """As Celery does with a task that it does not know."""
        message.reject()
        self.refused.append(_number(message._raw))

    def _start(self, parcel: Parcel) -> None:
        self.started.append(_number(parcel.message._raw))


def _lose_the_answer(client: Any, script: str, command: str, *args: Any) -> Any:
    answer = client.execute_command(command, *args)
    if command == "EVAL" and args[0] == script:
        raise RedisConnectionError("the answer was lost")
    return answer


def _number(raw: dict[str, Any]) -> int:
    return int(json.loads(b64decode(raw["body"])))


@pytest.fixture(params=["", "app:"], ids=["", "prefixed"])
def bench(valkey: EmbeddedValkey, request: pytest.FixtureRequest) -> Iterator[Bench]:
    """Prefixed: `global_keyprefix`, which kombu's client puts before the keys of some commands and not of others."""
    made = Bench(valkey, prefix=request.param)
    yield made
    made.close()


def test_what_waits_for_a_slot_goes_back_to_the_head_in_its_order(bench):
    bench.send(1, 2, 3, 4, 5)
    bench.open_and_receive(5)
    bench.send(6, 7)
    bench.hands._intake.stop()
    bench.pause()
    bench.hands.tend()
    assert bench.started == [1]
    assert bench.waiting() == [2, 3, 4, 5, 6, 7]
    assert bench.redis.hlen(bench.stored) == 1, "the one that started is still to be acknowledged by Celery"
    assert bench.has_acknowledged
    assert [parcel.events for parcel in bench.arrived[1:]] == [["task-rejected"]] * 4


def test_nothing_starts_between_the_flip_and_the_hand_back_even_if_a_slot_is_released(bench):
    bench.send(1, 2, 3)
    bench.open_and_receive(3)
    bench.pause()
    bench.worker.semaphore.release()
    assert bench.started == [1]
    bench.hands.tend()
    assert bench.started == [1]
    assert bench.waiting() == [2, 3]
    assert bench.worker.semaphore.value == 1, "the slot is free again"


def test_the_message_comes_back_byte_for_byte_as_it_was_sent(bench):
    bench.send(1, 2)
    before = bench.redis.lrange(bench.list, 0, -1)
    bench.open_and_receive(2)
    bench.pause()
    bench.hands.tend()
    assert bench.redis.lrange(bench.list, 0, -1) == [raw for raw in before if _number(json.loads(raw)) == 2]


def test_each_priority_has_its_own_list_and_gets_its_own_back(bench):
    bench.send(1)
    bench.send(2, 3, priority=3)
    bench.send(4, priority=9)
    bench.open_and_receive(4)
    bench.pause()
    bench.hands.tend()
    sent = {0: [1], 3: [2, 3], 9: [4]}
    (started,) = bench.started
    assert {p: bench.waiting(priority=p) for p in sent} == {p: [n for n in sent[p] if n != started] for p in sent}


def test_two_queues_bound_to_one_key_do_not_get_each_others_copies(valkey):
    """Kombu's own restore goes through the exchange, and gives a message to both queues: a duplicate."""
    name = f"twice-{uuid4().hex[:8]}"
    exchange = Exchange(name)
    queues = [Queue(f"{name}-{n}", exchange, routing_key=name) for n in (1, 2)]
    bench = Bench(valkey, queues)
    try:
        bench.send(1, 2)
        bench.open_and_receive(4)
        bench.pause()
        bench.hands.tend()
        lying = bench.waiting(f"{name}-1") + bench.waiting(f"{name}-2")
        assert sorted(lying + bench.started) == [1, 1, 2, 2]
    finally:
        bench.close()


def test_a_message_that_someone_else_restored_is_not_pushed_again(valkey):
    """Its visibility timeout ran out in our hands; another worker's restore put it back already."""
    bench = Bench(valkey, visibility_timeout=0)
    try:
        bench.send(1, 2, 3)
        bench.open_and_receive(3)
        tag = bench.arrived[1].message.delivery_tag
        bench.redis.hdel(bench.stored, tag)
        bench.pause()
        bench.hands.tend()
        assert bench.waiting() == [3]
    finally:
        bench.close()


def test_what_the_broker_lost_while_we_held_it_comes_back_from_our_copy(bench):
    """S5: vanilla Celery would have run it from memory, so losing it would be a loss beyond vanilla's."""
    bench.send(1, 2, 3)
    bench.open_and_receive(3)
    bench.redis.delete(bench.stored, bench.index, bench.list)
    bench.pause()
    bench.hands.tend()
    assert bench.waiting() == [2, 3]


def test_a_task_that_was_acknowledged_early_and_yields_goes_back_to_the_head(bench):
    bench.send(1, 2)
    bench.open_and_receive(1)
    (parcel,) = bench.arrived
    parcel.message.ack()
    parcel.acknowledged = True
    assert (bench.redis.hlen(bench.stored), bench.waiting()) == (0, [2])
    bench.pause()
    assert bench.way_back.owe_yielded(parcel)
    bench.hands.tend()
    assert bench.waiting() == [1, 2]
    assert bench.redis.hlen(bench.stored) == bench.redis.zcard(bench.index) == 0


def test_what_waits_at_a_checkpoint_looks_as_if_it_had_just_come(bench):
    """And what was restored meanwhile is left alone."""
    bench.send(1, 2)
    bench.open_and_receive(2)
    kept, restored = (parcel.message.delivery_tag for parcel in bench.arrived)
    bench.redis.zadd(bench.index, {kept: 1.0})
    bench.redis.zrem(bench.index, restored)
    bench.way_back.keep(bench.arrived)
    assert bench.redis.zscore(bench.index, kept) > 1.0
    assert bench.redis.zcard(bench.index) == 1


def test_a_message_that_arrives_after_the_hand_back_goes_behind_the_older_ones(bench):
    bench.send(1, 2, 3)
    bench.open_and_receive(3)
    bench.pause()
    bench.hands.tend()
    assert bench.waiting() == [2, 3]
    # The reply of a BRPOP that was sent before the cancel: popped from the queue, and read only now.
    bench.send(4, 5)
    popped = next(raw for raw in bench.redis.lrange(bench.list, 0, -1) if _number(json.loads(raw)) == 4)
    bench.redis.lrem(bench.list, 1, popped)
    bench.connection.transport._deliver(json.loads(popped), bench.name)
    bench.hands.tend()
    assert bench.waiting() == [2, 3, 4, 5]
    assert bench.started == [1]


def test_a_message_that_arrives_after_the_hand_back_can_be_given_out_again_if_the_worker_dies_now(bench):
    """S5: kombu stores what arrives before it hands it on, and a paused worker does the same."""
    bench.open_and_receive(0)
    bench.pause()
    bench.hands.tend()
    bench.send(1)
    late = bench.redis.rpop(bench.list)
    bench.connection.transport._deliver(json.loads(late), bench.name)
    (tag,) = bench.redis.hkeys(bench.stored)
    assert json.loads(bench.redis.hget(bench.stored, tag))[0] == json.loads(late)
    assert bench.redis.zscore(bench.index, tag) is not None


def test_our_own_brpop_that_catches_what_we_handed_back_gives_it_back_in_front(bench):
    """The server serves a blocked BRPOP with the head of what the script pushed."""
    bench.send(1, 2, 3)
    bench.open_and_receive(3)
    bench.pause()
    bench.hands.tend()
    caught = bench.redis.rpop(bench.list)
    assert _number(json.loads(caught)) == 2
    bench.connection.transport._deliver(json.loads(caught), bench.name)
    bench.hands.tend()
    assert bench.waiting() == [2, 3]


def test_a_late_message_goes_to_the_head_where_ours_were_taken_by_others(bench):
    bench.send(1, 2, 3)
    bench.open_and_receive(3)
    bench.pause()
    bench.hands.tend()
    bench.send(4, 5)
    late = next(raw for raw in bench.redis.lrange(bench.list, 0, -1) if _number(json.loads(raw)) == 4)
    bench.redis.lrem(bench.list, 1, late)
    taken = bench.redis.rpop(bench.list, 1)
    assert [_number(json.loads(raw)) for raw in taken] == [2]
    bench.connection.transport._deliver(json.loads(late), bench.name)
    bench.hands.tend()
    assert bench.waiting() == [3, 4, 5]


def test_a_late_message_finds_its_place_behind_ours_when_another_worker_put_its_own_in_front(bench):
    """Per worker the order is exact, whoever handed back in between."""
    bench.send(1, 2, 3)
    bench.open_and_receive(3)
    bench.pause()
    bench.hands.tend()
    bench.send(4, 5)
    late = next(raw for raw in bench.redis.lrange(bench.list, 0, -1) if _number(json.loads(raw)) == 4)
    bench.redis.lrem(bench.list, 1, late)
    for number in (91, 90):
        bench.send(number)
        bench.redis.lmove(bench.list, bench.list, "LEFT", "RIGHT")
    assert bench.waiting() == [90, 91, 2, 3, 5]
    bench.connection.transport._deliver(json.loads(late), bench.name)
    bench.hands.tend()
    assert bench.waiting() == [90, 91, 2, 3, 4, 5]


def test_a_job_that_a_dying_child_had_goes_back_to_its_own_place(bench):
    """A pool child that is recycled gives its job back to the pool, after the others have gone back."""
    bench.send(1, 2, 3, 4)
    bench.open_and_receive(4)
    bench.pause()
    third = bench.arrived[2]
    waiting = bench.worker.semaphore._waiting
    put_back = next(entry for entry in waiting if entry[1] == (third,))
    waiting.remove(put_back)
    bench.hands.tend()
    assert bench.waiting() == [2, 4]
    callback = MethodType(lambda self: None, third)
    job = SimpleNamespace(
        _accepted=False, _terminated=None, correlation_id=third.id, _accept_callback=callback, discard=lambda: None
    )
    bench.pool.outbound_buffer.append(job)
    bench.hands.tend()
    assert bench.waiting() == [2, 3, 4]


def test_a_pause_and_its_resume_between_two_looks_still_hand_back_and_go_on(bench):
    bench.send(1, 2, 3)
    bench.open_and_receive(3)
    bench.pause()
    bench.worker.semaphore.release()
    bench.resume()
    bench.hands.tend()
    assert bench.has_acknowledged
    assert bench.started == [1]
    bench.open_and_receive(4)
    assert bench.started == [1, 2]


def _have_reply_under_way(bench, number):
    """A BRPOP is out, and its reply with this message has left the broker."""
    with suppress(TimeoutError):
        bench.connection.drain_events(timeout=0.05)
    assert bench.consumer.task_consumer.channel._in_poll
    bench.send(number)
    assert number not in bench.waiting()


@pytest.mark.parametrize("looks", ["none between", "one between"])
def test_what_was_under_way_when_a_pause_came_and_went_starts_behind_what_went_back(bench, looks):
    """R-B2: it left its queue before the others came back there, and is read after the resume."""
    bench.send(1, 2, 3)
    bench.open_and_receive(3)
    _have_reply_under_way(bench, 4)
    bench.pause()
    if looks == "one between":
        bench.hands.tend()
    bench.resume()
    bench.hands.tend()
    assert bench.waiting() == [2, 3]
    # It comes first, and goes back behind those.
    assert _received(bench, 6) == [1, 2, 3, 2, 3, 4]
    assert bench.redis.hlen(bench.stored) == 4


def test_a_reply_that_catches_what_went_back_itself_gives_it_back_in_front(bench):
    """The BRPOP that is out when a pause comes and goes is served with the head of what goes back."""
    bench.send(1, 2, 3)
    bench.open_and_receive(3)
    with suppress(TimeoutError):
        bench.connection.drain_events(timeout=0.05)
    bench.pause()
    bench.resume()
    bench.hands.tend()
    assert _received(bench, 5) == [1, 2, 3, 2, 3]
    assert bench.redis.hlen(bench.stored) == 3


def test_the_first_that_comes_after_a_queue_hold_is_in_front_of_the_next(valkey):
    """A BRPOP of the free queue is out at the release; kombu sends the next one before anybody looks at the worker."""
    name = f"two-{uuid4().hex[:8]}"
    held, free = (Queue(f"{name}-{what}", Exchange(f"{name}-{what}"), routing_key=what) for what in ("held", "free"))
    bench = Bench(valkey, [held, free], brpop_timeout=1)
    bench.gate.subject_of = lambda request: subject_of(request, Subject())
    bench.books.queues = lambda: (held.name, free.name)  # type: ignore[method-assign]
    try:
        bench.send(1, 2, 3, 4)
        bench.open_and_receive(4)
        _hold(bench, f"queue:{held.name}")
        bench.hands.tend()
        assert bench.waiting(held.name) == [2, 3, 4]
        with suppress(TimeoutError):
            bench.connection.drain_events(timeout=0.05)
        bench.resume()
        bench.hands.tend()
        bench.receive(7)
        assert [_number(parcel.message._raw) for parcel in bench.arrived] == [1, 2, 3, 4, 2, 3, 4]
    finally:
        bench.close()


def _received(bench, count):
    """The numbers of all that has come, once `count` messages have; the worker is woken where it calls for that."""

    def have():
        with suppress(TimeoutError):
            bench.connection.drain_events(timeout=0.05)
        bench.hands.tend()
        return len(bench.arrived) >= count

    until(f"{count} messages have come", have)
    return [_number(parcel.message._raw) for parcel in bench.arrived]


def test_what_is_owed_over_a_broken_connection_is_handed_back_on_the_next_one(bench):
    bench.send(1, 2, 3)
    bench.open_and_receive(3)
    bench.pause()
    channel = bench.consumer.task_consumer.channel

    def gone() -> None:
        raise RedisConnectionError("the broker is gone")

    channel.conn_or_acquire = gone
    bench.hands.tend()
    assert not bench.has_acknowledged
    assert bench.redis.hlen(bench.stored) == 3
    bench.hands.detach()
    channel.do_restore = False
    bench.connection.release()
    bench.connect()
    bench.hands.tend()
    assert bench.has_acknowledged
    assert bench.waiting() == [2, 3]
    assert bench.redis.hlen(bench.stored) == 1


def test_a_hand_back_whose_reply_was_lost_is_not_done_twice(bench):
    """S6: the script ran, the connection broke before its answer came, and the next try must find that out."""
    bench.send(1, 2, 3)
    bench.open_and_receive(3)
    bench.pause()
    with bench.losing_answers_of(HAND_BACK):
        bench.hands.tend()
    assert not bench.has_acknowledged
    bench.look_again()
    assert bench.has_acknowledged
    assert bench.waiting() == [2, 3]


@pytest.mark.parametrize("script", [STORE, PUT_IN_PLACE], ids=["stored", "put in place"])
def test_a_late_hand_back_whose_reply_was_lost_is_not_done_twice(bench, script):
    bench.send(1, 2, 3)
    bench.open_and_receive(3)
    bench.pause()
    bench.hands.tend()
    bench.send(4)
    late = bench.redis.lpop(bench.list)
    with bench.losing_answers_of(script):
        bench.connection.transport._deliver(json.loads(late), bench.name)
        bench.hands.tend()
    bench.look_again()
    assert bench.waiting() == [2, 3, 4]
    assert bench.redis.hlen(bench.stored) == 1


@pytest.mark.parametrize("way", ["late", "yielded"])
def test_what_was_stored_and_given_out_again_before_the_next_try_is_not_stored_once_more(bench, way):
    """S6: the answer was lost, and the broker was away for longer than the visibility timeout."""
    bench.send(1)
    bench.open_and_receive(1)
    (parcel,) = bench.arrived
    parcel.message.ack()
    parcel.acknowledged = True
    bench.pause()
    bench.hands.tend()
    with bench.losing_answers_of(STORE):
        if way == "late":
            bench.connection.transport._deliver(dict(parcel.message._raw), bench.name)
        else:
            bench.hands.hand_back._yielded.append(parcel)
        bench.hands.tend()
    (tag,) = bench.redis.hkeys(bench.stored)
    # Another worker restores it, and runs it to its end.
    bench.redis.hdel(bench.stored, tag)
    bench.redis.zrem(bench.index, tag)
    bench.hands.tend()
    assert bench.has_acknowledged
    assert bench.waiting() == []


def test_what_yields_while_a_worker_stops_that_has_lost_its_connection_goes_back_over_another(bench):
    """S5: kombu 5.7 ends a worker that loses Redis at a bad moment, by an error on the lost connection."""
    bench.send(1, 2)
    bench.open_and_receive(2)
    first, second = bench.arrived
    for parcel in bench.arrived:
        parcel.message.ack()
        parcel.acknowledged = True
    channel = bench.consumer.task_consumer.channel

    def gone() -> Any:
        raise AttributeError("'NoneType' object has no attribute 'hostname'")

    channel.conn_or_acquire = gone
    bench.consumer.app = SimpleNamespace(
        connection_for_read=lambda: Connection(bench.url, transport_options=bench.options)
    )
    bench.hands.hand_back._yielded.append(second)
    bench.hands.close()
    assert bench.waiting() == [2]
    bench.hands.hand_back._yielded.append(first)
    bench.hands.hand_back._hand_back_last()
    assert bench.waiting() == [1, 2]


def test_an_event_that_cannot_be_sent_leaves_no_message_behind(bench):
    """S5: the event goes to the broker too; neither its own message nor the others of its batch depend on it."""
    bench.send(1, 2, 3, 4)
    bench.open_and_receive(4)
    bench.pause()

    def fail(*_: Any, **__: Any) -> None:
        raise RedisConnectionError("the broker is gone")

    bench.arrived[2].send_event = fail
    bench.hands.tend()
    assert bench.has_acknowledged
    assert bench.waiting() == [2, 3, 4]


def test_what_celery_itself_put_over_the_credit_is_there_again_after_the_resume(bench):
    """`worker_disable_prefetch` puts a `can_consume` of its own on the channel."""

    def never() -> bool:
        return False

    qos = bench.consumer.task_consumer.channel.qos
    qos.can_consume = never
    for _ in range(2):
        bench.pause()
        bench.hands.tend()
        assert qos.can_consume()
        bench.resume()
        bench.hands.tend()
        assert qos.can_consume is never


@pytest.mark.parametrize("error", [ResponseError("READONLY"), RuntimeError("a defect")])
def test_whatever_the_broker_says_a_pause_does_not_end_the_worker_and_nothing_is_forgotten(bench, error, caplog):
    """A replica after a failover, a user without the permission, a full disk: said once, tried again."""
    bench.send(1, 2, 3)
    bench.open_and_receive(3)
    bench.pause()
    channel = bench.consumer.task_consumer.channel
    whole = channel.conn_or_acquire

    def refuse():
        raise error

    channel.conn_or_acquire = refuse
    for _ in range(5):
        bench.hands.tend()
    assert not bench.has_acknowledged
    assert len(caplog.records) == 1
    channel.conn_or_acquire = whole
    bench.look_again()
    assert bench.has_acknowledged
    assert bench.waiting() == [2, 3]


def test_a_reply_that_is_out_is_read_even_where_no_credit_is_left(bench):
    """S5: unread, the message in it would be neither in the queue nor in unacked."""
    bench.send(1)
    bench.open_and_receive(1)
    qos = bench.consumer.task_consumer.channel.qos
    qos.prefetch_count = 1
    assert not qos.can_consume()
    bench.pause()
    bench.hands.tend()
    assert qos.can_consume()
    bench.resume()
    bench.hands.tend()
    assert not qos.can_consume()


def test_a_job_that_celery_forgot_with_its_connection_is_waited_for(bench):
    """S1: it is in the child's pipe, and the child will run it; flush forgets it when the broker drops."""
    child = SimpleNamespace(pid=77, index=5)
    parcel = SimpleNamespace(id="t1", name="app.work", on_accepted=None)
    parcel.on_accepted = MethodType(lambda self: None, parcel)
    job = SimpleNamespace(
        _accepted=False, _worker_pid=None, _write_to=child, correlation_id="t1", _accept_callback=parcel.on_accepted
    )
    bench.pool._cache[1] = job
    bench.pool._pool.append(child)
    bench.worker.pool.flush = bench.pool._cache.clear
    bench.side.watch()
    bench.worker.pool.flush()
    bench.pause()
    bench.hands.tend()
    assert not bench.has_acknowledged
    assert [task.id for task in bench.running()] == ["t1"], "not drained as long as it may still run"
    bench.cell.noting(5)[0]("t1")
    bench.look_again()
    assert bench.has_acknowledged
    assert [task.id for task in bench.running()] == ["t1"]
    bench.cell.noting(5)[1]()
    assert bench.running() == ()


def test_a_forgotten_job_whose_child_died_is_not_waited_for(bench):
    child = SimpleNamespace(pid=77, index=5)
    parcel = SimpleNamespace(id="t1", name="app.work")
    callback = MethodType(lambda self: None, parcel)
    job = SimpleNamespace(_accepted=False, _write_to=child, correlation_id="t1", _accept_callback=callback)
    bench.pool._cache[1] = job
    bench.pool._pool.append(child)
    bench.worker.pool.flush = bench.pool._cache.clear
    bench.side.watch()
    bench.worker.pool.flush()
    bench.pause()
    bench.hands.tend()
    assert not bench.has_acknowledged
    bench.pool._pool.clear()
    bench.look_again()
    assert bench.has_acknowledged


def test_the_pool_s_own_jobs_are_no_tasks(bench):
    """A pool restart sends each child a job that does nothing, without a callback or an id."""
    job = SimpleNamespace(_accepted=False, correlation_id=None, _accept_callback=None, _terminated=None)
    bench.pool._cache[1] = job
    bench.pool.outbound_buffer.append(job)
    bench.pause()
    bench.hands.tend()
    assert bench.has_acknowledged
    assert list(bench.pool.outbound_buffer) == [job]


def test_an_unlimited_prefetch_comes_back_in_order_too(bench):
    numbers = list(range(1203))
    bench.consumer.task_consumer.qos(prefetch_count=0)
    bench.send(*numbers)
    bench.open_and_receive(len(numbers))
    bench.pause()
    bench.hands.tend()
    assert bench.waiting() == numbers[1:]


def test_while_it_is_closed_no_consume_reaches_the_broker(bench):
    """R-B3: at boot, on reconnect, and for a queue that is added meanwhile."""
    bench.send(1)
    bench.consumer.task_consumer.consume()
    assert not bench.consumer.task_consumer.channel._active_queues
    bench.resume()
    bench.hands.tend()
    assert bench.consumer.task_consumer.channel._active_queues == [bench.name]
    bench.pause()
    bench.hands.tend()
    extra = Queue(f"{bench.name}-added", Exchange(bench.name), routing_key="added")
    bench.consumer.task_consumer.add_queue(extra)
    bench.consumer.task_consumer.consume()
    assert not bench.consumer.task_consumer.channel._active_queues
    bench.resume()
    bench.hands.tend()
    assert set(bench.consumer.task_consumer.channel._active_queues) == {bench.name, extra.name}


def test_the_acknowledgement_waits_for_a_job_that_a_child_has_not_started(bench):
    """The barrier: accepted is not started; the child's own word that it runs, seen twice, is."""
    job = SimpleNamespace(_accepted=False, _worker_pid=None, correlation_id="t1", _accept_callback=print)
    bench.pool._cache[1] = job
    bench.pool._pool.append(SimpleNamespace(pid=77, index=5))
    bench.pause()
    bench.hands.tend()
    assert not bench.has_acknowledged
    job._accepted, job._worker_pid = True, 77
    bench.look_again()
    assert not bench.has_acknowledged
    bench.cell.noting(5)[0]("t1")
    bench.look_again()
    assert not bench.has_acknowledged, "one look is not enough"
    bench.look_again()
    assert bench.has_acknowledged


def test_what_was_fetched_without_acknowledgement_goes_back_however_long_it_was_in_hand(valkey):
    """It never stood in `unacked`: that its tag is not there does not say that somebody has restored it."""
    name = f"no-ack-{uuid4().hex[:8]}"
    bench = Bench(valkey, [Queue(name, Exchange(name), routing_key=name, no_ack=True)], visibility_timeout=0)
    try:
        bench.send(1, 2, 3)
        bench.open_and_receive(3)
        bench.pause()
        bench.hands.tend()
        assert bench.waiting(name) == [2, 3]
        assert bench.redis.hlen(bench.stored) == bench.redis.zcard(bench.index) == 0
    finally:
        bench.close()


def _hold(bench: Bench, scope: str) -> None:
    bench.gate.subject_of = lambda request: subject_of(request, Subject())
    bench.version += 1
    hold = Hold(id=UUID(int=0), scope=Scope.parse(scope), mode=Mode.DRAIN, reason="r", actor="a", created_at=NOW)
    state = Holds(version=bench.version, active=frozenset({hold}))
    bench.gate.put_in_force(Snapshot(namespace="default", epoch=1, holds=state, publication=1, issued_at=NOW))


def _fetch_unknown(bench: Bench, count: int) -> None:
    """Tasks that this worker does not know come, as Celery calls it for each."""
    came: list[Any] = []

    def arrive(message: Any) -> None:
        came.append(message)
        bench.consumer.on_unknown_task(None, message, KeyError("app.new"))

    bench.consumer.task_consumer.on_message = arrive

    def have() -> bool:
        with suppress(TimeoutError):
            bench.connection.drain_events(timeout=0.1)
        return len(came) >= count

    until(f"{count} messages have come", have)


def _send_tasks(bench: Bench, *numbers: int) -> None:
    with Connection(bench.url, transport_options=bench.options) as connection:
        for number in numbers:
            connection.Producer().publish(
                number,
                exchange=bench.queues[0].exchange,
                routing_key=bench.queues[0].routing_key,
                declare=bench.queues,
                headers={"task": "app.new", "id": f"t{number}"},
            )


def _aside(bench: Bench) -> list[int]:
    raws = bench.redis.lrange(aside_key(bench.list), 0, -1)
    return [_number(json.loads(raw)) for raw in reversed(raws)]


def test_a_held_task_that_this_worker_does_not_know_is_set_aside_and_not_thrown_away(bench):
    _send_tasks(bench, 1, 2)
    bench.open_and_receive(0)
    _hold(bench, "task:app.new")
    _fetch_unknown(bench, 2)
    bench.hands.tend()
    assert (_aside(bench), bench.waiting(), bench.refused) == ([1, 2], [], [])
    assert bench.redis.hlen(bench.stored) == 0
    assert bench.has_acknowledged
    bench.resume()
    bench.hands.tend()
    assert (_aside(bench), bench.waiting()) == ([], [1, 2])
    _fetch_unknown(bench, 2)
    assert bench.refused == [1, 2], "what nobody holds is Celery's to judge"


def test_a_task_that_nobody_here_knows_and_that_comes_to_a_closed_worker_goes_back(bench):
    """It was under way when the pause came."""
    _send_tasks(bench, 1, 2)
    bench.open_and_receive(0)
    bench.pause()
    _fetch_unknown(bench, 2)
    bench.hands.tend()
    assert (bench.waiting(), bench.refused) == ([1, 2], [])
    assert bench.redis.hlen(bench.stored) == 0
    assert bench.has_acknowledged


def test_a_message_whose_task_cannot_be_read_falls_under_a_hold_of_the_worker_alone(bench):
    _send_tasks(bench, 1)
    bench.open_and_receive(0)
    (raw,) = bench.redis.lrange(bench.list, 0, -1)
    broken = {**json.loads(raw), "headers": {}, "content-type": "application/x-nothing"}
    bench.redis.lset(bench.list, 0, json.dumps(broken))
    _hold(bench, "task:app.new")
    _fetch_unknown(bench, 1)
    assert bench.refused == [1]


def test_a_new_connection_wraps_what_throws_away_no_second_time(bench):
    first = bench.consumer.on_unknown_task
    bench.hands.detach()
    bench.hands.attach(bench.consumer)
    assert bench.consumer.on_unknown_task is first


def test_a_message_that_does_not_say_its_task_is_set_aside_once_and_comes_back_byte_for_byte(bench):
    """Protocol 1: whoever sweeps cannot read the body."""
    bench.send(1, 2, 3)
    sent = bench.redis.lrange(bench.list, 0, -1)
    _hold(bench, "task:app.work")
    bench.hands.tend()
    bench.receive(3)
    bench.hands.tend()
    assert (_aside(bench), bench.waiting()) == ([1, 2, 3], [])
    assert not bench.way_back.hand_back_aside({"app.work"})
    assert _aside(bench) == [1, 2, 3]
    assert bench.way_back.hand_back_aside({"app.other"})
    assert bench.redis.lrange(bench.list, 0, -1) == sent
