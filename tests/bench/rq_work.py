"""The task that RQ's workers run: it writes the same records as the fleet tests' tasks do."""

from __future__ import annotations

import os
import time
from pathlib import Path

from tests.fleet.records import Event, Record, Writer, microseconds

RECORDS = "BENCH_RQ_RECORDS"

_writer = Writer(Path(os.environ.get(RECORDS, os.devnull)))


def nap(seq: int, seconds: float) -> None:
    """Take `seconds`."""
    started = time.time()
    _record(Event.START, started, seq)
    time.sleep(seconds)
    _record(Event.END, time.time(), seq)


def _record(event: Event, at: float, seq: int) -> None:
    _writer.write(
        Record(
            event=event,
            at_us=microseconds(at),
            task_id=str(seq),
            seq=seq,
            pid=os.getpid(),
            nodename="rq",
        )
    )
