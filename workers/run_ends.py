"""Runs that did not end well: what heartbeats say of them while somebody may ask what became of a task.

A run is told of for `TOLD_S` after its end, since who ordered a pause may have seen it running until a moment ago; and
for as long as a hold covers it. All others have finished, and cost nothing here.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sluicegate.schemas.beats import End, EndedRun, RunningTask
from sluicegate.schemas.scopes import Subject
from sluicegate.workers.gate import Standing
from sluicegate.workers.ports import Books

TOLD_S = 10.0
MOST_BESIDE_SLOTS = 100
"""A heartbeat tells of at most so many, and one for each slot: all that ran when a hold came may end badly."""


@dataclass(frozen=True, slots=True)
class _Told:
    """`subject` None: whatever is held may cover it. `noted_at`: monotonic seconds."""

    ended: EndedRun
    subject: Subject | None
    noted_at: float

    def is_held(self, standing: Standing) -> bool:
        if standing.is_free:
            return False
        return self.subject is None or standing.is_held(self.subject)


class RunEnds:
    """All methods may be called from any thread. `running` and `told` change nothing."""

    def __init__(self, books: Books, *, standing: Callable[[], Standing], subject_of: Callable[[Any], Subject]) -> None:
        self._books = books
        self._standing = standing
        self._subject_of = subject_of
        self._lock = threading.Lock()
        self._ending: dict[int, Any] = {}
        self._told: deque[_Told] = deque()
        self._is_incomplete_until = 0.0

    def begin(self, request: Any) -> None:
        """Celery is about to let go of this request: until `close` it counts as running."""
        with self._lock:
            self._ending[id(request)] = request

    def close(self, request: Any, end: End | None, comes_again: bool | None = None) -> None:
        """It has let go. `end` None: the run ended well, or goes on. Of one run the first word counts."""
        task = None if end is None else self._books.running_task(request, is_waiting=False)
        with self._lock:
            self._ending.pop(id(request), None)
            if task is not None and end is not None and not self._is_told(task):
                ended = EndedRun(task=task, at=datetime.now(UTC), end=end, comes_again=comes_again)
                self._note(_Told(ended, self._subject_of(request), time.monotonic()))

    def doubt(self, task: RunningTask) -> None:
        """Nobody will hear how this one ends, which may still run."""
        with self._lock:
            if not self._is_told(task):
                ended = EndedRun(task=task, at=datetime.now(UTC), end=End.ENDED)
                self._note(_Told(ended, None, time.monotonic()))

    def running(self) -> list[Any]:
        """The requests that Celery is letting go of."""
        with self._lock:
            return list(self._ending.values())

    def told(self) -> tuple[EndedRun, ...] | None:
        """What there is to say; None where there were too many to say which have ended well."""
        now, standing = time.monotonic(), self._standing()
        with self._lock:
            if now < self._is_incomplete_until:
                return None
            return tuple(one.ended for one in self._told if now - one.noted_at < TOLD_S or one.is_held(standing))

    def forget_if_free(self) -> None:
        """Nothing is held: what ended a while ago belongs to no hold any more."""
        standing = self._standing()
        if standing.is_free:
            with self._lock:
                self._let_go(standing)
                # A hold that was lifted took its doubts along.
                self._is_incomplete_until = min(self._is_incomplete_until, time.monotonic() + TOLD_S)

    def _is_told(self, task: RunningTask) -> bool:
        return any(
            one.ended.task.id == task.id and (task.started_at is None or one.ended.at >= task.started_at)
            for one in self._told
        )

    def _note(self, told: _Told) -> None:
        standing = self._standing()
        self._told.append(told)
        self._let_go(standing)
        if len(self._told) > MOST_BESIDE_SLOTS + self._books.concurrency():
            dropped = next((one for one in self._told if not one.is_held(standing)), self._told[0])
            self._told.remove(dropped)
            # One that no hold covers is asked about only by a hold that comes now.
            doubtful_s = float("inf") if dropped.is_held(standing) else TOLD_S
            self._is_incomplete_until = max(self._is_incomplete_until, time.monotonic() + doubtful_s)

    def _let_go(self, standing: Standing) -> None:
        now = time.monotonic()
        while self._told and now - self._told[0].noted_at >= TOLD_S and not self._told[0].is_held(standing):
            self._told.popleft()
