"""What a beat sends: a task that tells the witness when it ran, in a queue beside the fleet's own."""

from __future__ import annotations

import os
import time
from typing import Any

from celery import Celery

from tests.beside.apps.witness import tell

EVERY_S = 0.25
NO_NUMBER = -1
"""In the place of a number: the checker knows nothing of what a beat sends."""
TICKS = f"{os.environ.get('FLEET_QUEUE', 'celery')}-ticks"


def add_tick(app: Celery) -> None:
    """Let `app` know the task."""

    @app.task(bind=True, name="fleet.tick")
    def tick(self: Any, seq: int) -> None:
        tell("tick", f"{int(time.time() * 1_000_000)} {self.request.id}")
