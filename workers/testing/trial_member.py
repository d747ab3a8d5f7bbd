"""A worker in the process of a test, put together behind a gate: as a member of a fleet, without one."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, cast
from uuid import uuid4

from sluicegate.schemas.beats import RunningTask
from sluicegate.schemas.names import host_of
from sluicegate.schemas.scopes import Subject
from sluicegate.schemas.snapshots import Snapshot
from sluicegate.workers.celery_inside.in_trial import is_told_to_stop, trial_sides_of
from sluicegate.workers.celery_inside.requests import current_task, origin_told, queue_told, subject_of
from sluicegate.workers.celery_inside.self_check import refuse_strategies
from sluicegate.workers.celery_inside.yields import prepare_tasks
from sluicegate.workers.cell import Cell
from sluicegate.workers.cursors import Cursors
from sluicegate.workers.follower import Follower
from sluicegate.workers.following import Following
from sluicegate.workers.gate import Gate
from sluicegate.workers.hands import Hands
from sluicegate.workers.report import Identity, Report
from sluicegate.workers.scoped_table import Table
from sluicegate.workers.station import Station


class _Nobody:
    """Whom a trial follows."""

    is_stale = False
    refused: Mapping[str, int] = MappingProxyType({})
    following = Following()
    shown: str | None = None


class TrialMember:
    """The gate of one worker, with nobody to follow and no heart: the test says what is in force.

    `on_applied` is called from the worker's thread. Raises InvalidSetting for a worker that cannot be held here.
    """

    def __init__(
        self, worker: Any, cursors: Cursors, *, labels: Mapping[str, str], on_applied: Callable[[], None]
    ) -> None:
        self.cell = Cell()
        self.has_left = False
        sides = trial_sides_of(worker, self.cell)
        self._app, self._pool, self._loop = worker.app, sides.pool, sides.loop
        self.subject = Subject(host=host_of(worker.hostname), worker=worker.hostname, labels=labels)
        table = Table(self.cell)
        self.gate: Gate[Any] = Gate(
            self.cell,
            self.subject,
            wake=sides.loop.wake,
            on_applied=on_applied,
            subject_of=lambda request: subject_of(request, self.subject),
            on_scoped=table.write,
        )
        self.hands = Hands(self.gate, sides)
        identity = Identity(
            nodename=worker.hostname, incarnation=str(uuid4()), host=host_of(worker.hostname), labels=labels
        )
        nobody = cast("Follower", _Nobody())
        self.report = Report(identity, gate=self.gate, follower=nobody, hands=self.hands, sides=sides)
        self.station = Station(
            self.cell,
            table,
            cursors,
            current_task=current_task,
            note_waiting=sides.pool.note_waiting,
            rest=self._rest,
            queue_of=queue_told,
            origin_of=origin_told,
        )

    def prepare_tasks(self) -> None:
        """Have runs end at their checkpoints as their tasks declare it; raises InvalidSetting."""
        prepare_tasks(self._app, self.station, self.hands.hand_back.take_yielded)

    def look_at_tasks(self) -> None:
        """As of a real worker: before Celery builds their strategies."""
        refuse_strategies(self._app)
        self._pool.take_in_tasks()

    def start(self) -> None:
        """The pool has started."""
        self._pool.watch()

    def leave(self) -> None:
        """The worker stops: what waits at a checkpoint and can go on elsewhere goes."""
        self.has_left = True
        self.cell.leave()
        self.hands.close()

    def end(self, free: Snapshot) -> None:
        """The test is over: `free` holds nothing, so that no task waits on."""
        self.gate.put_in_force(free)
        if self.has_left:
            self._loop.close()

    def has_applied(self) -> bool:
        """Has it acknowledged what is in force?"""
        return self.gate.applied.standing is self.gate.standing

    def held_and_running(self) -> tuple[RunningTask, ...]:
        """The tasks that run although they are held now, but for those that wait at a checkpoint."""
        standing = self.gate.standing
        return tuple(task for task in self.report.running() if not task.is_waiting and standing.is_held(self._of(task)))

    def _of(self, task: RunningTask) -> Subject:
        me = self.subject
        return Subject(host=me.host, worker=me.worker, labels=me.labels, queue=task.queue, task=task.name)

    def _rest(self, seconds: float) -> None:
        """On the solo pool a waiting task stands on the thread of the consumer, and does that one's work."""
        if is_told_to_stop():
            self.cell.leave()
        if self._pool.name == "solo":
            self.hands.tend()
        time.sleep(seconds)
