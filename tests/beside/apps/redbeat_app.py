"""celery-redbeat: the schedule is in the broker's Redis."""

from __future__ import annotations

import os

from tests.beside.apps.ticks import EVERY_S, NO_NUMBER, TICKS, add_tick
from tests.fleet.app import app

app.conf.update(
    redbeat_redis_url=os.environ["FLEET_BROKER_URL"],
    redbeat_key_prefix=f"{TICKS}:",
    beat_max_loop_interval=1,
    beat_schedule={
        "tick": {"task": "fleet.tick", "schedule": EVERY_S, "args": [NO_NUMBER], "options": {"queue": TICKS}}
    },
)
add_tick(app)
