"""Saying once that something broke, and once that it is well again."""

from __future__ import annotations

import threading

from sluicegate.schemas.printable import printable_logger

logger = printable_logger("sluicegate.control")


class Outage:
    """The state of one dependency, as far as its user knows. Thread-safe."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._lock = threading.Lock()
        self._is_on = False

    @property
    def is_on(self) -> bool:
        """Did the last attempt fail? False before the first."""
        return self._is_on

    def begin(self, error: BaseException) -> None:
        """An attempt failed; the first one is logged."""
        with self._lock:
            if not self._is_on:
                logger.warning("%s: %s; trying on", self._what, error)
            self._is_on = True

    def end(self) -> None:
        """An attempt succeeded; the first one after failures is logged."""
        with self._lock:
            if self._is_on:
                logger.warning("%s: well again", self._what)
            self._is_on = False
