"""The consumer of one broker connection after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from celery import bootsteps
from redis.exceptions import ResponseError

from sluicegate.workers.celery_inside import waiting
from sluicegate.workers.celery_inside.batches import gathered
from sluicegate.workers.celery_inside.loops import do_nothing
from sluicegate.workers.celery_inside.unread import keep_unread
from sluicegate.workers.gate import Gate
from sluicegate.workers.ports import Wanted


class CeleryConsumer:
    """Stands before the task consumer's `consume`: Celery calls it at boot, on reconnect, and for an added queue."""

    def __init__(self) -> None:
        self._consumer: Any = None
        self._consume: Callable[[], None] = do_nothing
        self._keep_unread: Callable[[Any], None] = lambda consumer: None

    @property
    def _tasks(self) -> Any:
        return self._consumer.task_consumer

    def guard(self, gate: Gate[Any], hold: Callable[[Any], None]) -> None:
        """Celery makes a handler of messages for each connection, and looks these up then."""
        self._keep_unread = lambda consumer: keep_unread(consumer, gate, hold)

    def attach(self, consumer: Any, consume: Callable[[Callable[[], None]], None]) -> None:
        """Before its first `consume()`."""
        self._consumer = consumer
        self._keep_unread(consumer)
        celery_consume = self._tasks.consume
        self._consume = lambda: consume(celery_consume)

        def consume_if_open(no_ack: bool | None = None) -> None:
            consume(partial(celery_consume, no_ack))

        self._tasks.consume = consume_if_open

    def detach(self) -> None:
        """The next connection has a consumer of its own."""
        self._consumer, self._consume = None, do_nothing

    def consume(self) -> None:
        """As Celery does."""
        self._consume()

    def queues(self) -> dict[str, Any]:
        """kombu's, by name."""
        return {queue.name: queue for queue in self._tasks.queues}

    def add_queue(self, queue: Any) -> None:
        """The next `consume` asks for it."""
        self._tasks.add_queue(queue)

    def unstarted(self, is_wanted: Wanted) -> Iterator[Any]:
        """From the buckets, from the timer, and from what is gathered for a batch."""
        yield from waiting.rate_limited(self._consumer, is_wanted)
        yield from waiting.waiting_for_eta(self._consumer, is_wanted)
        yield from gathered(self._consumer.app, is_wanted)

    def is_usual(self, error: Exception) -> bool:
        """What kombu names for its transport, and what Redis says no by."""
        return isinstance(error, (*self._consumer.connection_errors, ResponseError))


def look_before_strategies(consumer: Any, look: Callable[[bool], None]) -> None:
    """Have `look` called before Celery builds what takes each task's messages.

    At each broker connection, and when it is told to load modules anew: a task that was registered late takes nothing
    before that. It is told whether the consumer starts; where it runs, what is raised is the answer to who told it.
    """
    build = consumer.update_strategies

    def update_strategies() -> None:
        look(consumer.task_consumer is None)
        build()

    consumer.update_strategies = update_strategies


def is_stopping(consumer: Any) -> bool:
    """Does the whole worker stop, and not only this broker connection?"""
    return bool(consumer.controller.blueprint.state != bootsteps.RUN)  # type: ignore[attr-defined]
