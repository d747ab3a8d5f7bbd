"""Hands back to the tail of the queue, as kombu's own `reject(requeue=True)` does."""

from __future__ import annotations

from sluicegate.workers.celery_inside import redis_debts, redis_hand_back
from tests.fleet.app import app

redis_hand_back.HAND_BACK = redis_debts.HAND_BACK.replace("RPUSH", "LPUSH")  # type: ignore[attr-defined]
__all__ = ["app"]
