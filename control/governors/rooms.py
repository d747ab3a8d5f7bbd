"""What is free on the workers, as their heartbeats say it: looked at now and then, before any lock is taken."""

from __future__ import annotations

from datetime import datetime, timedelta
from time import monotonic
from typing import Any

from sluicegate.control.fleet.view import Fleet, Seen
from sluicegate.control.holds.namespaces import Truth
from sluicegate.control.store.database import Database
from sluicegate.schemas.beats import WorkerState
from sluicegate.schemas.governors.capacity import Look, WorkerRoom
from sluicegate.schemas.health.readings import Readings
from sluicegate.schemas.holds.hold import Cause
from sluicegate.schemas.progress import WorkerView
from sluicegate.schemas.scopes import Subject

ONLINE = (WorkerState.RUNNING, WorkerState.PAUSING, WorkerState.PAUSED)


class Rooms:
    """The last look at the fleet. Of one leader: `begin` forgets it, and waits until all who are online were heard."""

    def __init__(self, *, database: Database, fleet: Fleet, namespace: str, every_s: float) -> None:
        self._database = database
        self._fleet = fleet
        self._namespace = namespace
        self._every_s = every_s
        self._whole: dict[str, tuple[int, Readings]] = {}
        self._last: Look | None = None
        self._looked_at = 0.0
        self._begun_at: datetime | None = None

    def begin(self) -> None:
        """At the beginning of a term."""
        self._last, self._looked_at, self._begun_at = None, 0.0, None

    def look(self, truth: Truth) -> Look | None:
        """What is free; None before there has been one full set of heartbeats. Raises Unavailable (Postgres)."""
        if monotonic() - self._looked_at < (self._every_s if self._last is not None else 1.0):
            return self._last
        self._looked_at = monotonic()
        with self._database.transaction() as connection:
            remembered = self._fleet.recall(connection)
        seen = self._fleet.look(truth, remembered)
        self._begun_at = self._begun_at or seen.at
        online = [worker for worker in seen.workers if worker.state in ONLINE]
        if all(worker.sighting.seen_at > self._begun_at for worker in online) or self._last is not None:
            rooms = tuple(self._room_of(worker, seen, truth) for worker in online)
            self._last = Look(workers=rooms, now=truth.now, is_readable=seen.is_heard)
        return self._last

    def _room_of(self, worker: WorkerView, seen: Seen, truth: Truth) -> WorkerRoom:
        beat = worker.beat
        subject = Subject(host=beat.host, worker=beat.nodename, labels=beat.labels)
        unwell = any(hold.cause == Cause.HEALTH and hold.scope.matches(subject) for hold in truth.holds.active)
        # Workers of before the probe say nothing of what they have.
        said: Any = getattr(beat, "resources", None)
        readings = None if said is None else self._readings_of(beat.incarnation, said)
        if readings is None:
            return WorkerRoom(subject=subject, is_unwell=unwell)
        age = timedelta(milliseconds=said.age_ms or 0) + (seen.at - worker.sighting.seen_at)
        interval = timedelta(milliseconds=said.interval_ms or 2000)
        return WorkerRoom(subject=subject, readings=readings, age=age, interval=interval, is_unwell=unwell)

    def _readings_of(self, incarnation: str, said: Any) -> Readings | None:
        """The readings that a heartbeat means: its own, or those that it says are the same still."""
        whole: Readings | None = said.readings
        if whole is not None:
            self._whole[incarnation] = said.number, whole
            return whole
        number, before = self._whole.get(incarnation, (None, None))
        return before if number == said.number else None
