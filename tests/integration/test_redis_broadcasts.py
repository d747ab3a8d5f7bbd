"""Broadcasts on Redis over pauses and holds: real kombu on a real Valkey, and the whole of a worker's hands."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any
from uuid import UUID, uuid4

import pytest
from kombu import Connection, Consumer, Exchange, Queue
from kombu.common import Broadcast

from sluicegate.control.embedded import EmbeddedValkey
from sluicegate.schemas.beats import RunningTask
from sluicegate.schemas.holds.hold import Hold, Holds
from sluicegate.schemas.modes import Mode
from sluicegate.schemas.scopes import Scope, Subject
from sluicegate.schemas.snapshots import Snapshot
from sluicegate.workers.celery_inside import requests
from sluicegate.workers.celery_inside.books import CeleryBooks
from sluicegate.workers.celery_inside.consumer import CeleryConsumer
from sluicegate.workers.celery_inside.loops import HubLoop
from sluicegate.workers.celery_inside.redis_hand_back import RedisWayBack
from sluicegate.workers.cell import Cell
from sluicegate.workers.gate import Gate
from sluicegate.workers.hands import Hands
from sluicegate.workers.ports import Sides
from tests.conformance.way_back import TASK, Parcel
from tests.fleet.waiting import until

NOW = datetime(2026, 3, 1, tzinfo=UTC)


class Pool:
    """Starts what comes to an open gate at once."""

    name = "solo"

    def __init__(self, worker: Any) -> None:
        self.worker = worker
        self.started: list[int] = []

    def guard(self, gate: Gate[Any], hold: Any) -> None:
        def process_task(request: Any) -> None:
            if not gate.pass_through(lambda r: self.started.append(r.message.payload), request):
                hold(request)

        self.worker.process_task = process_task

    def unstarted(self, is_wanted: Any) -> Iterator[Any]:
        yield from ()

    def go_on(self) -> None: ...

    def is_past_barrier(self, is_wanted: Any) -> bool:
        return True

    def forget_looks(self) -> None: ...

    def forgotten(self) -> tuple[RunningTask, ...]:
        return ()


class Listener:
    """A worker that consumes a queue of its own and a broadcast."""

    def __init__(self, valkey: EmbeddedValkey) -> None:
        self.name = f"broadcasts-{uuid4().hex[:8]}"
        self.exchange = Exchange(f"{self.name}-all", type="fanout")
        self.broadcast = Broadcast(exchange=self.exchange)
        self.url = valkey.url
        self.options = {"unacked_key": f"unacked-{self.name}", "unacked_index_key": f"index-{self.name}"}
        timer: Any = SimpleNamespace(call_later=lambda *_: SimpleNamespace(cancel=lambda: None), _queue=[])
        timer.schedule = timer
        self.worker: Any = SimpleNamespace(hub=timer, timer=timer, app=SimpleNamespace(tasks={}), concurrency=1)
        self.loop = HubLoop(self.worker)
        self.pool = Pool(self.worker)
        self.way_back = RedisWayBack()
        self.gate: Gate[Any] = Gate(
            Cell(),
            Subject(),
            wake=self.loop.wake,
            on_applied=lambda: None,
            subject_of=lambda request: requests.subject_of(request, Subject()),
        )
        books = CeleryBooks(self.worker)
        pool: Any = self.pool
        consumer = CeleryConsumer()
        self.hands = Hands(
            self.gate,
            Sides(pool=pool, way_back=self.way_back, loop=self.loop, consumer=consumer, books=books),
        )
        books.queues = lambda: (self.broadcast.name, self.name)  # type: ignore[method-assign]
        self.version = 0
        self.connect()

    def connect(self) -> None:
        """And consume, as the event loop does when it begins."""
        self.connection: Any = Connection(self.url, transport_options=self.options)
        plain = Queue(self.name, Exchange(self.name), routing_key=self.name)
        self.tasks: Any = Consumer(self.connection.default_channel, [plain, self.broadcast], on_message=self._arrive)
        self.hands.attach(
            SimpleNamespace(
                task_consumer=self.tasks,
                task_buckets={},
                timer=self.worker.timer,
                connection_errors=self.connection.connection_errors,
                app=self.worker.app,
                on_unknown_task=None,
                on_invalid_task=None,
                on_decode_error=None,
            )
        )
        self.tasks.consume()
        self.hands.tend()
        self.settle()

    def lose_connection(self) -> None:
        self.hands.detach()
        self.close_connection()

    def close_connection(self) -> None:
        self.connection.default_channel.do_restore = False
        self.connection.release()

    def close(self) -> None:
        self.close_connection()
        self.loop.close()

    def _arrive(self, message: Any) -> None:
        self.worker.process_task(Parcel(message))

    def settle(self) -> None:
        """Read what is there to be read."""
        with suppress(TimeoutError):
            while True:
                self.connection.drain_events(timeout=0.2)

    def order(self, *scopes: str) -> None:
        self.version += 1
        holds = frozenset(
            Hold(id=UUID(int=n), scope=Scope.parse(s), mode=Mode.DRAIN, reason="r", actor="a", created_at=NOW)
            for n, s in enumerate(scopes)
        )
        state = Holds(version=self.version, active=holds)
        self.gate.put_in_force(Snapshot(namespace="default", epoch=1, holds=state, publication=1, issued_at=NOW))
        self.hands.tend()
        assert self.gate.applied.edition.version == self.version

    def send(self, *numbers: int) -> None:
        """To everybody who listens."""
        with Connection(self.url, transport_options=self.options) as connection:
            for number in numbers:
                connection.Producer().publish(
                    number, exchange=self.exchange, declare=[self.exchange], headers={"task": TASK}
                )
        self.settle()

    def hears(self, *numbers: int) -> None:
        """They have started, in this order, and nothing else has."""

        def read() -> list[int]:
            self.settle()
            return list(self.pool.started)

        until(f"{numbers} have started", lambda: read() == list(numbers), within_s=5.0)


@pytest.fixture
def listener(valkey: EmbeddedValkey) -> Iterator[Listener]:
    made = Listener(valkey)
    yield made
    made.close()


def test_after_a_pause_broadcasts_are_heard_again(listener: Listener) -> None:
    """Kombu subscribes again on no channel that listens already: what was cancelled once stays deaf."""
    listener.order()
    listener.send(1)
    listener.hears(1)
    listener.order("global")
    listener.order()
    listener.send(2)
    listener.hears(1, 2)


def test_what_is_sent_in_a_pause_is_kept_and_starts_at_the_resume_in_its_order(
    listener: Listener, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    listener.order()
    listener.order("global")
    listener.send(1, 2)
    listener.send(3)
    assert listener.pool.started == []
    assert listener.way_back.count_in_hand() == 3
    listener.order()
    assert listener.pool.started == [1, 2, 3]
    assert listener.way_back.count_in_hand() == 0
    said = [record.message for record in caplog.records if "a broadcast came" in record.message]
    assert said == [
        f"sluicegate: a broadcast came on {listener.broadcast.name} while it is held: what comes so is kept by this "
        "worker, and starts when it may; a worker that ends before loses it, since Redis keeps none"
    ]
    listener.order("global")
    listener.send(4)
    assert caplog.text.count("a broadcast came") == 2, "once for each pause"


def test_what_came_to_the_gate_as_it_closed_starts_before_what_was_sent_in_the_pause(listener: Listener) -> None:
    listener.order()
    listener.gate.hold_locally("as it closes")
    listener.send(1)
    listener.hands.tend()
    listener.send(2)
    listener.gate.hold_locally(None)
    listener.hands.tend()
    listener.hears(1, 2)


def test_a_worker_that_is_started_in_a_pause_hears_what_is_sent_in_it(listener: Listener) -> None:
    """Nothing was in force yet when it began to consume."""
    listener.send(1)
    listener.order("global")
    listener.send(2)
    assert listener.pool.started == []
    listener.order()
    listener.hears(1, 2)


@pytest.mark.parametrize("scope", ["global", f"task:{TASK}", "queue:"])
def test_what_was_kept_survives_the_connection(listener: Listener, scope: str) -> None:
    scope = scope if scope != "queue:" else f"queue:{listener.broadcast.name}"
    listener.order()
    listener.order(scope)
    listener.send(1)
    listener.hands.tend()
    listener.lose_connection()
    listener.connect()
    listener.send(2)
    listener.hands.tend()
    assert listener.pool.started == []
    listener.order()
    listener.hears(1, 2)


def test_one_whose_task_is_held_starts_at_the_release(listener: Listener) -> None:
    """It was dropped."""
    listener.order()
    listener.order(f"task:{TASK}")
    listener.send(1, 2)
    listener.hands.tend()
    assert (listener.pool.started, listener.way_back.count_in_hand()) == ([], 2)
    listener.order("global", f"task:{TASK}")
    listener.order(f"task:{TASK}")
    assert listener.pool.started == []
    listener.order()
    listener.hears(1, 2)


def test_one_whose_queue_is_held_starts_at_the_release_and_others_go_on(listener: Listener) -> None:
    listener.order()
    listener.order(f"queue:{listener.broadcast.name}")
    listener.send(1)
    assert listener.pool.started == []
    listener.order("global", f"queue:{listener.broadcast.name}")
    listener.order(f"queue:{listener.broadcast.name}")
    listener.send(2)
    assert (listener.pool.started, listener.way_back.count_in_hand()) == ([], 2)
    listener.order()
    listener.send(3)
    listener.hears(1, 2, 3)


def test_what_is_kept_is_unacknowledged_nowhere(listener: Listener) -> None:
    """Its visibility timeout would give it out again, to a list that nobody reads."""
    listener.order()
    listener.order(f"task:{TASK}")
    listener.send(1)
    listener.hands.tend()
    with listener.tasks.channel.conn_or_acquire() as client:
        assert client.hlen(listener.options["unacked_key"]) == 0


def test_a_worker_that_stops_says_what_it_loses(listener: Listener, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    listener.order()
    listener.order("global")
    listener.send(1, 2)
    listener.way_back.finish()
    assert "2 broadcasts that were held are lost with this worker" in caplog.text
