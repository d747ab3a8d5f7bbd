"""Where the cursors of a trial are kept: in memory, as the JSON that Redis would have."""

from __future__ import annotations

from typing import Any, cast

from redis import Redis

from sluicegate.schemas import settings
from sluicegate.schemas.names import DEFAULT_NAMESPACE
from sluicegate.workers.cursors import Cursors


class _Shelf:
    """As much of a Redis client as cursors need."""

    def __init__(self) -> None:
        self._kept: dict[str, bytes] = {}

    def getrange(self, key: str, start: int, end: int) -> bytes:
        return self._kept.get(key, b"")[start : end + 1]

    def set(self, key: str, value: bytes, **_: Any) -> None:
        self._kept[key] = value

    def delete(self, *keys: str) -> None:
        for key in keys:
            self._kept.pop(key, None)


def cursors_in_memory() -> Cursors:
    """Cursors of this process, with the limits that a worker has by default."""
    shelf = _Shelf()
    return Cursors(
        DEFAULT_NAMESPACE,
        lambda: cast("Redis", shelf),
        most_bytes=settings.CURSOR_MAX_BYTES.read({}),
        kept_s=settings.CURSOR_KEPT_S.read({}),
    )
