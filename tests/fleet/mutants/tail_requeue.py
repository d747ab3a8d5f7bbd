"""Hands back to the tail of the queue, as kombu's own `reject(requeue=True)` does."""

from __future__ import annotations

from sluicegate.workers import celery_inside, owing
from tests.fleet.app import app

celery_inside.GIVE_BACK = owing.GIVE_BACK.replace("RPUSH", "LPUSH")  # type: ignore[attr-defined]
__all__ = ["app"]
