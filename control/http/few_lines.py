"""Log lines that a stranger can cause: so many a minute of each kind, and the next one says how many were left out."""

from __future__ import annotations

import logging
import threading
from collections import Counter

from sluicegate.control.access.limits import RateLimit

SERVER_LOGGERS = ("uvicorn.error", "asyncio")
"""Where the HTTP server tells of each broken request, and the event loop of each socket that it cannot accept."""


class FewLines(logging.Filter):
    """Lets a few warnings and errors of each kind (the text before anything is filled in) through. Thread-safe."""

    def __init__(self, *, burst: int = 5, per_minute: float = 5) -> None:
        super().__init__()
        self._rate = RateLimit(burst=burst, per_minute=per_minute)
        self._lock = threading.Lock()
        self._left_out: Counter[str] = Counter()

    def filter(self, record: logging.LogRecord) -> bool:
        """Is the line written? One that is says how many like it were not."""
        if record.levelno < logging.WARNING:
            return True
        kind = str(record.msg)
        if not self._rate.take(kind):
            with self._lock:
                self._left_out[kind] += 1
            return False
        with self._lock:
            left_out = self._left_out.pop(kind, 0)
        if left_out:
            record.msg = f"{record.getMessage().rstrip()} (and {left_out} like it, not shown)"
            record.args = ()
        return True


_FEW = FewLines()


def limit_the_servers_lines() -> None:
    """Limits what the HTTP server and the event loop log, once for the process."""
    for name in SERVER_LOGGERS:
        # A filter that is there already is not added again.
        logging.getLogger(name).addFilter(_FEW)


def limited(logger: logging.Logger) -> logging.Logger:
    """A logger below `logger` whose warnings are limited."""
    below = logger.getChild("limited")
    below.addFilter(_FEW)
    return below
