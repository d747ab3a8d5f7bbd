"""The fleet's app with what people add to theirs: a task with a strategy of its own, and consumer steps of their own.

What is added is chosen by FLEET_ADDED, words with commas between them. The steps write down each message that they
begin to handle, in the fleet's records.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any

from celery import Task, bootsteps, signals
from celery.concurrency import solo
from kombu import Consumer, Queue

import sluicegate
from tests.fleet.app import QUEUE, app
from tests.fleet.app import _writer as writer
from tests.fleet.records import Event, Record, microseconds

NODES: list[str] = []
ADDED = "FLEET_ADDED"
HANDLED_S = "FLEET_HANDLED_S"
"""How long a step takes for one message."""


@signals.celeryd_init.connect(weak=False)
def note_node(sender: str, **_: Any) -> None:
    NODES.append(sender)


class OwnStrategy(Task):  # type: ignore[type-arg]
    """Hands each message to the pool by itself, as celery-batches does with several."""

    name = "fleet.own_strategy"

    def Strategy(self, task: Any, app: Any, consumer: Any) -> Callable[..., None]:  # type: ignore[override]
        def handle(message: Any, body: Any, ack: Any, reject: Any, callbacks: Any, **_: Any) -> None:
            consumer.pool.apply_async(print, ("started",), callback=lambda _: ack(None, None))

        return handle

    def run(self) -> None:
        """Never called."""


class AsyncPool(solo.TaskPool):
    """As celery-aio-pool: of another kind than the pool that it inherits from."""


class Events(bootsteps.ConsumerStep):
    """Handles messages of a queue of its own, and asks nobody."""

    def get_consumers(self, channel: Any) -> list[Consumer]:
        self.forget_kept()
        queue = Queue(events_queue(), routing_key=events_queue())
        return [Consumer(channel, queues=[queue], callbacks=[self.handle], accept=["json"])]

    def forget_kept(self) -> None:
        """Of a connection that was lost."""

    def handle(self, body: Any, message: Any) -> None:
        write(Event.START, body["seq"])
        time.sleep(float(os.environ.get(HANDLED_S, "0")))
        write(Event.END, body["seq"])
        message.ack()


class AskingEvents(Events):
    """Asks the gate, as docs/consumer-steps.md shows."""

    asks_gate = True

    def __init__(self, c: Any, **options: Any) -> None:
        super().__init__(c, **options)
        self.timer = c.timer
        self.kept: list[tuple[Any, Any]] = []

    def handle(self, body: Any, message: Any) -> None:
        self.kept.append((body, message))
        if len(self.kept) == 1:
            self.handle_kept()

    def forget_kept(self) -> None:
        self.kept.clear()

    def handle_kept(self) -> None:
        while self.kept:
            with sluicegate.starting(queue=events_queue(), task="fleet.event") as may:
                if not may:
                    self.timer.call_after(0.1, self.handle_kept)
                    return
                super().handle(*self.kept.pop(0))


def events_queue() -> str:
    return os.environ[QUEUE] + "-events"


def write(event: Event, seq: int, task_id: str = "") -> None:
    at = microseconds(time.time())
    told = Record(event=event, at_us=at, task_id=task_id or f"event-{seq}", seq=seq, pid=os.getpid(), nodename=NODES[0])
    writer.write(told)


def add_batches() -> None:
    """A task of celery-batches, which writes down the messages that it is given, one by one."""
    base = import_module("celery_batches").Batches

    @app.task(base=base, name="fleet.batch", flush_every=5, flush_interval=1)
    def batch(requests: list[Any]) -> None:
        for request in requests:
            write(Event.START, request.args[0], request.id)
        time.sleep(float(os.environ.get(HANDLED_S, "0")))
        for request in requests:
            write(Event.END, request.args[0], request.id)


class RegistersLate(bootsteps.StartStopStep):
    """Code of an app that imports a module with tasks only when a worker has been made."""

    def __init__(self, c: Any, **options: Any) -> None:
        super().__init__(c, **options)
        c.app.register_task(OwnStrategy())


_ADDITIONS: dict[str, Callable[[], object]] = {
    "strategy": lambda: app.register_task(OwnStrategy()),
    "late_strategy": partial(app.steps["consumer"].add, RegistersLate),
    "events": partial(app.steps["consumer"].add, Events),
    "asking_events": partial(app.steps["consumer"].add, AskingEvents),
    "batches": add_batches,
}
for word in filter(None, os.environ.get(ADDED, "").split(",")):
    _ADDITIONS[word]()
