"""Loops: a function that is called again and again in a thread, until it is told to stop."""

from __future__ import annotations

import threading
from collections.abc import Callable
from time import monotonic

from sluicegate.control.links.outages import Outage
from sluicegate.schemas.errors import SluicegateError
from sluicegate.schemas.printable import printable_logger

logger = printable_logger("sluicegate.control")

REST_AT_MOST_S = 10.0


class Loop:
    """Calls `turn` every `interval_s` seconds, and `at_end` once. A turn that fails is logged, and the loop goes on.

    `rests`: after a turn it rests so many times as long as the turn took, where that is longer, and REST_AT_MOST_S at
    most. For what is no order's: however much there is to look at, most of a processor is left for orders.
    """

    def __init__(
        self,
        name: str,
        turn: Callable[[], object],
        *,
        interval_s: float,
        at_end: Callable[[], object] = lambda: None,
        rests: float = 0.0,
    ) -> None:
        self._turn = turn
        self._interval_s = interval_s
        self._at_end = at_end
        self._rests = rests
        self._stopping = threading.Event()
        self._outage = Outage(name)
        self._thread = threading.Thread(target=self._run, name=f"sluicegate-{name}", daemon=True)

    def start(self) -> None:
        """Starts the thread; the first turn is at once."""
        self._thread.start()

    def stop(self) -> None:
        """Tells the thread to end after its turn; does not wait."""
        self._stopping.set()

    def join(self, timeout_s: float) -> None:
        """Waits for its end, at most `timeout_s`; a turn that hangs is left behind (daemon)."""
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    def _run(self) -> None:
        while not self._stopping.is_set():
            begun_at = monotonic()
            try:
                self._turn()
            except SluicegateError as error:
                self._outage.begin(error)
            except Exception as error:
                # A defect in one turn must not end the beat for ever: workers would go stale for nothing.
                if not self._outage.is_on:
                    logger.exception("%s: a turn failed", self._thread.name)
                self._outage.begin(error)
            else:
                self._outage.end()
            rest_s = min(self._rests * (monotonic() - begun_at), REST_AT_MOST_S)
            self._stopping.wait(max(self._interval_s, rest_s))
        try:
            self._at_end()
        except SluicegateError as error:
            logger.warning("%s: %s", self._thread.name, error)
