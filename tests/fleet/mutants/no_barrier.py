"""Acknowledges at once: it does not wait until what was given to the pool has started."""

from __future__ import annotations

from sluicegate.workers.gate import Standing
from sluicegate.workers.hands import Hands
from tests.fleet.app import app


def is_past_barrier(self: Hands, standing: Standing) -> bool:
    return True


Hands._is_past_barrier = is_past_barrier  # type: ignore[method-assign]
__all__ = ["app"]
