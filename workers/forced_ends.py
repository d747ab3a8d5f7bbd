"""Running tasks that a deadline's step ends: which, when, and what is said of them.

A hold whose deadline has come (`Hold.ends_tasks`) first lets its tasks come to a checkpoint, for `FORCED_END_GRACE_S`
from when this worker heard of it: clocks of two hosts are not compared. Then those that still run are ended by the
pool, and those that must go back are owed to the way back once their run is over, never before: another worker may
start them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from sluicegate.schemas.beats import Force, ForcedTask
from sluicegate.schemas.holds.hold import FORCED_END_GRACE_S, Hold, Then
from sluicegate.schemas.scopes import Subject
from sluicegate.workers.log import about, logger
from sluicegate.workers.ports import Books, PoolSide

log = logger(__name__)

HARDER_AFTER_S = 5.0
"""How long a task that was asked to end may take until its process is killed."""
LOOK_EVERY_S = 0.05


@dataclass(slots=True)
class _ForcedEnd:
    request: Any
    then: Then
    since: float
    is_hard: bool = False


class ForcedEnds:
    """All methods run on the consumer's own thread, but for `under_way` and `told`."""

    def __init__(self, pool: PoolSide, books: Books, subject_of: Callable[[Any], Subject]) -> None:
        self._pool = pool
        self._books = books
        self._subject_of = subject_of
        self._heard_at: dict[UUID, float] = {}
        self._under_way: dict[str, _ForcedEnd] = {}
        self._left: set[str] = set()
        self._told: dict[str, ForcedTask] = {}

    def tend(self, holds: Iterable[Hold], running: Iterable[Any]) -> tuple[list[Any], float | None]:
        """One look at what runs: the requests whose runs are over and whose messages must go back, and in how many
        seconds to look again (None: nothing is to be ended).
        """
        now = time.monotonic()
        holds = tuple(holds)
        self._heard_at = {hold.id: self._heard_at.get(hold.id, now) for hold in holds}
        running = {request.id: request for request in running}
        returning = self._over(running)
        due = [hold for hold in holds if now - self._heard_at[hold.id] >= FORCED_END_GRACE_S]
        for request in running.values():
            for hold, then in self._step_for(request, due):
                self._end(request, hold, then, now)
        self._left &= running.keys()
        if len(due) < len(holds) or self._under_way:
            return returning, LOOK_EVERY_S
        return returning, None if not holds else 1.0

    def _step_for(self, request: Any, due: list[Hold]) -> list[tuple[Hold, Then]]:
        """The strongest step among the holds that end it, with the hold whose step that is; nothing where none does."""
        if not due:
            return []
        subject = self._subject_of(request)
        holds = [hold for hold in due if hold.scope.matches(subject)]
        steps = [(hold, step) for step in (Then.TERMINATE, Then.REQUEUE) for hold in holds if hold.then == step]
        return steps[:1]

    def _end(self, request: Any, hold: Hold, then: Then, now: float) -> None:
        forced_end = self._under_way.get(request.id)
        if forced_end is not None:
            if not forced_end.is_hard and now - forced_end.since >= HARDER_AFTER_S:
                forced_end.is_hard = True
                self._pool.end(request, forced_end.then, is_hard=True)
            return
        if request.id in self._left:
            return
        more = about([hold])
        if then is Then.REQUEUE and request.acknowledged:
            self._leave(request, "its message was acknowledged early: to end it would lose it", more)
        elif self._pool.end(request, then, is_hard=False):
            self._under_way[request.id] = _ForcedEnd(request, then, now)
            log.warning("sluicegate: its deadline has passed: %s %s", then, _name(request), extra=more)
        else:
            self._leave(request, f"{self._pool.name} cannot {then} a running task", more)

    def _leave(self, request: Any, why: str, more: dict[str, str]) -> None:
        self._left.add(request.id)
        log.warning("sluicegate: its deadline has passed, and %s goes on: %s", _name(request), why, extra=more)

    def _over(self, running: dict[str, Any]) -> list[Any]:
        returning = []
        for task_id, forced_end in list(self._under_way.items()):
            if task_id in running or not self._pool.has_ended(forced_end.request):
                continue
            del self._under_way[task_id]
            if forced_end.then is Then.TERMINATE:
                self._tell(forced_end.request, Force.TERMINATED)
            # Where it came to its own end a moment before, Celery has acknowledged it.
            elif not forced_end.request.acknowledged:
                self._tell(forced_end.request, Force.REQUEUED)
                returning.append(forced_end.request)
        return returning

    def _tell(self, request: Any, how: Force) -> None:
        task = self._books.running_task(request, is_waiting=False)
        self._told[request.id] = ForcedTask(task=task, at=datetime.now(UTC), how=how)

    def under_way(self) -> list[Any]:
        """The requests that are being ended; from any thread."""
        return [forced_end.request for forced_end in list(self._under_way.values())]

    def told(self) -> tuple[ForcedTask, ...]:
        """What was ended; from any thread."""
        return tuple(self._told.copy().values())

    def forget(self) -> None:
        """Called once nothing is held: what was ended until now belongs to no hold any more."""
        self._told = {}


def _name(request: Any) -> str:
    return f"{request.name}[{request.id}]"
