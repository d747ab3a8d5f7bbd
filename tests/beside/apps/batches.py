"""celery-batches: a task whose strategy hands many messages to the pool as one.

python -m tests.beside.apps.batches FIRST COUNT     sends
"""

from __future__ import annotations

import sys
import time
from types import SimpleNamespace
from typing import Any

from celery_batches import Batches

from tests.beside.apps.recorded import write
from tests.beside.apps.witness import tell
from tests.fleet.app import app
from tests.fleet.records import Event

TAKES_S = 0.3


@app.task(name="fleet.batched", base=Batches, flush_every=5, flush_interval=0.3)
def batched(requests: list[Any]) -> None:
    """Each message of a batch starts when the batch does."""
    started = time.time()
    mine = [(request.args[0], SimpleNamespace(id=request.id, hostname=request.hostname)) for request in requests]
    for seq, request in mine:
        write(request, Event.START, started, seq)
    time.sleep(TAKES_S)
    for seq, request in mine:
        write(request, Event.END, time.time(), seq)
    tell("batch", len(requests))


if __name__ == "__main__":
    first, count = int(sys.argv[1]), int(sys.argv[2])
    for seq in range(first, first + count):
        batched.delay(seq)
