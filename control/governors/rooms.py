"""What is free on the workers, as their heartbeats say it: looked at now and then, before any lock is taken."""

from __future__ import annotations

from datetime import datetime, timedelta
from time import monotonic

from sluicegate.control.fleet.view import Fleet, Seen
from sluicegate.control.holds.namespaces import Truth
from sluicegate.control.store.database import Database
from sluicegate.schemas.beats import WorkerState
from sluicegate.schemas.governors.capacity import Look, WorkerRoom
from sluicegate.schemas.holds.hold import Cause
from sluicegate.schemas.progress import WorkerView
from sluicegate.schemas.scopes import Subject

ONLINE = (WorkerState.RUNNING, WorkerState.PAUSING, WorkerState.PAUSED)


class Rooms:
    """The last look at the fleet. Of one leader: `begin` forgets it, and waits until all who are online were heard."""

    def __init__(self, *, database: Database, fleet: Fleet, every_s: float) -> None:
        self._database = database
        self._fleet = fleet
        self._every_s = every_s
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
            told = self._fleet.with_resources(online)
            rooms = tuple(_room_of(worker, seen, truth) for worker in told)
            self._last = Look(workers=rooms, now=truth.now, is_readable=seen.is_heard)
        return self._last


def _room_of(worker: WorkerView, seen: Seen, truth: Truth) -> WorkerRoom:
    beat, said = worker.beat, worker.beat.resources
    subject = Subject(host=beat.host, worker=beat.nodename, labels=beat.labels)
    unwell = any(hold.cause == Cause.HEALTH and hold.scope.matches(subject) for hold in truth.holds.active)
    if said is None or said.readings is None:
        # A worker of before the probe, or whose readings cannot be had: it says nothing of what it has.
        return WorkerRoom(subject=subject, is_unwell=unwell)
    age = None if said.age_ms is None else timedelta(milliseconds=said.age_ms) + (seen.at - worker.sighting.seen_at)
    interval = timedelta(milliseconds=2000 if said.interval_ms is None else said.interval_ms)
    return WorkerRoom(subject=subject, readings=said.readings, age=age, interval=interval, is_unwell=unwell)
