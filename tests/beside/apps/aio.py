"""celery-aio-pool: async tasks on an event loop (`CELERY_CUSTOM_WORKER_POOL`, `-P custom`)."""

from __future__ import annotations

import asyncio
from typing import Any

from tests.beside.apps.recorded import recorded
from tests.fleet.app import app


@app.task(bind=True, name="fleet.async_nap")
async def async_nap(self: Any, seq: int, seconds: float) -> None:
    """Take `seconds`, on the event loop."""
    with recorded(self.request, seq):
        await asyncio.sleep(seconds)
