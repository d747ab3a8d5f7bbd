"""What a heartbeat says of what a probe read: it is told whole where that matters, and otherwise only named."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime

from sluicegate.schemas.health.readings import Readings
from sluicegate.schemas.health.resources import WHOLE_EVERY_S, Resources, age_ms, is_notable


class Told:
    """Numbers what is told. `latest`: the newest readings, if any. May be asked from any thread."""

    def __init__(self, latest: Callable[[], Readings | None], interval_s: float) -> None:
        self._latest = latest
        self._interval_ms = round(interval_s * 1000)
        self._lock = threading.Lock()
        self._whole: Resources | None = None
        self._at_s = 0.0

    def resources(self) -> Resources | None:
        """With the readings that were told whole under this number; None before the first."""
        now = self._latest()
        if now is None:
            return None
        with self._lock:
            is_old = time.monotonic() - self._at_s >= WHOLE_EVERY_S
            if self._whole is None or self._whole.readings is None or is_old or is_notable(self._whole.readings, now):
                number = 1 if self._whole is None else self._whole.number + 1
                self._whole = Resources.whole(number, now, interval_ms=self._interval_ms)
                self._at_s = time.monotonic()
            return replace(self._whole, age_ms=age_ms(now, datetime.now(UTC)))
