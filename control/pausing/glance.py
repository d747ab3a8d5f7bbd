"""A look at the fleet that nobody waits for longer than it is worth: an order is answered, whatever there is to see."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from time import monotonic
from typing import Generic, TypeVar

log = logging.getLogger(__name__)

T = TypeVar("T")

BUDGET_S = 1.0
"""How long an answer waits for its figures. A look at a thousand workers takes a tenth of it."""
RESTS = 10.0
"""How many times as long as a look that took longer the next one is put off: looking may not slow the orders down."""
MOST_AT_ONCE = 4


class Glance(Generic[T]):
    """Looks in threads of its own. A look that comes too late goes on, and no other begins until it has been a while.

    Thread-safe.
    """

    def __init__(self, *, budget_s: float = BUDGET_S) -> None:
        self._budget_s = budget_s
        self._free = threading.BoundedSemaphore(MOST_AT_ONCE)
        self._late = 0
        self._rests_until = 0.0
        self._under_way: set[threading.Thread] = set()
        self._lock = threading.Lock()

    def at(self, look: Callable[[], T]) -> T | None:
        """What `look` sees; None where that takes too long, or cannot be seen. Raises nothing."""
        ends_at = monotonic() + self._budget_s
        if self._is_resting() or not self._free.acquire(timeout=self._budget_s):
            return None
        seen: list[T] = []
        is_over = threading.Event()
        looking = threading.Thread(target=self._look, args=(look, seen, is_over), name="sluicegate-look", daemon=True)
        with self._lock:
            self._under_way.add(looking)
        looking.start()
        if is_over.wait(max(0.0, ends_at - monotonic())):
            return seen[0] if seen else None
        with self._lock:
            # It may be over by now: what it came to is too late all the same.
            self._late += looking in self._under_way
        return None

    def close(self) -> None:
        """Waits for what is still under way, BUDGET_S at most: it uses connections that are closed after this."""
        ends_at = monotonic() + BUDGET_S
        with self._lock:
            self._rests_until = float("inf")
            under_way = tuple(self._under_way)
        for looking in under_way:
            looking.join(max(0.0, ends_at - monotonic()))

    def _is_resting(self) -> bool:
        with self._lock:
            return self._late > 0 or monotonic() < self._rests_until

    def _look(self, look: Callable[[], T], seen: list[T], is_over: threading.Event) -> None:
        begun_at = monotonic()
        try:
            seen.append(look())
        except Exception as error:
            # The order is stored: it may not be answered with an error because a figure cannot be had.
            log.warning("no figures beside an order: %s: %s", type(error).__name__, error)
        finally:
            took_s = monotonic() - begun_at
            with self._lock:
                self._under_way.discard(threading.current_thread())
                if took_s > self._budget_s:
                    self._rests_until = max(self._rests_until, monotonic() + RESTS * took_s)
                if not self._under_way:
                    self._late = 0
            self._free.release()
            is_over.set()
