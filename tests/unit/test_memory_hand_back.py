"""In kombu's queues in memory, messages go back to the head in the order in which they came."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest
from kombu import Connection, Consumer, Exchange, Queue

from sluicegate.workers.celery_inside.memory_hand_back import MemoryWayBack


class Side:
    """A way back at a consumer of one queue, and what it was given, as requests."""

    def __init__(self, connection: Connection) -> None:
        self.queue = Queue(f"q-{uuid4()}", Exchange(""), routing_key="")
        self.connection = connection
        self.channel = connection.channel()
        self.came: list[Any] = []
        self.way_back = MemoryWayBack()
        tasks = Consumer(self.channel, [self.queue], on_message=self.take, accept=["json"])
        self.way_back.attach(SimpleNamespace(task_consumer=tasks), lambda: None)
        self.tasks = tasks

    def take(self, message: Any) -> None:
        self.came.append(
            SimpleNamespace(
                message=message,
                id=message.payload,
                type=f"app.{message.payload}",
                acknowledged=False,
                send_event=lambda *args, **kw: None,
            )
        )

    def send(self, *words: str) -> None:
        producer = self.connection.Producer(self.channel)
        for word in words:
            producer.publish(word, exchange="", routing_key=self.queue.name, serializer="json")

    def consume(self, count: int) -> list[str]:
        """The next words."""
        self.came.clear()
        self.way_back.before_consuming()
        self.tasks.consume()
        while len(self.came) < count:
            self.connection.drain_events(timeout=5)
        return [request.id for request in self.came]


@pytest.fixture
def side() -> Iterator[Side]:
    with Connection("memory://") as connection:
        made = Side(connection)
        yield made
        made.queue(made.channel).delete()


def test_what_went_back_in_any_order_comes_again_in_its_own_in_front_of_the_rest(side):
    side.send(*"abcdef")
    assert side.consume(4) == list("abcd")
    a, b, c, d = side.came
    side.way_back.stop_consuming()
    for batch in ((c, a), (d,), (b,)):
        for request in batch:
            assert side.way_back.owe(request)
        side.way_back.hand_back()
    assert side.way_back.count_owed() == 0
    assert side.consume(6) == list("abcdef")


def test_each_comes_once_and_nothing_stays_unacknowledged(side):
    side.send(*"ab")
    side.consume(2)
    side.way_back.stop_consuming()
    for request in list(side.came):
        side.way_back.owe(request)
        assert request.acknowledged
    side.way_back.hand_back()
    assert side.consume(2) == ["a", "b"]
    for request in side.came:
        request.message.ack()
    side.channel.qos._flush()
    assert not side.channel.qos._delivered
    assert side.channel._size(side.queue.name) == 0


def test_a_task_that_began_and_was_acknowledged_goes_back_too(side):
    side.send("a")
    side.consume(1)
    (request,) = side.came
    request.message.ack()
    request.acknowledged = True
    assert side.way_back.owe_yielded(request)
    side.way_back.hand_back()
    assert side.consume(1) == ["a"]


def test_what_is_set_aside_comes_back_when_its_task_is_held_no_more(side):
    side.send(*"abc")
    side.consume(3)
    for request in side.came[:2]:
        side.way_back.set_aside(request)
    side.way_back.hand_back()
    assert (side.way_back.count_owed(), side.way_back.count_in_hand()) == (0, 2)
    assert side.way_back.hand_back_aside({"app.a"})
    assert side.consume(1) == ["b"]
    assert not side.way_back.hand_back_aside({"app.a"})


def test_a_worker_that_stops_leaves_nothing_aside(side):
    side.send("a")
    side.consume(1)
    side.way_back.set_aside(side.came[0])
    side.way_back.finish()
    side.way_back.hand_back_apart()
    assert side.consume(1) == ["a"]


def test_a_message_whose_queue_is_not_known_cannot_go_back(side):
    side.send("a")
    message = side.channel.basic_get(side.queue.name)
    assert not side.way_back.owe(SimpleNamespace(message=message))
