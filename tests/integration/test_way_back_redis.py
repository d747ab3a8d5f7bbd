"""The way back to Redis, as a way back: real kombu on a real Valkey."""

from __future__ import annotations

import json
from base64 import b64decode
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest
from kombu import Connection, Consumer, Exchange, Queue
from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from sluicegate.control.embedded import EmbeddedValkey
from sluicegate.workers.celery_inside.redis_hand_back import RedisWayBack
from sluicegate.workers.ports import WayBack
from tests.conformance.way_back import TASK, Parcel, WayBackFacts
from tests.fleet.waiting import until


class _Gone(RedisConnectionError, ConnectionError):
    """Redis's own, and what the facts expect of any broker."""


class RedisRig:
    """A worker on a queue of its own."""

    def __init__(self, valkey: EmbeddedValkey) -> None:
        self.name = f"way-back-{uuid4().hex[:8]}"
        self.queue = Queue(self.name, Exchange(self.name), routing_key=self.name)
        self.url = valkey.url
        self.redis: Any = Redis.from_url(valkey.url)
        own = {"unacked_key": f"unacked-{self.name}", "unacked_index_key": f"index-{self.name}"}
        self.options = {**own, "priority_steps": [0]}
        self.way_back: WayBack = RedisWayBack()
        self.came: list[Parcel] = []
        self.connect()

    def without_acknowledgements(self) -> None:
        self.queue = Queue(self.name, self.queue.exchange, routing_key=self.name, no_ack=True)
        self.reconnect()

    def _open(self) -> Connection:
        return Connection(self.url, transport_options=self.options)

    def connect(self) -> None:
        self.connection: Any = self._open()
        self.tasks = Consumer(self.connection.default_channel, [self.queue], on_message=self._arrive)
        self.tasks.qos(prefetch_count=100)
        app = SimpleNamespace(connection_for_read=self._open)
        self.way_back.attach(SimpleNamespace(task_consumer=self.tasks, app=app), lambda: None)

    def _arrive(self, message: Any) -> None:
        self.came.append(Parcel(message))

    def close(self) -> None:
        channel = self.connection.default_channel
        channel.do_restore = False
        self.connection.release()
        self.redis.close()

    def send(self, *numbers: int) -> None:
        with self._open() as connection:
            producer = connection.Producer()
            for number in numbers:
                producer.publish(
                    number,
                    exchange=self.queue.exchange,
                    routing_key=self.name,
                    declare=[self.queue],
                    headers={"task": TASK},
                )

    def fetch(self, count: int) -> list[Parcel]:
        self.way_back.before_consuming()
        self.tasks.consume()

        def have() -> bool:
            with suppress(TimeoutError):
                self.connection.drain_events(timeout=0.1)
            return len(self.came) >= count

        until(f"{count} messages have come", have)
        return self.came[-count:]

    def fetch_late(self) -> None:
        # The reply of a BRPOP that was sent before the cancel: popped from the queue, and read only now.
        late = self.redis.lpop(self.name)
        self.connection.transport._deliver(json.loads(late), self.name)

    def lying(self) -> list[int]:
        return [_number(json.loads(raw)) for raw in reversed(self.redis.lrange(self.name, 0, -1))]

    def come_again(self) -> list[int]:
        return self.lying()

    def reconnect(self) -> None:
        channel = self.connection.default_channel
        channel.do_restore = False
        self.connection.release()
        self.connect()

    def stop(self) -> None:
        self.way_back.stop_consuming()

    def stop_queue(self) -> None:
        self.way_back.stop_queue(self.name)

    @contextmanager
    def away(self) -> Iterator[None]:
        channel: Any = self.tasks.channel
        whole = channel.conn_or_acquire

        def gone() -> None:
            raise _Gone("the broker is away")

        channel.conn_or_acquire = gone
        yield
        channel.conn_or_acquire = whole


def _number(raw: dict[str, Any]) -> int:
    return int(json.loads(b64decode(raw["body"])))


class TestRedis(WayBackFacts):
    @pytest.fixture
    def rig(self, valkey: EmbeddedValkey) -> Iterator[RedisRig]:
        made = RedisRig(valkey)
        yield made
        made.close()
