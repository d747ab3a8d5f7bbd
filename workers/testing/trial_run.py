"""A task's checkpoints tried in a plain test: it is called as any function, and stops where the test says."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Self

from sluicegate.workers.celery_inside.in_trial import called_task
from sluicegate.workers.cell import STOPPING
from sluicegate.workers.checkpoints import Yielded, station_for_a_while
from sluicegate.workers.testing.shelf import cursors_in_memory

_TASK = "trial"


class TrialRun:
    """What became of a task that was called within `quiesced` or `resumed`.

    `checkpoints`: how many it came to. `has_waited`: it stopped at one, in place, and went on when the hold was
    released. `has_yielded`: it ended there, and gave its slot back.
    """

    def __init__(self, *, stops_at: int | None, cursor: Any, is_leaving: bool) -> None:
        self.checkpoints = 0
        self.has_waited = False
        self.has_yielded = False
        self._stops_at = stops_at
        self._is_leaving = is_leaving
        self._is_stopped = False
        self._looks = 0
        self._cursors = cursors_in_memory()
        if cursor is not None:
            self._cursors.store(_TASK, cursor)

    @property
    def cursor(self) -> Any:
        """With what a later run goes on; as JSON has it, so that a tuple is a list. None where it never stopped."""
        return self._cursors.load(_TASK)

    @contextmanager
    def station(self) -> Iterator[Self]:
        """Within this block it is what checkpoints ask; a task that yields there ends the block."""
        with station_for_a_while(self, [STOPPING]):
            try:
                yield self
            except Yielded:
                self.has_yielded = True

    # -- what its checkpoints ask (`workers.checkpoints.Station`) ---------------------------------------------

    def current_task(self) -> Any:
        """In a trial one that is called as any function counts too."""
        return called_task()

    def is_quiesced(self, task: Any) -> bool:
        """At the checkpoint that was asked for, until it has rested."""
        if not self._is_stopped:
            self.checkpoints += 1
            return self.checkpoints == self._stops_at
        return self._looks < (2 if self._is_leaving else 1)

    def is_leaving(self) -> bool:
        """As the test asked."""
        return self._is_leaving

    def note_waiting(self, task_id: str, is_waiting: bool) -> None:
        """Until the hold is released."""
        self._is_stopped = is_waiting

    def rest(self, seconds: float) -> None:
        """No time passes in a trial."""
        self.has_waited = True
        self._looks += 1

    def keep_cursor(self, task: Any, cursor: Any) -> bool:
        """There is one task in a trial; raises InvalidInput."""
        self._cursors.store(_TASK, cursor)
        return True

    def load_cursor(self, task: Any) -> Any:
        """What it was given, or stored last."""
        return self._cursors.load(_TASK)


@contextmanager
def quiesced(at: int = 1, *, cursor: Any = None, is_leaving: bool = False) -> Iterator[TrialRun]:
    """Within this block a task stops at its checkpoint number `at`, as in a worker whose work is quiesced.

    Call it directly or with `apply()`. One that declares `on_quiesce="yield"` ends there, and the block with it; any
    other waits, and goes on at once. With `cursor` it is a later run, which goes on from there. With `is_leaving` the
    worker is told to stop while the task waits: one that declares its way and gave a cursor yields then too.

    Raises AssertionError where the task never came to that checkpoint, ValueError for `at` < 1, and InvalidInput for
    a cursor that could not be stored.
    """
    if at < 1:
        raise ValueError(f"at must be at least 1, not {at}")
    with TrialRun(stops_at=at, cursor=cursor, is_leaving=is_leaving).station() as run:
        yield run
    if run.checkpoints < at:
        raise AssertionError(f"the task came to {run.checkpoints} checkpoints, and should have stopped at number {at}")


@contextmanager
def resumed(cursor: Any = None) -> Iterator[TrialRun]:
    """Within this block a task goes on from `cursor` (None: from its beginning), and nothing is quiesced."""
    with TrialRun(stops_at=None, cursor=cursor, is_leaving=False).station() as run:
        yield run
