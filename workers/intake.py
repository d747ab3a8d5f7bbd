"""What a worker consumes, kept in line with its gate: nothing while it is closed, and no queue that is held."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from sluicegate.workers.gate import Gate, Standing
from sluicegate.workers.ports import Books, TaskConsumer, Wanted, WayBack


class Intake:
    """The task consumer of whichever broker connection is open. On the consumer's own thread."""

    def __init__(self, gate: Gate[Any], *, consumer: TaskConsumer, way_back: WayBack, books: Books) -> None:
        self._gate = gate
        self._consumer = consumer
        self._way_back = way_back
        self._books = books
        self.is_attached = False
        """Is there a broker connection?"""
        self._is_consuming = False
        self._stopped_queues: dict[str, Any] = {}

    def attach(self, consumer: Any) -> None:
        """A new connection's consumer, before its first `consume()`."""
        self._consumer.attach(consumer, self._consume)
        self.is_attached = True
        self._is_consuming = False
        self._stopped_queues.clear()

    def detach(self) -> None:
        """The broker connection goes: what was consumed on it is not asked any more."""
        self._consumer.detach()
        self.is_attached = False

    def _consume(self, celery_consume: Callable[[], None]) -> None:
        """In the place of the task consumer's `consume`."""
        standing = self._gate.standing
        if not standing.is_open:
            self._way_back.listen_closed()
            return
        self.stop_held_queues(standing)
        self._way_back.before_consuming()
        celery_consume()
        self._is_consuming = True

    def start(self, standing: Standing) -> None:
        """Consume what may be consumed; does nothing where that is so."""
        has_more = self._consume_again(standing)
        if not self._is_consuming or has_more:
            self._consumer.consume()

    def stop(self) -> None:
        """Consume nothing."""
        self._way_back.stop_consuming()
        self._is_consuming = False

    def stop_held_queues(self, standing: Standing) -> None:
        """Stop consuming the queues that are held, and those alone."""
        for name, queue in self._consumer.queues().items():
            if self._is_held(standing, name):
                self._stopped_queues[name] = queue
                self._way_back.stop_queue(name)

    def _consume_again(self, standing: Standing) -> bool:
        """Have the stopped queues that are held no more consumed at the next `consume`; was there one?"""
        free = [name for name in self._stopped_queues if not self._is_held(standing, name)]
        for name in free:
            queue = self._stopped_queues.pop(name)
            # Celery's own cancel_consumer may have come meanwhile.
            if name in self._books.queues():
                self._consumer.add_queue(queue)
        return bool(free)

    def _is_held(self, standing: Standing, name: str) -> bool:
        return standing.is_held(replace(self._gate.subject, queue=name))

    def unstarted(self, is_wanted: Wanted) -> Iterable[Any]:
        """Take those wanted of the requests that wait here, before the pool."""
        return self._consumer.unstarted(is_wanted)

    def is_usual(self, error: Exception) -> bool:
        """Is it one that a broker brings which is away or refuses, and no defect?"""
        return self._consumer.is_usual(error)
