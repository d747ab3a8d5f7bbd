"""What lies in the broker, read straight from Redis: no kombu, so that it cannot share kombu's mistakes.

Celery on Redis keeps a queue as a list under the queue's name: new messages enter at the left, workers pop
at the right, so the right end is the head. A priority above 0 has a list of its own, named with a suffix.
What a worker fetched and has not acknowledged lies in the hash `unacked`, as [message, exchange, routing key].
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import redis

PRIORITY_SEPARATOR = "\x06\x16"
UNACKED = "unacked"


@dataclass(frozen=True, slots=True)
class Message:
    """One task message: the id that Celery gave it and the number that the sender gave it."""

    task_id: str
    seq: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """Everything that waits in the broker. `queued` is in the order in which it will be delivered."""

    queued: tuple[Message, ...] = ()
    unacked: tuple[Message, ...] = ()


def read(client: redis.Redis, queue: str, number_of: Callable[[Any], int] = int) -> Contents:
    """The contents of `queue`, all its priorities, and of `unacked`, as one moment shows them.

    `number_of` makes a task's number of its first argument.
    """
    names = [queue, *sorted(_priority_lists(client, queue), key=lambda name: int(name.rpartition("\x16")[2]))]
    with client.pipeline(transaction=True) as pipe:
        for name in names:
            pipe.lrange(name, 0, -1)
        pipe.hvals(UNACKED)
        *lists, unacked = pipe.execute()
    return Contents(
        queued=tuple(_decode(json.loads(raw), number_of) for raws in lists for raw in reversed(raws)),
        unacked=tuple(_decode(json.loads(raw)[0], number_of) for raw in unacked),
    )


def depth(client: redis.Redis, queue: str) -> int:
    """How many messages lie in `queue` itself; priorities are not looked at."""
    return int(client.execute_command("LLEN", queue))


def _priority_lists(client: redis.Redis, queue: str) -> list[str]:
    found = (key.decode() for key in client.scan_iter(match=f"{queue}{PRIORITY_SEPARATOR}*", _type="list"))
    return [name for name in found if name.rpartition("\x16")[2].isdigit()]


def _decode(message: dict[str, Any], number_of: Callable[[Any], int]) -> Message:
    body = message["body"]
    if message["properties"]["body_encoding"] == "base64":
        body = base64.b64decode(body)
    args, _kwargs, _embed = json.loads(body)
    return Message(task_id=message["headers"]["id"], seq=number_of(args[0]))
