"""The fleet's app with long tasks of every kind, which also write down which of their cursors are safe.

A kind is how a task stops (`wait`, `yield`) and when it is acknowledged: `early`, `late`, or `sure`, which is late and
comes back to its queue where its pool child is lost (`reject_on_worker_lost`). Plain Celery loses an early one with the
process that runs it, a late one with a pool child that is killed under its parent, and a sure one with neither.

Imported by workers only: it puts a note around the store of cursors.
"""

from __future__ import annotations

import os
import time
from functools import wraps
from pathlib import Path
from typing import Any

from celery import current_task

from sluicegate.workers.cursor_seals import UNTOLD, Origin
from sluicegate.workers.cursors import Cursors
from tests.fleet.app import RECORDS, Stepping, app
from tests.fleet.long_runs import EARLY, KINDS, SURE
from tests.fleet.records import ItemDone, Writer, cursors_path, microseconds

__all__ = ["app"]

_cursors = Writer(Path(cursors_path(os.environ.get(RECORDS, os.devnull))))
_store = Cursors.store


@wraps(_store)
def _store_and_tell(self: Cursors, task_id: str, cursor: Any, origin: Origin = UNTOLD) -> None:
    _store(self, task_id, cursor, origin)
    # Only what the server has confirmed: a crash in between leaves a safe cursor that nobody counts on.
    request: Any = current_task.request
    seq = int(request.args[0])
    _cursors.write(ItemDone(seq=seq, item=cursor, at_us=microseconds(time.time()), pid=os.getpid()))


Cursors.store = _store_and_tell  # type: ignore[method-assign]


def _kind(name: str) -> Stepping:
    way, acks = name.split("_")
    options = {
        "name": f"fleet.steps_{name}",
        "on_quiesce": way,
        "acks_late": acks != EARLY,
        "reject_on_worker_lost": acks == SURE,
    }
    kind: Stepping = type(f"Steps_{name}", (Stepping,), options)()
    return kind


for _name in KINDS:
    app.register_task(_kind(_name))


class StepsResult(Stepping):
    """Gives its slot back when it is quiesced; its number is its result."""

    name = "fleet.steps_result"
    on_quiesce = "yield"
    ignore_result = False

    def run(self, seq: int, count: int, seconds: float) -> int:  # type: ignore[override]
        super().run(seq, count, seconds)
        return seq


app.register_task(StepsResult())
