"""When the consumer's thread looks again although nothing happened: for the barrier, after a failure, by the clock."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from sluicegate.workers.ports import Loop

_BARRIER_S = 0.001
_BARRIER_AT_MOST_S = 0.05
_BARRIER_LOOKS = 100
"""A pause is most often complete within milliseconds; where it is not, nobody is helped by a busy loop."""
_RETRY_S = 0.1
_RETRY_AT_MOST_S = 5.0


class NextLook:
    """One entry on the loop's timer: of all that asked for a look, the earliest counts. `look` is called then.

    On the consumer's own thread.
    """

    def __init__(self, loop: Loop, look: Callable[[], None]) -> None:
        self._loop = loop
        self._look = look
        self._entry: Any = None
        self._at = 0.0
        self._looks_at_barrier = 0
        self._failures = 0

    def within(self, delay_s: float) -> None:
        """Have the next look come within `delay_s` seconds; an earlier one that is due stays."""
        at = time.monotonic() + delay_s
        if self._entry is not None:
            if at >= self._at:
                return
            self._entry.cancel()
        self._entry, self._at = self._loop.call_later(delay_s, self.come), at

    def come(self) -> None:
        """Look now. Called by the timer, on the consumer's thread."""
        self._entry = None
        self._look()

    def drop(self) -> None:
        """Celery cancels a broken connection's timer entries, ours among them: it would be waited for in vain."""
        if self._entry is not None:
            self._entry.cancel()
            self._entry = None

    def after_failure(self) -> None:
        """The longer the more there were in a row."""
        self.within(min(_RETRY_AT_MOST_S, _RETRY_S * 2 ** min(self._failures, 6)))
        self._failures += 1

    def note_success(self) -> None:
        """The next failure is a first one."""
        self._failures = 0

    def at_barrier(self) -> None:
        """Something that was let through has not started yet."""
        self._looks_at_barrier += 1
        self.within(_BARRIER_S if self._looks_at_barrier < _BARRIER_LOOKS else _BARRIER_AT_MOST_S)

    def note_acknowledged(self) -> None:
        """The next barrier begins with short looks."""
        self._looks_at_barrier = 0
