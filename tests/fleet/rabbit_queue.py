"""What lies in a queue of RabbitMQ, read without kombu, so that it cannot share kombu's mistakes.

How much is ready and how much unacknowledged, the server itself is asked. A quorum queue can be looked into (`peek`);
a classic queue cannot, so all its messages are got and returned at once, which leaves each in its place. Of messages
that are unacknowledged only the number can be seen, not which they are.
"""

from __future__ import annotations

import base64
import json
import re
import threading
import time
from dataclasses import dataclass, field
from typing import Any

import amqp
from amqp import spec
from amqp.exceptions import NotFound

from sluicegate.control.embedded.ports import LOOPBACK
from tests.fleet.broker import Message
from tests.fleet.rabbit import Rabbit

LOOKS = 5
RETURNED_WITHIN_S = 1.0

_LOOKUP = 'case rabbit_amqqueue:lookup(rabbit_misc:r(<<"/">>,queue,<<"{name}">>)) of {{ok,Q}} -> {then}; _ -> [] end'
# Tuples: `erl_call` prints a list of small numbers as text.
_CLASSIC_COUNTS = "list_to_tuple(rabbit_amqqueue:info(Q, [messages_ready, messages_unacknowledged]))"
_QUORUM_COUNTS = (
    "{ok,{_,R},_} = ra:leader_query(amqqueue:get_pid(Q),"
    " fun(S) -> {rabbit_fifo:query_messages_ready(S), rabbit_fifo:query_messages_checked_out(S)} end), R"
)
# Each message as base64 of its id, a space, and the first 64 bytes of its body, which begins with the arguments. After
# the queue's own come those that wait for their time in the queues of Celery's delayed delivery.
_PEEK = (
    "F = fun G(T, N, Found) -> case rabbit_quorum_queue:peek(N, T) of {ok, M} ->"
    ' I = proplists:get_value(<<"header.id">>, M), B = proplists:get_value(<<"payload (max 64 bytes)">>, M,'
    ' proplists:get_value(<<"payload">>, M)),'
    ' G(T, N + 1, [binary_to_list(base64:encode(<<I/binary, " ", B/binary>>)) | Found]);'
    " _ -> lists:reverse(Found) end end,"
    ' F(Q, 1, []) ++ lists:append([F(D, 1, []) || D <- rabbit_amqqueue:list(<<"/">>),'
    ' {resource, _, queue, <<"celery_delayed_", _/binary>>} <- [amqqueue:get_name(D)]])'
)


@dataclass(slots=True)
class RabbitQueue:
    """The queue `name` of `rabbit`, of type `kind`: "classic" or "quorum"."""

    rabbit: Rabbit
    name: str
    kind: str
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def counts(self) -> tuple[int, int]:
        """How many messages are ready, and how many some client has and has not acknowledged."""
        # Not while `read` has them all.
        with self._lock:
            return self._counts()

    def _counts(self) -> tuple[int, int]:
        counts = _CLASSIC_COUNTS if self.kind == "classic" else _QUORUM_COUNTS
        numbers = re.findall(r"\d+", self._ask(counts))
        return (int(numbers[0]), int(numbers[1])) if numbers else (0, 0)

    def _ask(self, expression: str) -> str:
        return self.rabbit.ask(_LOOKUP.format(name=self.name, then=expression))

    def read(self) -> tuple[list[Message], int]:
        """The messages that are ready, next to be delivered first; and how many are unacknowledged."""
        with self._lock:
            for _ in range(LOOKS):
                before = self._counts()
                messages = self._get_and_return() if self.kind == "classic" else self._peek()
                after = self._counts_once_unacked(before[1])
                # More may have been sent meanwhile; where fewer were seen or fetched, a worker was at it.
                if after[1] == before[1] and len(messages) >= before[0]:
                    break
            return messages, after[1]

    def _counts_once_unacked(self, unacked: int) -> tuple[int, int]:
        """What was got here is ready again a moment after it was returned."""
        give_up = time.monotonic() + RETURNED_WITHIN_S
        while (counts := self._counts())[1] != unacked and time.monotonic() < give_up:
            time.sleep(0.005)
        return counts

    def _peek(self) -> list[Message]:
        return [_decode(base64.b64decode(found)) for found in re.findall(r'"([A-Za-z0-9+/=]+)"', self._ask(_PEEK))]

    def _get_and_return(self) -> list[Message]:
        messages: list[Message] = []
        with amqp.Connection(host=f"{LOOPBACK}:{self.rabbit.port}", userid="guest", password="guest") as connection:
            channel: Any = connection.channel()
            tag = None
            try:
                while (got := channel.basic_get(self.name)) is not None:
                    tag = got.delivery_tag
                    body = got.body if isinstance(got.body, bytes) else got.body.encode()
                    task_id = got.properties["application_headers"]["id"]
                    messages.append(_decode(f"{task_id} ".encode() + body))
            except NotFound:
                return []
            if tag is not None:
                channel.send_method(spec.Basic.Nack, "Lbb", (tag, True, True))
        return messages

    def delete(self) -> None:
        """Remove it, with everything in it."""
        with amqp.Connection(host=f"{LOOPBACK}:{self.rabbit.port}", userid="guest", password="guest") as connection:
            connection.channel().queue_delete(self.name)


def _decode(text: bytes) -> Message:
    task_id, _, body = text.partition(b" ")
    first = re.match(rb"\[\[(\d+)", body)
    seq = int(first[1]) if first else int(json.loads(body)[0][0])
    return Message(task_id=task_id.decode(), seq=seq)
