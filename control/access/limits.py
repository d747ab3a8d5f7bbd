"""Limits on what one client, and all together, may make us do. Pure but for the clock that is passed in."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic

MAX_CLIENTS = 10_000
"""More than this are not told apart for ever: the one that was quiet longest is forgotten."""


@dataclass(slots=True)
class _Bucket:
    left: float
    at: float


class RateLimit:
    """A token bucket for each client: `burst` at once, refilled at `per_minute`. Thread-safe."""

    def __init__(self, *, burst: int, per_minute: float, clock: Callable[[], float] = monotonic) -> None:
        self._burst = burst
        self._per_second = per_minute / 60
        self._clock = clock
        self._lock = threading.Lock()
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()

    def take(self, client: str) -> bool:
        """Takes one from the client's bucket; was there one?"""
        with self._lock:
            bucket = self._filled(client)
            if bucket.left < 1:
                return False
            bucket.left -= 1
            return True

    def _filled(self, client: str) -> _Bucket:
        now = self._clock()
        bucket = self._buckets.pop(client, None) or _Bucket(self._burst, now)
        bucket.left = min(self._burst, bucket.left + (now - bucket.at) * self._per_second)
        bucket.at = now
        self._buckets[client] = bucket
        if len(self._buckets) > MAX_CLIENTS:
            self._buckets.popitem(last=False)
        return bucket
