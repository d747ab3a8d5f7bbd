"""The way back to RabbitMQ."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import amqp
from amqp import spec

from sluicegate.workers.celery_inside.loops import do_nothing
from sluicegate.workers.celery_inside.marks import ARRIVAL
from sluicegate.workers.celery_inside.redis_debts import (
    Arrival,
)
from sluicegate.workers.celery_inside.requests import queue_of_message, tell_rejected
from sluicegate.workers.log import logger

log = logger(__name__)
IN_HAND_S = 300.0
"""How long by default. RabbitMQ closes a channel that has had a message for longer than its `consumer_timeout`, which
is 30 minutes by default."""

_NEVER_CANCELLED = "sluicegate.no-ack"
"""The consumer tag by which kombu knows what is not to be acknowledged. It forgets the real one with its consumer, and
would then acknowledge what came before: RabbitMQ closes a channel over that."""


@dataclass(slots=True, eq=False)
class _Delivery:
    """A message of an AMQP queue that came and has not started. `again` gives it to Celery as if it came now."""

    message: Any
    queue: str
    again: Callable[[], None]
    task: str = ""
    since: float = field(default_factory=time.monotonic)

    @property
    def tag(self) -> int:
        """Its delivery tag: one channel's come in rising order."""
        return int(self.message.delivery_tag)

    @property
    def is_ours_alone(self) -> bool:
        """Did RabbitMQ forget it as it gave it out (a queue without acknowledgements)?"""
        return _is_ours_alone(self.message)

    @property
    def count(self) -> int:
        """How often a quorum queue has got it back."""
        return int((self.message.headers or {}).get("x-delivery-count") or 0)


