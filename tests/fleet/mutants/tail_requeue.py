"""Hands back to the tail of the queue, as kombu's own `reject(requeue=True)` does."""

from __future__ import annotations

from sluicegate.workers import celery_inside
from tests.fleet.app import app

celery_inside._GIVE_BACK = celery_inside._GIVE_BACK.replace("RPUSH", "LPUSH")
__all__ = ["app"]
