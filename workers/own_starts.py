"""What a user's own code starts in a worker past Celery's way to the pool, as a consumer step does: it asks the gate.

The way in is `starting`. What it lets begin has ended before the worker acknowledges a pause, so nothing of it begins
afterwards, on whichever thread it runs.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import count
from typing import Any

from sluicegate.schemas.beats import RunningTask
from sluicegate.schemas.scopes import Subject
from sluicegate.workers.gate import Gate, Standing

UNNAMED = "sluicegate.starting"


class OwnStarts:
    """Those of one worker process. `wake` has the consumer's thread look whether it can acknowledge by now."""

    def __init__(self, gate: Gate[Any], wake: Callable[[], None]) -> None:
        self._gate = gate
        self._wake = wake
        self._pid = os.getpid()
        self._running: dict[RunningTask, Subject] = {}
        self._numbers = count(1)

    def begin(self, queue: str | None, task: str | None) -> RunningTask | None:
        """Let something begin that is of this queue and this task, or has neither; None where it is held."""
        if os.getpid() != self._pid:
            # A pool child has a copy, which no pause reaches.
            raise RuntimeError("sluicegate.starting() is for the worker's own process, not for a pool child")
        subject = replace(self._gate.subject, queue=queue, task=task)
        told = RunningTask(id=f"own-{next(self._numbers)}", name=task or UNNAMED, queue=queue)

        def note() -> None:
            self._running[told] = subject

        return told if self._gate.note_begin(note, subject) else None

    def end(self, told: RunningTask) -> None:
        """It is over."""
        del self._running[told]
        if not self._gate.standing.is_free:
            self._wake()

    def running(self) -> tuple[RunningTask, ...]:
        """What has begun and not ended; from any thread."""
        return tuple(self._running.copy())

    def is_past_barrier(self, standing: Standing) -> bool:
        """Has all that is held now ended? Nothing of it can begin any more."""
        return not any(standing.is_held(subject) for subject in self._running.copy().values())


_own_starts: OwnStarts | None = None


def ask_here(own_starts: OwnStarts | None) -> None:
    """Called once, when the worker of this process is put together."""
    global _own_starts
    _own_starts = own_starts


@contextmanager
def starting(*, queue: str | None = None, task: str | None = None) -> Iterator[bool]:
    """Ask whether something that is no task of Celery's may begin now: the value of the block says so.

    `with sluicegate.starting(queue="events") as may:`

    True: what stands in the block may be done. It is told as running until the block ends, and until then the worker
    acknowledges no pause that holds it: keep it short, or accept that a pause waits for it. False: it is held, and must
    not be done. `queue` and `task` say which holds it falls under, beside those of the whole worker.

    Check and begin are one step: nothing that was let in begins after an acknowledgement. From any thread of the
    worker's own process; raises RuntimeError in a pool child. Always True where no gate is: in a process that is no
    worker, and with SLUICEGATE_ENABLED=false.
    """
    own = _own_starts
    if own is None:
        yield True
        return
    told = own.begin(queue, task)
    try:
        yield told is not None
    finally:
        if told is not None:
            own.end(told)
