"""Where a task that stopped at a checkpoint keeps its cursor: one key per task id, beside the pause state.

Written before the message goes back, so that a crash in between repeats at most what came since the last
checkpoint. When the task ends the cursor is set aside under another key, for a run of the very message that comes again
because nobody acknowledged it: that one repeats no more than any other. A new task of the same id begins anew. What is
left behind goes away by itself.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any

from redis import Redis

from sluicegate.schemas.errors import InvalidInput
from sluicegate.schemas.names import cursor_key


class Cursors:
    """The cursors of one namespace. Each process connects for itself; raises redis's errors."""

    def __init__(self, namespace: str, connect: Callable[[], Redis], *, most_bytes: int, kept_s: int) -> None:
        self._namespace = namespace
        self._connect = connect
        self._most_bytes = most_bytes
        self._kept_s = kept_s
        self._pid = 0
        self._client: Any = None
        self._known: dict[str, bytes] = {}

    def store(self, task_id: str, cursor: Any) -> None:
        """Raises InvalidInput where `cursor` is no JSON or too large."""
        try:
            encoded = json.dumps(cursor, separators=(",", ":"), allow_nan=False).encode()
        except (TypeError, ValueError, RecursionError) as error:
            raise InvalidInput("cursor", f"cannot be kept as JSON: {error}") from None
        if len(encoded) > self._most_bytes:
            raise InvalidInput("cursor", f"has {len(encoded)} bytes, at most {self._most_bytes} are allowed")
        self._redis.set(cursor_key(self._namespace, task_id), encoded, ex=self._kept_s)
        self._known[task_id] = encoded

    def load(self, task_id: str, *, is_redelivered: bool = False) -> Any:
        """The cursor of an earlier run, or None; `is_redelivered`: also that of one that ended."""
        key = cursor_key(self._namespace, task_id)
        raw = self._redis.get(key)
        if raw is None and is_redelivered:
            raw = self._redis.get(_ended(key))
        if raw is None:
            return None
        self._known[task_id] = raw
        return json.loads(raw)

    def drop(self, task_id: str) -> None:
        """The task is over; costs nothing where it had no cursor."""
        if (encoded := self._known.pop(task_id, None)) is not None:
            key = cursor_key(self._namespace, task_id)
            # Its message is acknowledged after this, or never.
            self._redis.set(_ended(key), encoded, ex=self._kept_s)
            self._redis.delete(key)

    def let_go(self, task_id: str) -> None:
        """The task goes on elsewhere: its cursor stays."""
        self._known.pop(task_id, None)

    @property
    def _redis(self) -> Any:
        if self._pid != os.getpid():
            # A forked child may not use its parent's connection.
            self._pid, self._client = os.getpid(), self._connect()
            self._known = {}
        return self._client


def _ended(key: str) -> str:
    return f"{key}:ended"
