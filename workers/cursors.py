"""Where a task that stopped at a checkpoint keeps its cursor: one key per task id, beside the pause state.

Written before the message goes back, so that a crash in between repeats at most what came since the last
checkpoint. When the task ends the cursor is set aside under another key, for a run of the very message that comes again
because nobody acknowledged it: that one repeats no more than any other. A new task of the same id begins anew. What is
left behind goes away by itself.

A worker with keys seals what it stores (`workers.cursor_seals`), under a Redis key of its own: workers of an earlier
version, and those that have no keys yet, read and write the plain one. What cannot be believed or read is said in the
log, and the task begins anew: it may repeat what is done, and skips nothing.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any

from redis import Redis
from redis.exceptions import NoPermissionError, ResponseError

from sluicegate.schemas.errors import InvalidInput
from sluicegate.schemas.names import cursor_key, sealed_cursor_key
from sluicegate.schemas.settings import CursorKeys
from sluicegate.workers.cursor_seals import MAX_HEAD_BYTES, UNTOLD, Origin, Unsealed, seal, split, unseal
from sluicegate.workers.log import logger

log = logger(__name__)

_ENDED = ":ended"
"""Behind the keys of a task that has ended."""


class Cursors:
    """The cursors of one namespace. Each process connects for itself; raises redis's errors."""

    def __init__(
        self,
        namespace: str,
        connect: Callable[[], Redis],
        *,
        most_bytes: int,
        kept_s: int,
        keys: CursorKeys | None = None,
    ) -> None:
        self._namespace = namespace
        self._connect = connect
        self._most_bytes = most_bytes
        self._kept_s = kept_s
        self._keys = keys
        self._pid = 0
        self._client: Any = None
        # What stands under which key, of the tasks of this process that have a cursor.
        self._known: dict[str, dict[str, bytes]] = {}

    @property
    def is_sealing(self) -> bool:
        """Are there keys?"""
        return self._keys is not None

    def store(self, task_id: str, cursor: Any, origin: Origin = UNTOLD) -> None:
        """Raises InvalidInput where `cursor` is no JSON or too large."""
        try:
            encoded = json.dumps(cursor, separators=(",", ":"), allow_nan=False).encode()
        except (TypeError, ValueError, RecursionError) as error:
            raise InvalidInput("cursor", f"cannot be kept as JSON: {error}") from None
        if len(encoded) > self._most_bytes:
            raise InvalidInput("cursor", f"has {len(encoded)} bytes, at most {self._most_bytes} are allowed")
        keys, plain, sealed = self._keys, self._plain_key(task_id), self._sealed_key(task_id)
        written = {} if keys and not keys.takes_unsigned else {plain: encoded}
        if keys:
            written[sealed] = seal(keys, self._namespace, task_id, origin, encoded)
        for key, value in written.items():
            self._redis.set(key, value, ex=self._kept_s)
        # What an earlier run left under the other key is older from now on.
        for key in {plain, sealed} - set(written):
            self._redis.delete(key)
        self._known[task_id] = written

    def load(self, task_id: str, origin: Origin = UNTOLD) -> Any:
        """The cursor of an earlier run; None where there is none, or none that can be believed.

        Of one that ended only where this is its very message once more (`origin.is_redelivered`).
        """
        found = self._look(task_id, origin, "")
        if found is None and origin.is_redelivered:
            found = self._look(task_id, origin, _ENDED)
        return None if found is None else found[0]

    def drop(self, task_id: str) -> None:
        """The task is over; costs nothing where it had no cursor."""
        if (known := self._known.pop(task_id, None)) is None:
            return
        for key, value in known.items():
            # Its message is acknowledged after this, or never.
            self._redis.set(key + _ENDED, value, ex=self._kept_s)
        self._redis.delete(self._plain_key(task_id), self._sealed_key(task_id))

    def let_go(self, task_id: str) -> None:
        """The task goes on elsewhere: its cursor stays."""
        self._known.pop(task_id, None)

    def _look(self, task_id: str, origin: Origin, suffix: str) -> tuple[Any] | None:
        """What is believed of what stands under its keys with `suffix`, and is JSON."""
        try:
            found = self._find(task_id, origin, suffix)
            value = None if found is None else (json.loads(found[1]),)
        except (ValueError, RecursionError):
            value, found = None, None
            self._refuse(task_id, "it is no JSON")
        except Unsealed as why:
            value, found = None, None
            self._refuse(task_id, str(why))
        if found is not None:
            self._known[task_id] = {found[0]: found[2]}
        return value

    def _find(self, task_id: str, origin: Origin, suffix: str) -> tuple[str, bytes, bytes] | None:
        """The key, the cursor, and all that stands under the key; None where there is none. Raises Unsealed."""
        plain_key, sealed_key = self._plain_key(task_id), self._sealed_key(task_id)
        is_strict = self._keys is not None and not self._keys.takes_unsigned
        if not is_strict and (plain := self._read(plain_key + suffix, self._most_bytes)):
            # Whoever has no keys writes this one alone, who has them both, who insists on them the other alone.
            return plain_key, plain, plain
        if sealed := self._read(sealed_key + suffix, MAX_HEAD_BYTES + 1 + self._most_bytes):
            return sealed_key, self._open(task_id, origin, sealed), sealed
        if is_strict and self._read(plain_key + suffix, self._most_bytes):
            raise Unsealed("it is not sealed")
        return None

    def _open(self, task_id: str, origin: Origin, sealed: bytes) -> bytes:
        cursor = (
            unseal(self._keys, self._namespace, task_id, origin, sealed)
            if self._keys is not None
            # Who has no keys believes all that stands there.
            else split(sealed)[1]
        )
        if len(cursor) > self._most_bytes:
            raise Unsealed(f"it has more than {self._most_bytes} bytes")
        return cursor

    def _read(self, key: str, most: int) -> bytes:
        """What stands there, empty where nothing does. Raises Unsealed for what is no string, or more than `most`."""
        try:
            raw = self._fetch(key, most)
        except ResponseError as error:
            if not str(error).startswith("WRONGTYPE"):
                raise
            raise Unsealed("it is of another type") from None
        if len(raw) > most:
            raise Unsealed(f"it has more than {most} bytes")
        return raw

    def _fetch(self, key: str, most: int) -> bytes:
        try:
            return bytes(self._redis.getrange(key, 0, most))
        except NoPermissionError:
            # The rules of an earlier version.
            return bytes(self._redis.get(key) or b"")

    def _refuse(self, task_id: str, why: str) -> None:
        log.error("sluicegate: the cursor of %s is not gone on from (%s): the task begins anew", task_id, why)
        # When the task ends, what stands there goes, and is not set aside.
        self._known[task_id] = {}

    def _plain_key(self, task_id: str) -> str:
        return cursor_key(self._namespace, task_id)

    def _sealed_key(self, task_id: str) -> str:
        return sealed_cursor_key(self._namespace, task_id)

    @property
    def _redis(self) -> Any:
        if self._pid != os.getpid():
            # A forked child may not use its parent's connection.
            self._pid, self._client = os.getpid(), self._connect()
            self._known = {}
        return self._client
