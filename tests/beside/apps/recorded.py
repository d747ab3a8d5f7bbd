"""For a library's own tasks: the records that the checker reads."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.fleet.records import Event, Record, Writer, microseconds

RECORDS = "FLEET_RECORDS"
_writer = Writer(Path(os.environ.get(RECORDS, os.devnull)))


@contextmanager
def recorded(request: Any, seq: int) -> Iterator[None]:
    """Write down that `request`, which has the number `seq`, starts; and that it ends, however it does."""
    started = time.time()
    write(request, Event.START, started, seq)
    try:
        yield
    finally:
        write(request, Event.END, time.time(), seq)


def write(request: Any, event: Event, at: float, seq: int) -> None:
    """One record; `request` is whatever has an `id` and a `hostname`."""
    _writer.write(
        Record(
            event=event,
            at_us=microseconds(at),
            task_id=str(request.id),
            seq=seq,
            pid=os.getpid(),
            nodename=str(request.hostname),
        )
    )