class AmqpWayBack:
    """To its place in the queue where RabbitMQ has one for it; where it has none, in hand for as long as that may be.

    A classic queue puts a message that is handed back where it was, in whatever order and from however many workers
    they come. A quorum queue counts each return, and drops what came back more often than its delivery limit (20 since
    RabbitMQ 4.0); without a limit (the default before) what comes back goes to the tail. So what came from a quorum
    queue is not handed back: the consumer stays, and what it delivers, at most the prefetch, is kept here
    unacknowledged and given to Celery when the gate opens. If the worker dies, RabbitMQ puts it back to the head in its
    order. Only when it has been kept for `in_hand_s` is it handed back, the oldest first, and the consumer cancelled.
    The same holds for a queue that would be deleted with its last consumer (auto-delete: Celery's broadcasts).

    From a queue without acknowledgements RabbitMQ gives out everything at once, and takes nothing back: what came from
    there is sent again, to the tail, as is what yielded after its acknowledgement.

    docs/decisions/0022-rabbitmq.md has the experiments.
    """

    def __init__(self, in_hand_s: float = IN_HAND_S) -> None:
        self._in_hand_s = in_hand_s
        self._consumer: Any = None
        self._wake: Callable[[], None] = do_nothing
        self._is_open = False
        self._stopped: set[str] = set()
        self._owed: list[_Delivery] = []
        self._to_send: list[Any] = []
        self._in_hand: list[_Delivery] = []
        self._queues: dict[str, str] = {}
        self._no_ack_queues: set[str] = set()
        self._cancelling: set[str] = set()
        self._was_warned = False

    @property
    def _tasks(self) -> Any:
        return self._consumer.task_consumer

    @property
    def _channel(self) -> Any:
        return self._tasks.channel

    def attach(self, consumer: Any, wake: Callable[[], None]) -> None:
        """Remember which queue each message came from."""
        self._consumer = consumer
        self._wake = wake
        self._is_open = False
        self._forget_what_was_returned()
        self._stopped.clear()
        self._queues.clear()
        self._cancelling.clear()
        channel = self._channel
        basic_consume, to_python = channel.basic_consume, channel.message_to_python

        def remember_queue(queue: str, *args: Any, consumer_tag: str, **kw: Any) -> Any:
            self._queues[consumer_tag] = queue
            if kw.get("no_ack"):
                self._no_ack_queues.add(queue)
            return basic_consume(queue, *args, consumer_tag=consumer_tag, **kw)

        def arrived(raw: Any) -> Any:
            message = to_python(raw)
            if (queue := self._queues.get(raw.delivery_info.get("consumer_tag"))) is not None:
                no_ack = queue in self._no_ack_queues
                message.sluicegate_arrival = Arrival(queue, message.delivery_tag, time.monotonic(), no_ack)
                if no_ack:
                    message.delivery_info = {**message.delivery_info, "consumer_tag": _NEVER_CANCELLED}
            return message

        channel.no_ack_consumers.add(_NEVER_CANCELLED)
        channel.basic_consume, channel.message_to_python = remember_queue, arrived
        self._warn_once()

    def _forget_what_was_returned(self) -> None:
        """What was unacknowledged on the connection before is owed no more: RabbitMQ itself has returned it."""
        self._to_send += [d.message for d in (*self._owed, *self._in_hand) if d.is_ours_alone]
        self._owed.clear()
        self._in_hand.clear()

    def _warn_once(self) -> None:
        if self._was_warned or self._version() >= (4, 0):
            return
        self._was_warned = True
        names = [name for name in self._consumer.app.amqp.queues.consume_from if self._is_quorum(name)]
        if unlimited := [name for name in names if self._limit_of(name) is None]:
            log.warning(
                "sluicegate: queue %s declares no x-delivery-limit: RabbitMQ before 4.0 puts what is returned after "
                "%g s of a pause to the tail, unless a policy sets a delivery-limit",
                ", ".join(unlimited),
                self._in_hand_s,
            )

    def _version(self) -> tuple[int, ...]:
        text = str(self._channel.connection.server_properties.get("version", ""))
        return tuple(int(part) for part in text.split(".")[:2] if part.isdigit())

    def _declared(self, queue: str) -> Any:
        return self._consumer.app.amqp.queues.get(queue)

    def _is_quorum(self, queue: str) -> bool:
        arguments = getattr(self._declared(queue), "queue_arguments", None) or {}
        return bool(arguments.get("x-queue-type") == "quorum")

    def _is_deleted_with_its_consumer(self, queue: str) -> bool:
        return bool(getattr(self._declared(queue), "auto_delete", False))

    def _stays(self, queue: str) -> bool:
        is_counted = self._is_quorum(queue) and queue not in self._no_ack_queues
        return is_counted or self._is_deleted_with_its_consumer(queue)

    def _limit_of(self, queue: str) -> int | None:
        """The delivery limit as far as it can be known: a policy's is not shown to clients."""
        arguments = getattr(self._declared(queue), "queue_arguments", None) or {}
        limit = arguments.get("x-delivery-limit", 20 if self._version() >= (4, 0) else None)
        return None if limit is None or limit < 0 else int(limit)

    def listen_closed(self) -> None:
        """A queue that was declared keeps its messages, those of a broadcast too."""

    def stop_consuming(self) -> None:
        """Catch what is still under way; cancel where what is caught can be handed back.

        The broker's answer to the cancel is not waited for here: a broker that hangs must not hang the worker. Until it
        has come, `count_owed` says that something may be under way.
        """
        self._is_open = False
        for queue in list(self._tasks._active_tags):
            self._catch(queue)

    def stop_queue(self, queue: str) -> None:
        """And take it out of what the next `consume()` asks for."""
        self._stopped.add(queue)
        if queue in self._tasks._active_tags:
            self._catch(queue)
        self._tasks._queues.pop(queue, None)

    def _catch(self, queue: str) -> None:
        tag = self._tasks._active_tags[queue]
        if tag in self._channel.callbacks:
            self._channel.callbacks[tag] = self._caught
        if not self._stays(queue):
            self._cancel(queue)

    def _cancel(self, queue: str) -> None:
        channel, tasks = self._channel, self._tasks
        tag = tasks._active_tags[queue]
        channel.send_method(spec.Basic.Cancel, "sb", (tag, False))
        del tasks._active_tags[queue]
        # kombu 5.5 keeps no such book.
        getattr(tasks, "_active_queue_no_ack", {}).pop(queue, None)
        channel.no_ack_consumers.discard(tag)
        self._cancelling.add(tag)

    def _caught(self, raw: Any) -> None:
        """In the place of the consumer's callback from the first pause on."""
        receive = self._tasks._receive_callback
        queue = self._queues.get(raw.delivery_info.get("consumer_tag"), "")
        if self._is_open and queue not in self._stopped:
            receive(raw)
            return
        self._take(self._channel.message_to_python(raw), lambda: receive(raw))
        self._wake()

    def _take(self, message: Any, again: Callable[[], None]) -> None:
        delivery = _Delivery(message, queue_of_message(message) or "", again)
        # The header tells of a quorum queue that the app does not know to be one.
        stays = self._stays(delivery.queue) or (delivery.count and not delivery.is_ours_alone)
        (self._in_hand if stays else self._owed).append(delivery)

    def before_consuming(self) -> None:
        """Give Celery what is in hand, in the order in which it came, before anything newer can come."""
        self._is_open = True
        self._stopped = {queue for queue in self._stopped if queue not in self._tasks._queues}
        self._give_again(lambda delivery: not delivery.task and delivery.queue not in self._stopped)

    def _give_again(self, is_wanted: Callable[[_Delivery], bool]) -> bool:
        wanted = sorted((delivery for delivery in self._in_hand if is_wanted(delivery)), key=lambda d: d.tag)
        for delivery in wanted:
            self._in_hand.remove(delivery)
            delivery.again()
        return bool(wanted)

    can_set_aside = True

    def set_aside(self, request: Any) -> None:
        """In hand, unacknowledged: AMQP has no place beside a queue. They take up the prefetch meanwhile."""
        message, tasks = request.message, self._tasks
        request.acknowledged = True
        if message.channel is tasks.channel:
            again = partial(tasks.on_message, message)
            self._in_hand.append(_Delivery(message, queue_of_message(message) or "", again, task=request.type))
        elif _is_ours_alone(message):
            self._to_send.append(message)
        tell_rejected(request)

    def hand_back_aside(self, held: Collection[str]) -> bool:
        """To Celery itself; what a worker that is gone had set aside, RabbitMQ has returned."""
        return self._give_again(lambda delivery: bool(delivery.task) and delivery.task not in held)

    def owe(self, request: Any) -> bool:
        """Always true: what cannot go back is kept here, and what came on a lost connection went back by itself."""
        message, tasks = request.message, self._tasks
        request.acknowledged = True
        if message.channel is tasks.channel:
            self._take(message, partial(tasks.on_message, message))
        elif _is_ours_alone(message):
            self._to_send.append(message)
        tell_rejected(request)
        return True

    def owe_yielded(self, request: Any) -> bool:
        """Where it was acknowledged, RabbitMQ has it no more: it is sent again, and goes to the tail."""
        if not request.acknowledged:
            return self.owe(request)
        self._to_send.append(request.message)
        tell_rejected(request)
        return True

    def keep(self, requests: Iterable[Any]) -> None:
        """RabbitMQ asks for no sign of life of a message; its `consumer_timeout` cannot be put off either."""

    def finish(self) -> None:
        """What comes now is not acknowledged: RabbitMQ returns it when the connection closes, and what is in hand too.

        But for what it has forgotten already.
        """
        self._to_send += [delivery.message for delivery in self._in_hand if delivery.is_ours_alone]
        self._in_hand = [delivery for delivery in self._in_hand if not delivery.is_ours_alone]

    def count_owed(self) -> int:
        """Consumers whose cancel the broker has not confirmed count too: something may be under way from them."""
        return len(self._owed) + len(self._to_send) + self._count_cancelling()

    def _count_cancelling(self) -> int:
        self._cancelling = {tag for tag in self._cancelling if tag in self._channel.callbacks}
        return len(self._cancelling)

    def look_at_redelivery(self) -> str | None:
        """The server gives out again what a closed connection had in hand, and needs no worker for it."""
        return None

    def count_in_hand(self) -> int:
        """From quorum queues and auto-delete queues, and what was set aside; from any thread."""
        return len(self._in_hand)

    def due_in_s(self) -> float | None:
        """When what is in hand has been kept for long enough."""
        if not self._in_hand:
            return None
        return max(0.0, min(delivery.since for delivery in self._in_hand) + self._in_hand_s - time.monotonic())

    def hand_back(self) -> None:
        """The oldest first: that is the order in which a quorum queue will give it out again."""
        if self.due_in_s() == 0:
            self._owe_what_is_in_hand()
        self._owed.sort(key=lambda delivery: delivery.tag)
        while self._owed:
            if self._owed[0].is_ours_alone:
                self._to_send.append(self._owed[0].message)
            else:
                self._hand_back_one(self._owed[0].message)
            del self._owed[0]
        if self._to_send:
            self._send_again(self._channel.connection)

    def hand_back_apart(self) -> None:
        """What was unacknowledged on the lost connection, RabbitMQ itself returned."""
        self._forget_what_was_returned()
        self._cancelling.clear()
        if self._to_send:
            with self._consumer.app.connection_for_read() as connection:
                self._send_again(connection.default_channel.connection)

    def _send_again(self, connection: Any) -> None:
        """The same messages, straight to the queues they came from, on a channel of its own that waits for answers."""
        channel = connection.channel()
        try:
            while self._to_send:
                _publish(channel, self._to_send[0])
                del self._to_send[0]
        finally:
            channel.close()

    def _hand_back_one(self, message: Any) -> None:
        """By basic.nack, which py-amqp does not offer: since RabbitMQ 4.3 it does not count, as basic.reject does."""
        channel = self._channel
        if message.acknowledged:
            return
        if channel.connection.server_capabilities.get("basic.nack"):
            channel.send_method(spec.Basic.Nack, "Lbb", (message.delivery_tag, False, True))
        else:
            channel.basic_reject(message.delivery_tag, requeue=True)
        message._state = "REQUEUED"

    def _owe_what_is_in_hand(self) -> None:
        """Cancel first, and hand back when the broker has confirmed that: it would be delivered here again at once.

        What came from an auto-delete queue is, and on purpose: to be in hand anew.
        """
        active = self._tasks._active_tags
        for queue in {delivery.queue for delivery in self._in_hand if self._is_quorum(delivery.queue)} & set(active):
            if not self._is_open or queue in self._stopped:
                self._cancel(queue)
        if self._count_cancelling():
            return
        now = time.monotonic()
        kept = [delivery for delivery in self._in_hand if not self._may_go_back(delivery)]
        self._owed += [delivery for delivery in self._in_hand if delivery not in kept]
        for delivery in kept:
            delivery.since = now
        self._in_hand = kept

    def _may_go_back(self, delivery: _Delivery) -> bool:
        if self._is_quorum(delivery.queue) and delivery.queue in self._tasks._active_tags:
            return False
        limit = self._limit_of(delivery.queue) if self._version() < (4, 3) else None
        if limit is None or delivery.count < limit:
            return True
        log.warning("sluicegate: %s is at its delivery limit and is kept: a return would drop it", delivery.message)
        return False


def _is_ours_alone(message: Any) -> bool:
    arrival: Arrival | None = getattr(message, ARRIVAL, None)
    return arrival is not None and arrival.no_ack


def _publish(channel: Any, message: Any) -> None:
    properties = dict(message.properties)
    headers = dict(message.headers or {})
    # kombu has unpacked the body; the count was the broker's.
    for name in ("compression", "x-delivery-count"):
        headers.pop(name, None)
    properties["application_headers"] = headers
    again = amqp.Message(message.body, **properties)
    channel.basic_publish_confirm(again, exchange="", routing_key=queue_of_message(message) or "")
