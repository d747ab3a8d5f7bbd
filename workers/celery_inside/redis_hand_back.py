"""The way back to Redis."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from dataclasses import replace
from queue import Empty
from typing import Any

from kombu.utils.json import dumps, loads

from sluicegate.schemas.adapters import aside
from sluicegate.workers.celery_inside.loops import do_nothing
from sluicegate.workers.celery_inside.marks import ARRIVAL
from sluicegate.workers.celery_inside.redis_broadcasts import RedisBroadcasts
from sluicegate.workers.celery_inside.redis_debts import (
    HAND_BACK,
    KEEP,
    PUT_IN_PLACE,
    SET_ASIDE,
    STORE,
    STORED_FOR_S,
    Arrival,
    HandedBack,
    Late,
    Owed,
    stored_key,
)
from sluicegate.workers.celery_inside.redis_redelivery import RedeliveryWatch
from sluicegate.workers.celery_inside.requests import tell_rejected

_CHUNK = 500
_LOOK_FOR_OURS = 2000


class RedisWayBack:
    """To the head of the list that each message came from, in their order, exactly once."""

    def __init__(self) -> None:
        self._consumer: Any = None
        self._owed: list[Owed] = []
        self._aside: list[Owed] = []
        self._late: list[Late] = []
        self._handed_back: dict[str, HandedBack] = {}
        self._serials = itertools.count()
        self._broadcasts = RedisBroadcasts(self._serials)
        self._credit: Any = None
        self._first_reply: dict[str, Callable[[dict[str, Any]], None]] = {}
        self._awaits_reply = False
        self._wake: Callable[[], None] = do_nothing
        self._redelivery: RedeliveryWatch | None = None

    @property
    def _channel(self) -> Any:
        return self._consumer.task_consumer.channel

    def attach(self, consumer: Any, wake: Callable[[], None]) -> None:
        """Remember of each message which queue it came from: kombu does not say."""
        self._consumer = consumer
        self._wake = wake
        # Of what came on an earlier connection kombu may have restored some when that was closed.
        self._doubt()
        self._handed_back.clear()
        self._first_reply.clear()
        channel = self._channel
        self._broadcasts.attach(consumer.task_consumer)
        basic_consume = channel.basic_consume
        serials, now = self._serials, time.monotonic

        def remember_queue(queue: str, no_ack: bool, callback: Callable[[Any], None], *args: Any, **kw: Any) -> Any:
            def arrived(message: Any) -> None:
                message.sluicegate_arrival = Arrival(queue, next(serials), now(), no_ack)
                callback(message)

            consumed = basic_consume(queue, no_ack, arrived, *args, **kw)
            if self._broadcasts.has(queue):
                self._broadcasts.stand_before(queue)
            elif self._handed_back:
                self._catch_first_reply(queue)
            return consumed

        channel.basic_consume = remember_queue

    def stop_consuming(self) -> None:
        """Cancel, and catch what an outstanding BRPOP may still deliver: kombu would put it at the tail."""
        tasks = self._consumer.task_consumer
        self._broadcasts.stop()
        if self._awaits_reply and not self._first_reply:
            # It has come, and perhaps others since: what went back before them is no longer where it was put.
            self._handed_back.clear()
        self._awaits_reply = False
        self._first_reply.clear()
        queues = [name for name in tasks._active_tags if not self._broadcasts.has(name)]
        for queue in queues:
            tag = tasks._active_tags[queue]
            del tasks._active_tags[queue]
            # kombu 5.5 keeps no such book.
            getattr(tasks, "_active_queue_no_ack", {}).pop(queue, None)
            tasks.channel.basic_cancel(tag)
        # Without credit kombu leaves the reply of that BRPOP unread, and the message in it is nowhere: not in the
        # queue, not in unacked. No new BRPOP is sent while no queue is active, so this lets in no other.
        qos = tasks.channel.qos
        credit = qos.__dict__.get("can_consume")
        if credit is not _always:
            self._credit = credit
            qos.can_consume = _always
        callbacks = tasks.channel.connection._callbacks
        for queue in queues:
            callbacks[queue] = self._late_callback(queue)

    def finish(self) -> None:
        """A BRPOP that is out would be served with the head of what goes back, and nobody would read it.

        It ends by itself within `brpop_timeout`, a second by default; kombu waits for it too, when it closes.
        """
        self.stop_consuming()
        self._broadcasts.tell_lost()
        if self._channel._in_poll:
            with suppress(Empty):
                self._channel._brpop_read()

    def stop_queue(self, queue: str) -> None:
        """A BRPOP that is out asks for it too: what it delivers is caught."""
        if self._broadcasts.has(queue):
            self._broadcasts.stop_queue(queue)
            return
        self._first_reply.pop(queue, None)
        self._consumer.task_consumer.cancel_by_queue(queue)
        self._channel.connection._callbacks[queue] = self._late_callback(queue)

    def listen_closed(self) -> None:
        """Broadcasts are kept by nobody else."""
        self._broadcasts.listen()

    def before_consuming(self) -> None:
        """Undo what `stop_consuming` put over the channel's credit; Celery may have put something there too."""
        if not self._channel._in_poll:
            # No reply is under way that may have left before these went back.
            self._handed_back.clear()
        self._give_credit_back()
        self._broadcasts.go_on()

    def _catch_first_reply(self, queue: str) -> None:
        """Where a pause was taken back at once, the reply of a BRPOP from before it may still be under way.

        What is in it left its queue before others of ours went back there, and belongs behind them: it is put there,
        and does not start in front of them. Which queue it is of is not known before it comes. Where that BRPOP
        brings nothing, the next reply is caught, and its message goes back to the head that it came from.
        """
        callbacks = self._channel.connection._callbacks
        self._first_reply[queue] = callbacks[queue]
        self._awaits_reply = True

        def arrived(raw: dict[str, Any]) -> None:
            callbacks.update(self._first_reply)
            self._first_reply.clear()
            self._late_callback(queue)(raw)
            # Before the next BRPOP is sent, which would bring what comes after it. Where it fails it stays owed.
            with suppress(Exception):
                self.hand_back()

        callbacks[queue] = arrived

    def _give_credit_back(self) -> None:
        qos = self._channel.qos
        if qos.__dict__.get("can_consume") is not _always:
            return
        if self._credit is None:
            del qos.can_consume
        else:
            qos.can_consume = self._credit

    def _late_callback(self, queue: str) -> Callable[[dict[str, Any]], None]:
        channel = self._channel

        def arrived_late(raw: dict[str, Any]) -> None:
            late = Late(queue, raw, next(self._serials))
            self._late.append(late)
            self._wake()
            # At once, as kombu does on arrival: until then nobody has it but this process, which may be killed. Where
            # that fails, `hand_back` tries again, and what it raises is told.
            with suppress(Exception), channel.conn_or_acquire() as client:
                self._store_late(channel, client, late)

        return arrived_late

    def count_owed(self) -> int:
        """Late ones included."""
        return len(self._owed) + len(self._aside) + len(self._late)

    def owe_yielded(self, request: Any) -> bool:
        """As `owe`; whether it was acknowledged makes no difference."""
        is_owed = self._take_over(request)
        if is_owed:
            tell_rejected(request)
        return is_owed

    can_set_aside = True

    def set_aside(self, request: Any) -> None:
        """To a list beside the one it came from; a broadcast is nobody else's, and is kept here."""
        if self._is_broadcast(request):
            self._broadcasts.keep(request, task=request.type)
            tell_rejected(request)
            return
        if not self.owe(request):
            return
        owed, headers = self._owed.pop(), request.message._raw.get("headers") or {}
        # Who sweeps reads the headers, and of an older protocol's message the name stands in the body alone.
        payload = owed.payload if headers.get("task") == request.type else aside.with_task(owed.payload, request.type)
        self._aside.append(replace(owed, task=request.type, payload=payload))

    def hand_back_aside(self, held: Collection[str]) -> bool:
        """One look, and one script for each list that there is something in."""
        was_given = self._broadcasts.give_released(held)
        channel = self._channel
        queues = [queue.name for queue in self._consumer.task_consumer.queues]
        names = dict.fromkeys(channel._q_for_pri(queue, pri) for queue in queues for pri in channel.priority_steps)
        with channel.conn_or_acquire() as client:
            return bool(aside.hand_back(client, [_prefix(channel) + name for name in names], held)) or was_given

    def keep(self, requests: Iterable[Any]) -> None:
        """By making them look as if they had just come; one that was restored meanwhile is left alone."""
        channel = self._channel
        tags = [r.message.delivery_tag for r in requests if not r.acknowledged and r.message.channel is channel]
        if tags:
            with channel.conn_or_acquire() as client:
                client.execute_command("EVAL", KEEP, 1, _unacked(channel)[1], time.time(), *tags)

    def look_at_redelivery(self) -> str | None:
        """By the lock under which any worker does it for all."""
        channel = self._channel
        key = _prefix(channel) + channel.unacked_mutex_key
        if self._redelivery is None:
            self._redelivery = RedeliveryWatch(key, channel.unacked_mutex_expire)
        with channel.conn_or_acquire() as client:
            holder = client.execute_command("GET", key)
        return self._redelivery.see(holder, time.monotonic())

    def count_in_hand(self) -> int:
        """Broadcasts: they have no list to go back to."""
        return self._broadcasts.count()

    def due_in_s(self) -> float | None:
        """Never: what is owed is handed back at once."""
        return None

    def owe(self, request: Any) -> bool:
        """True for a broadcast too, which is kept here; False where nobody knows what list it came from."""
        is_owed = self._take_over(request)
        if is_owed:
            tell_rejected(request)
        return is_owed

    def _is_broadcast(self, request: Any) -> bool:
        arrival: Arrival | None = getattr(request.message, ARRIVAL, None)
        return arrival is not None and self._broadcasts.has(arrival.queue)

    def _take_over(self, request: Any) -> bool:
        """Make a debt of its message.

        Where it was acknowledged, or came from a queue without acknowledgements, it does not stand in `unacked`, and
        must be put there before it can go back.
        """
        channel = self._channel
        message = request.message
        arrival: Arrival | None = getattr(message, ARRIVAL, None)
        if arrival is None:
            return False
        if self._is_broadcast(request):
            self._broadcasts.keep(request)
            return True
        entry = None
        if request.acknowledged or arrival.no_ack:
            info = message.delivery_info
            entry = dumps([message._raw, info.get("exchange"), info.get("routing_key")])
        priority = channel._get_message_priority(message._raw, reverse=False)
        self._owed.append(
            Owed(
                tag=message.delivery_tag,
                key=_prefix(channel) + channel._q_for_pri(arrival.queue, priority),
                serial=arrival.serial,
                arrived_at=arrival.at,
                payload=dumps(message._raw),
                is_sure=message.channel is channel,
                entry=entry,
            )
        )
        # From here on the message is not Celery's: neither acknowledged nor restored by it.
        if not arrival.no_ack:
            channel.qos._quick_ack(message.delivery_tag)
        request.acknowledged = True
        message._state = "REQUEUED"
        return True

    def hand_back(self) -> None:
        """Tags and lists in one script."""
        self._broadcasts.give_again()
        if self.count_owed():
            self._hand_back_over(self._channel)

    def hand_back_apart(self) -> None:
        """What came on the lost connection kombu may have restored when that was closed."""
        self._doubt()
        with self._consumer.app.connection_for_read() as connection:
            self._hand_back_over(connection.default_channel)

    def _doubt(self) -> None:
        self._owed = [replace(owed, is_sure=False) for owed in self._owed]
        self._aside = [replace(owed, is_sure=False) for owed in self._aside]

    def _hand_back_over(self, channel: Any) -> None:
        with channel.conn_or_acquire() as client:
            self._store_what_is_gone(channel, client)
            self._put_aside(channel, client)
            if self._owed:
                self._hand_back_owed(channel, client)
            while self._late:
                self._hand_back_late(channel, client, self._late[0])
                self._late.pop(0)
        if self._awaits_reply and not self._first_reply:
            self._awaits_reply = False
            self._handed_back.clear()

    def _store_what_is_gone(self, channel: Any, client: Any) -> None:
        for debts in (self._owed, self._aside):
            for number, owed in enumerate(debts):
                if owed.entry is not None:
                    self._store(channel, client, owed.tag, owed.entry, owed.debt)
                    # From here on a tag that is gone was handed back.
                    debts[number] = replace(owed, entry=None, is_sure=False)

    def _store(self, channel: Any, client: Any, tag: str, entry: str, debt: str) -> None:
        keys = (*_unacked(channel), stored_key(_prefix(channel), debt))
        client.execute_command("EVAL", STORE, len(keys), *keys, tag, entry, time.time(), STORED_FOR_S)

    def _put_aside(self, channel: Any, client: Any) -> None:
        self._aside.sort(key=lambda owed: owed.serial)
        while self._aside:
            owed = self._aside[0]
            # As below: if this fails, its reply may be all that was lost.
            self._aside[0] = replace(owed, is_sure=False)
            force = "1" if owed.is_sure else ""
            keys = (*_unacked(channel), aside.aside_key(owed.key))
            args = (owed.tag, owed.payload, force, aside.tally_key(owed.key), owed.task)
            client.execute_command("EVAL", SET_ASIDE, len(keys), *keys, *args)
            del self._aside[0]

    def _hand_back_owed(self, channel: Any, client: Any) -> None:
        unacked, index = _unacked(channel)
        self._owed.sort(key=lambda owed: owed.serial)
        # Where some went back before, these may not go in front of them: each is put in its place, oldest first.
        stragglers = [owed for owed in self._owed if owed.key in self._handed_back]
        self._owed = [owed for owed in self._owed if owed.key not in self._handed_back] + stragglers
        while len(self._owed) > len(stragglers):
            # Newest first, and not all in one script: an unlimited prefetch may have brought a million.
            end = len(self._owed) - len(stragglers)
            chunk = slice(max(0, end - _CHUNK), end)
            newest = self._owed[chunk][::-1]
            # What is stored is what was delivered; our copy serves where the broker lost its data meanwhile.
            stored = client.execute_command("HMGET", unacked, *(owed.tag for owed in newest))
            now = time.monotonic()
            args: list[str] = []
            payloads: list[str] = []
            for owed, entry in zip(newest, stored, strict=True):
                payload = dumps(loads(entry)[0]) if entry else owed.payload
                is_sure = owed.is_sure and now - owed.arrived_at < channel.visibility_timeout / 2
                args += [owed.tag, owed.key, payload, "1" if is_sure else ""]
                payloads.append(payload)
            # If this fails, its reply may be all that was lost: then a tag that is gone was handed back by it.
            self._owed[chunk] = [replace(owed, is_sure=False) for owed in reversed(newest)]
            client.execute_command("EVAL", HAND_BACK, 2, unacked, index, *args)
            del self._owed[chunk]
            for owed, payload in zip(newest, payloads, strict=True):
                self._handed_back.setdefault(owed.key, HandedBack()).add(owed.tag, owed.serial, payload)
        while self._owed:
            owed = self._owed[0]
            self._put_in_place(channel, client, owed.key, owed.tag, owed.serial, owed.payload)
            del self._owed[0]

    def _store_late(self, channel: Any, client: Any, late: Late) -> None:
        info = late.raw["properties"]["delivery_info"]
        entry = dumps([late.raw, info["exchange"], info["routing_key"]])
        self._store(channel, client, late.tag, entry, late.debt)
        late.is_stored = True

    def _hand_back_late(self, channel: Any, client: Any, late: Late) -> None:
        if not late.is_stored:
            # So that a second try can tell a first one.
            self._store_late(channel, client, late)
        priority = channel._get_message_priority(late.raw, reverse=False)
        key = _prefix(channel) + channel._q_for_pri(late.queue, priority)
        self._put_in_place(channel, client, key, late.tag, late.serial, dumps(late.raw))

    def _put_in_place(self, channel: Any, client: Any, key: str, tag: str, serial: int, payload: str) -> None:
        ours = self._handed_back.setdefault(key, HandedBack())
        # One of ours can only have been caught at the head, where nothing of ours is in front of it.
        is_ours = tag in ours.tags
        older = [] if is_ours else ours.older_than(serial)
        client.execute_command("EVAL", PUT_IN_PLACE, 3, *_unacked(channel), key, tag, payload, _LOOK_FOR_OURS, *older)
        if not is_ours:
            ours.add(tag, serial, payload)


def _prefix(channel: Any) -> str:
    """The prefixing client of kombu puts it on for some commands: it gets none of those, and this on every key."""
    return getattr(channel, "global_keyprefix", None) or ""


def _unacked(channel: Any) -> tuple[str, str]:
    """The keys of what was delivered and not acknowledged: the hash, and the index by time."""
    return _prefix(channel) + channel.unacked_key, _prefix(channel) + channel.unacked_index_key


def _always() -> bool:
    return True
