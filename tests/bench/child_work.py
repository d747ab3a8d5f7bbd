"""The fleet's app with one more task: what a `checkpoint()` costs in the pool child that runs it, and a Redis GET."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

from celery import Task

from sluicegate import checkpoint
from sluicegate.schemas.adapters.redis_client import connect
from sluicegate.schemas.redis_urls import server_at
from sluicegate.schemas.settings import REDIS_URL
from sluicegate.workers.checkpoints import Station
from tests.bench.timing import each_ns, rounds_ns
from tests.fleet.app import RECORDS, app
from tests.fleet.records import Event, Record, Writer, microseconds

KEY = "bench"
TASK = "time_checkpoint"
_writer = Writer(Path(os.environ.get(RECORDS, os.devnull)))


@app.task(bind=True, name=f"fleet.{TASK}")
def time_checkpoint(self: Task[Any, Any], seq: int, rounds: int, gets: int) -> None:
    """Write down both samples, in nanoseconds, and whether there is anything here that a checkpoint would look at."""
    with connect(server_at(REDIS_URL.read(os.environ), REDIS_URL.name)) as client:
        assert client.get(KEY), "there is nothing to get"
        found = {
            "has_station": _has_station(),
            "checkpoint": rounds_ns(lambda: checkpoint(), rounds),
            "get": each_ns(lambda: client.get(KEY), gets),
        }
    _writer.write(
        Record(
            event=Event.END,
            at_us=microseconds(time.time()),
            task_id=str(self.request.id),
            seq=seq,
            pid=os.getpid(),
            nodename=str(self.request.hostname),
            note=json.dumps(found),
        )
    )


def _has_station() -> bool:
    from sluicegate.workers import checkpoints

    station: Station | None = checkpoints._station
    return station is not None


__all__ = ["app"]
