"""A RabbitMQ of one classic queue, played: what is returned goes to where it was, by AMQP 0-9-1's methods.

What a real one does, the fleet tests see where there is one (`tests/fleet/test_rabbitmq.py`).
"""

from __future__ import annotations

import json
from bisect import insort
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

from amqp import spec
from kombu import Queue

from sluicegate.workers.celery_inside.amqp_hand_back import AmqpWayBack
from sluicegate.workers.ports import WayBack
from tests.conformance.way_back import TASK, Parcel

QUEUE = "q"


class Broker:
    """`ready`: place and body, the next first. `unacked`: the same by delivery tag."""

    def __init__(self) -> None:
        self.ready: list[tuple[int, bytes]] = []
        self.unacked: dict[int, tuple[int, bytes]] = {}
        self.places = 0
        self.is_away = False

    def publish(self, body: bytes) -> None:
        self.places += 1
        insort(self.ready, (self.places, body))

    def requeue(self, tag: int) -> None:
        insort(self.ready, self.unacked.pop(tag))


class Channel:
    """py-amqp's, over which one consumer consumes."""

    def __init__(self, broker: Broker, *, is_apart: bool = False) -> None:
        self.broker = broker
        self.is_apart = is_apart
        self.callbacks: dict[str, Callable[[Any], None]] = {}
        self.no_ack_consumers: set[str] = set()
        self.tags = 0
        self.connection = SimpleNamespace(
            server_properties={"version": "4.0.5"},
            server_capabilities={"basic.nack": True},
            # Another channel, over which what goes out is confirmed.
            channel=lambda: Channel(broker, is_apart=is_apart),
        )

    def basic_consume(
        self, queue: str, *, consumer_tag: str, callback: Callable[[Any], None], no_ack: bool = False
    ) -> None:
        self.callbacks[consumer_tag] = callback
        if no_ack:
            self.no_ack_consumers.add(consumer_tag)

    def message_to_python(self, raw: Any) -> Any:
        message = SimpleNamespace(
            body=raw.body,
            headers=raw.headers,
            properties={"headers": raw.headers},
            delivery_info=raw.delivery_info,
            delivery_tag=raw.delivery_info["delivery_tag"],
            channel=self,
            acknowledged=False,
        )
        message.ack = lambda: self._ack(message)
        return message

    def _ack(self, message: Any) -> None:
        """As kombu's message does: none of a consumer without acknowledgements."""
        if message.delivery_info["consumer_tag"] not in self.no_ack_consumers:
            # Where there is none, a real broker closes the channel.
            self.broker.unacked.pop(message.delivery_tag)

    def deliver(self, consumer_tag: str) -> None:
        """The next message comes."""
        self.tags += 1
        message = self.broker.ready.pop(0)
        if consumer_tag not in self.no_ack_consumers:
            self.broker.unacked[self.tags] = message
        info = {"consumer_tag": consumer_tag, "delivery_tag": self.tags, "exchange": "", "routing_key": QUEUE}
        self.callbacks[consumer_tag](SimpleNamespace(body=message[1], headers={"task": TASK}, delivery_info=info))

    def send_method(self, method: tuple[int, int], argsig: str, args: tuple[Any, ...]) -> None:
        if self.broker.is_away:
            raise ConnectionError("the broker is away")
        if method == spec.Basic.Nack:
            tag, _, is_requeued = args
            assert is_requeued
            self.broker.requeue(tag)
        else:
            assert method == spec.Basic.Cancel

    def basic_publish_confirm(self, message: Any, exchange: str, routing_key: str) -> None:
        if self.broker.is_away and not self.is_apart:
            raise ConnectionError("the broker is away")
        assert (exchange, routing_key) == ("", QUEUE)
        self.broker.publish(message.body)

    def close(self) -> None: ...


class AmqpRig:
    """A worker that consumes it."""

    def __init__(self) -> None:
        self.broker = Broker()
        self.way_back: WayBack = AmqpWayBack()
        self.connections = 0
        self.came: list[Parcel] = []
        self.fetched = 0
        self.no_ack = False
        self.connect()

    def without_acknowledgements(self) -> None:
        self.no_ack = True
        self.connect()

    def connect(self) -> None:
        self.connections += 1
        self.channel = Channel(self.broker)
        self.tag = f"consumer-{self.connections}"

        def receive(raw: Any) -> None:
            self._arrive(self.channel.message_to_python(raw))

        self.tasks = SimpleNamespace(
            channel=self.channel,
            _active_tags={QUEUE: self.tag},
            _queues={QUEUE: Queue(QUEUE)},
            _receive_callback=receive,
            on_message=self._arrive,
        )
        queues = {QUEUE: Queue(QUEUE)}
        app = SimpleNamespace(amqp=SimpleNamespace(queues=queues), connection_for_read=self._another_connection)
        self.way_back.attach(SimpleNamespace(task_consumer=self.tasks, app=app), lambda: None)
        self.channel.basic_consume(QUEUE, consumer_tag=self.tag, callback=receive, no_ack=self.no_ack)
        self.way_back.before_consuming()

    @contextmanager
    def _another_connection(self) -> Iterator[Any]:
        yield SimpleNamespace(default_channel=Channel(self.broker, is_apart=True))

    def _arrive(self, message: Any) -> None:
        self.came.append(Parcel(message))

    def send(self, *numbers: int) -> None:
        for number in numbers:
            self.broker.publish(json.dumps(number).encode())

    def fetch(self, count: int) -> list[Parcel]:
        for _ in range(count):
            self.channel.deliver(self.tag)
        self.fetched = len(self.came)
        return self.came[-count:]

    def fetch_late(self) -> None:
        # The broker has chosen it before it read the cancel: the last one.
        late = self.broker.ready.pop()
        self.broker.ready.insert(0, late)
        self.channel.callbacks.setdefault(self.tag, self._caught)
        self.channel.deliver(self.tag)
        self._confirm()

    def lying(self) -> list[int]:
        return [json.loads(body) for _, body in self.broker.ready]

    def come_again(self) -> list[int]:
        return self.lying() + [json.loads(parcel.message.body) for parcel in self.came[self.fetched :]]

    def reconnect(self) -> None:
        for tag in list(self.broker.unacked):
            self.broker.requeue(tag)
        self.connect()

    def stop(self) -> None:
        self.way_back.stop_consuming()
        self._confirm()

    def stop_queue(self) -> None:
        self.way_back.stop_queue(QUEUE)
        self._confirm()

    def _confirm(self) -> None:
        """The broker's cancel-ok: from now on the consumer's tag has no callback."""
        if self.tag in self.channel.callbacks:
            self._caught = self.channel.callbacks.pop(self.tag)
            self.channel.no_ack_consumers.discard(self.tag)

    @contextmanager
    def away(self) -> Iterator[None]:
        self.broker.is_away = True
        yield
        self.broker.is_away = False
