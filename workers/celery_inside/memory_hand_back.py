"""The way back to kombu's queues in memory, on which tests run: no worker of a fleet stands on them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from queue import Queue
from time import monotonic
from typing import Any

from kombu.transport import memory

from sluicegate.workers.celery_inside.marks import ARRIVAL
from sluicegate.workers.celery_inside.redis_debts import Arrival
from sluicegate.workers.celery_inside.requests import tell_rejected


@dataclass(frozen=True, slots=True, eq=False)
class _Owed:
    """A message that must go back: as kombu keeps it, its queue, its task, and its place among those that came."""

    raw: dict[str, Any]
    queue: str
    task: str
    serial: int


class MemoryWayBack:
    """To the head of the queue that each message came from, in their order. Nothing is ever under way here.

    The queues are kombu's own, one set for the process: a channel that is closed has lost them.
    """

    def __init__(self) -> None:
        self._consumer: Any = None
        self._serials = itertools.count()
        self._owed: list[_Owed] = []
        self._aside: list[_Owed] = []
        self._handed_back: list[_Owed] = []

    def attach(self, consumer: Any, wake: Callable[[], None]) -> None:
        """Remember of each message which queue it came from: kombu does not say."""
        self._consumer = consumer
        channel = consumer.task_consumer.channel
        basic_consume, serials = channel.basic_consume, self._serials

        def remember_queue(queue: str, no_ack: bool, callback: Callable[[Any], None], *args: Any, **kw: Any) -> Any:
            def arrived(message: Any) -> None:
                message.sluicegate_arrival = Arrival(queue, next(serials), monotonic())
                callback(message)

            return basic_consume(queue, no_ack, arrived, *args, **kw)

        channel.basic_consume = remember_queue

    def before_consuming(self) -> None:
        """What went back comes again from here on, and is new then."""
        self._handed_back.clear()

    def listen_closed(self) -> None:
        """A queue keeps its messages whether it is consumed or not, those of a broadcast too."""

    def stop_consuming(self) -> None:
        """Cancel: a message is taken out of its queue and delivered in one step, on this thread."""
        self._consumer.task_consumer.cancel()

    def stop_queue(self, queue: str) -> None:
        """The same for one queue."""
        self._consumer.task_consumer.cancel_by_queue(queue)

    can_set_aside = True

    def set_aside(self, request: Any) -> None:
        """Here, until they are held no more or this worker stops."""
        if self.owe(request):
            self._aside.append(self._owed.pop())

    def hand_back_aside(self, held: Collection[str]) -> bool:
        """At once, to the head of their queues."""
        released = [owed for owed in self._aside if owed.task not in held]
        self._aside = [owed for owed in self._aside if owed.task in held]
        for owed in released:
            self._put_in_place(owed)
        return bool(released)

    def owe(self, request: Any) -> bool:
        """False for a message whose queue is not known."""
        is_owed = self._take_over(request)
        if is_owed:
            tell_rejected(request)
        return is_owed

    def owe_yielded(self, request: Any) -> bool:
        """Acknowledged or not, it is only kept here."""
        is_owed = self._take_over(request)
        if is_owed:
            tell_rejected(request)
        return is_owed

    def _take_over(self, request: Any) -> bool:
        message = request.message
        arrival: Arrival | None = getattr(message, ARRIVAL, None)
        if arrival is None:
            return False
        self._owed.append(_Owed(message._raw, arrival.queue, request.type, arrival.serial))
        message.channel.qos._quick_ack(message.delivery_tag)
        request.acknowledged = True
        message._state = "REQUEUED"
        return True

    def keep(self, requests: Iterable[Any]) -> None:
        """Nobody takes a message for lost here."""

    def finish(self) -> None:
        """No other worker would find what was set aside."""
        self._owed += self._aside
        self._aside = []

    def hand_back(self) -> None:
        """Each to its place: behind those that came before it, in front of all others."""
        while self._owed:
            self._put_in_place(self._owed[0])
            del self._owed[0]

    def hand_back_apart(self) -> None:
        """No connection is needed."""
        self.hand_back()

    def _put_in_place(self, owed: _Owed) -> None:
        queue = memory.Channel.queues.setdefault(owed.queue, Queue())
        older = {id(o.raw) for o in self._handed_back if o.queue == owed.queue and o.serial < owed.serial}
        with queue.mutex:
            places = (at for at, raw in enumerate(queue.queue) if id(raw) in older)
            queue.queue.insert(max(places, default=-1) + 1, owed.raw)
            queue.not_empty.notify()
        self._handed_back.append(owed)

    def count_owed(self) -> int:
        """Those that are set aside stay."""
        return len(self._owed)

    def look_at_redelivery(self) -> str | None:
        """What a worker has when it is lost is lost with it."""
        return None

    def count_in_hand(self) -> int:
        """What was set aside is nowhere else."""
        return len(self._aside)

    def due_in_s(self) -> float | None:
        """Never: what is owed is handed back at once."""
        return None
