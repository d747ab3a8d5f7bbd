"""Redis: broadcasts (`kombu.common.Broadcast`), which stand in no list and can go back to none."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from sluicegate.workers.celery_inside.marks import ARRIVAL
from sluicegate.workers.log import logger

log = logger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class _Kept:
    """A broadcast that may not start yet: as kombu has it, and its place among what came. `task`: held by its name."""

    raw: dict[str, Any]
    queue: str
    serial: int
    task: str


class RedisBroadcasts:
    """Heard from the first moment of a connection to its last, whatever is held; what may not start is kept here.

    Redis keeps a broadcast for nobody who does not listen while it is sent. And a queue of broadcasts that was once
    cancelled stays deaf: kombu subscribes again on no channel that listens already. So they are never cancelled. What
    comes while the gate is closed, or while its queue or task is held, is given to Celery when it may start, in its
    order, as if it had come then. It is lost with this worker, as every broadcast is that a worker has in hand.
    """

    def __init__(self, serials: Iterator[int]) -> None:
        self._serials = serials
        self._tasks: Any = None
        self._kept: list[_Kept] = []
        self._stopped: set[str] = set()
        self._is_open = False
        self._give: dict[str, Callable[[dict[str, Any]], None]] = {}
        self._was_told = False

    def attach(self, tasks: Any) -> None:
        """A new connection's task consumer. What was kept stays."""
        self._tasks = tasks
        self._is_open = False
        self._stopped.clear()
        self._give.clear()

    def has(self, queue: str) -> bool:
        """Is this a queue of broadcasts?"""
        return queue in self._tasks.channel._fanout_queues

    def stand_before(self, queue: str) -> None:
        """It is consumed from now on: what comes is given to Celery or kept."""
        callbacks = self._tasks.channel.connection._callbacks
        self._give[queue] = give = callbacks[queue]

        def heard(raw: dict[str, Any]) -> None:
            if self._is_open and queue not in self._stopped:
                give(raw)
            else:
                self._keep(_Kept(raw, queue, next(self._serials), ""))

        callbacks[queue] = heard

    def listen(self) -> None:
        """To all that nobody listens to yet."""
        for queue in self._tasks.queues:
            if self.has(queue.name) and queue.name not in self._tasks._active_tags:
                self._tasks._basic_consume(queue)

    def go_on(self) -> None:
        """The gate is open: what is consumed may start, and so may what was kept of it."""
        self._is_open = True
        self._stopped -= {queue.name for queue in self._tasks.queues}
        self.listen()
        self.give_again()
        self._was_told = bool(self._kept)

    def stop(self) -> None:
        """The gate is closed."""
        self._is_open = False

    def stop_queue(self, queue: str) -> None:
        """Keep what comes from it; and take it out of what the next `consume()` asks for."""
        self.listen()
        self._stopped.add(queue)
        self._tasks._queues.pop(queue, None)

    def keep(self, request: Any, *, task: str = "") -> None:
        """Keep one that Celery had in hand already. `task`: it is held by this name, and not with its queue."""
        message = request.message
        if not request.acknowledged:
            # All workers that have it share its tag. Where this fails it is given out once more one day, to nobody.
            with suppress(Exception):
                message.ack()
            request.acknowledged = True
        arrival = getattr(message, ARRIVAL)
        self._keep(_Kept(message._raw, arrival.queue, arrival.serial, task))

    def _keep(self, kept: _Kept) -> None:
        self._kept.append(kept)
        if not self._was_told:
            self._was_told = True
            log.warning(
                "sluicegate: a broadcast came on %s while it is held: what comes so is kept by this worker, and starts "
                "when it may; a worker that ends before loses it, since Redis keeps none",
                kept.queue,
            )

    def give_again(self) -> None:
        """What was kept by no task's name, and may start."""
        if self._is_open and self._kept:
            self._give_those(lambda kept: not kept.task)

    def give_released(self, held: Collection[str]) -> bool:
        """What was kept by the name of a task that is not among those `held`; was there any?"""
        return self._give_those(lambda kept: bool(kept.task) and kept.task not in held)

    def _give_those(self, is_wanted: Callable[[_Kept], bool]) -> bool:
        free = [kept for kept in self._kept if kept.queue in self._give and kept.queue not in self._stopped]
        wanted = sorted((kept for kept in free if is_wanted(kept)), key=lambda kept: kept.serial)
        for kept in wanted:
            self._give[kept.queue](kept.raw)
            # Only now: where the broker is away, this one and the rest are still here.
            self._kept.remove(kept)
        return bool(wanted)

    def count(self) -> int:
        """How many are kept; from any thread."""
        return len(self._kept)

    def tell_lost(self) -> None:
        """The worker stops."""
        if self._kept:
            log.warning("sluicegate: %d broadcasts that were held are lost with this worker", len(self._kept))
