"""Reading: what is ordered, how far it has got, what a hold would touch, and what became of one. Changes nothing."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import Connection

from sluicegate.control.audit import events
from sluicegate.control.audit.events import Latest
from sluicegate.control.fleet import runtimes
from sluicegate.control.fleet.sightings import Memory
from sluicegate.control.fleet.view import Fleet, Progress
from sluicegate.control.holds import drain_rows, hold_rows, namespaces
from sluicegate.control.holds.drain_rows import Story
from sluicegate.control.holds.namespaces import Truth
from sluicegate.control.pausing.warnings import warnings
from sluicegate.control.store.database import Database
from sluicegate.schemas.errors import NotFound, Unavailable
from sluicegate.schemas.holds.hold import Hold
from sluicegate.schemas.holds.preview import Preview, preview
from sluicegate.schemas.progress import WorkerView
from sluicegate.schemas.scopes import GLOBAL, Scope


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """What is ordered and how far the fleet has got with it, by the metrics of one scope; the newest events."""

    progress: Progress
    latest: tuple[Latest, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Previewed:
    """What a hold would touch. `held_by`: the causes that hold exactly this scope already."""

    preview: Preview
    held_by: tuple[str, ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class HoldStory:
    """One hold, in force or released, and what became of what ran when it was placed."""

    hold: Hold
    story: Story


class Reading:
    """Reads one namespace. Thread-safe. Every method raises Unavailable and NotMigrated."""

    def __init__(self, *, database: Database, fleet: Fleet, namespace: str) -> None:
        self._database = database
        self._fleet = fleet
        self._namespace = namespace

    def state(self, scope: Scope = GLOBAL) -> State:
        """What is ordered, with the metrics of `scope`. With Redis away: the last that is known, and never drained."""
        with self._database.transaction() as connection:
            truth, remembered = self._truth_and_memory(connection)
            tail = events.latest(connection, self._namespace)
        return State(progress=self._fleet.progress(truth, remembered, scope), latest=tuple(tail))

    def workers(self) -> list[WorkerView]:
        """Every worker, by nodename, with what its probe read."""
        with self._database.transaction() as connection:
            truth, remembered = self._truth_and_memory(connection)
        return self._fleet.with_resources(self._fleet.look(truth, remembered).workers)

    def preview(self, scope: Scope) -> Previewed:
        """What a hold on `scope` would touch (R-C6). Raises Unavailable with Redis away too: nothing can be told."""
        with self._database.transaction() as connection:
            truth, remembered = self._truth_and_memory(connection)
            known = runtimes.read(connection, self._namespace)
        seen = self._fleet.look(truth, remembered)
        if not seen.is_heard:
            raise Unavailable("Redis cannot be read: what runs is not known")
        usual_s = {name: runtime.usual_s for name, runtime in known.items() if runtime.usual_s is not None}
        depths, aside = self._fleet.depths(seen, scope), self._fleet.set_aside(seen, scope)
        return Previewed(
            preview=preview(seen.workers, scope, depths=depths, set_aside=aside, usual_s=usual_s, now=seen.at),
            held_by=tuple(truth.holds.causes_at(scope)),
            warnings=tuple(warnings(scope, seen.workers, strangers=seen.strangers(scope), unread=seen.unread)),
        )

    def hold(self, hold_id: UUID) -> HoldStory:
        """A hold, what ran and waited when it was placed, and what became of it (R-C2, R-C5). Raises NotFound."""
        with self._database.transaction() as connection:
            hold = hold_rows.find(connection, self._namespace, hold_id)
            if hold is None:
                raise NotFound(f"no hold has the id {hold_id}")
            return HoldStory(hold=hold, story=drain_rows.story(connection, self._namespace, hold_id))

    def _truth_and_memory(self, connection: Connection) -> tuple[Truth, Memory]:
        truth = namespaces.read(connection, self._namespace) or namespaces.lock(connection, self._namespace)
        return truth, self._fleet.recall(connection)
