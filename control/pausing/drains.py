"""Follows what each hold stops until its scope has drained, and then puts the receipt on record, once (R-C2, R-C5)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection

from sluicegate.control.audit import events
from sluicegate.control.fleet.sightings import Memory
from sluicegate.control.fleet.view import Fleet, Seen
from sluicegate.control.holds import drain_rows, namespaces
from sluicegate.control.holds.drain_rows import Drain
from sluicegate.control.holds.namespaces import Truth
from sluicegate.control.links.broker import SOURCE
from sluicegate.control.store.database import Database
from sluicegate.schemas.holds.at_pause import AtPause, fleet_at_pause
from sluicegate.schemas.holds.drains import Ending, Followed, conclude, ending_of, follow
from sluicegate.schemas.holds.hold import Hold
from sluicegate.schemas.holds.receipts import Receipt, receipt
from sluicegate.schemas.scopes import Scope
from sluicegate.schemas.signed_beats import Word


@dataclass(frozen=True, slots=True, kw_only=True)
class _Step:
    """What one look says about one drain. `ending` None: it goes on."""

    tasks: tuple[Followed, ...]
    at_pause: AtPause | None
    ending: Ending | None


class Draining:
    """Looks at the fleet for every drain that is under way. Thread-safe; several replicas may run at once."""

    def __init__(self, *, database: Database, fleet: Fleet, namespace: str) -> None:
        self._database = database
        self._fleet = fleet
        self._namespace = namespace

    def note(self) -> None:
        """One look that ends nothing: who runs what now, for the drains that begin (R-C2). Raises Unavailable."""
        self._look(ends=False)

    def follow(self) -> int:
        """One look; how many drains came to their end by it. Raises Unavailable."""
        return self._look(ends=True)

    def _look(self, *, ends: bool) -> int:
        with self._database.transaction() as connection:
            under_way = drain_rows.under_way(connection, self._namespace)
            truth = namespaces.read(connection, self._namespace) if under_way else None
            remembered = self._fleet.recall(connection) if under_way else Memory()
        if truth is None:
            return 0
        seen = self._fleet.look(truth, remembered)
        if not seen.is_heard:
            return 0  # what was last known is no evidence that anything ended
        holds = {hold.id: hold for hold in truth.holds.active}
        steps = {
            drain.hold_id: self._step(drain, holds[drain.hold_id], seen, ends=ends)
            for drain in under_way
            if drain.hold_id in holds
        }
        if all(_says_nothing_new(drain, steps.get(drain.hold_id)) for drain in under_way):
            return 0
        with self._database.transaction() as connection:
            now = namespaces.lock(connection, self._namespace)
            if now.edition != truth.edition:
                return 0  # the look was at another order: the next one tells
            return sum(
                self._take(connection, now, holds[drain.hold_id], drain, seen, steps[drain.hold_id])
                for drain in drain_rows.under_way(connection, self._namespace)
                if drain.hold_id in steps
            )

    def _step(self, drain: Drain, hold: Hold, seen: Seen, *, ends: bool) -> _Step:
        tasks = follow(drain.tasks, seen.workers, hold.scope, begun_at=drain.begun_at, forgotten=seen.forgotten)
        at_pause = drain.at_pause
        if at_pause is None:
            depths = self._fleet.depths(seen, hold.scope)
            at_pause = fleet_at_pause(seen.workers, hold.scope, depths, source=SOURCE, now=seen.at)
        ending = None
        # The broker is asked only where its answer can make the difference.
        if ends and ending_of(hold, seen.measure(hold.scope, queued=0)) is not None:
            ending = ending_of(hold, self._fleet.measure(seen, hold.scope))
        return _Step(tasks=tasks, at_pause=at_pause, ending=ending)

    def _take(self, connection: Connection, truth: Truth, hold: Hold, drain: Drain, seen: Seen, step: _Step) -> bool:
        # Another replica may have written since: go on from what is there, by the look that we had.
        tasks = follow(drain.tasks, seen.workers, hold.scope, begun_at=drain.begun_at, forgotten=seen.forgotten)
        if step.ending is None:
            drain_rows.keep(connection, drain, tasks, drain.at_pause or step.at_pause)
            return False
        tasks = conclude(tasks)
        drain_rows.keep(connection, drain, tasks, drain.at_pause or step.at_pause)
        made = receipt(
            tasks,
            [worker.beat.nodename for worker in seen.present_in(hold.scope)],
            version=drain.version,
            ending=step.ending,
            begun_at=drain.begun_at,
            now=truth.now,
            strangers=seen.strangers(hold.scope),
            words=_words(tasks, seen, hold.scope),
        )
        drain_rows.end(connection, hold.id, step.ending, truth.now, made)
        events.record(connection, self._namespace, _event(hold, truth, made, truth.now))
        return True


def _words(tasks: Iterable[Followed], seen: Seen, scope: Scope) -> list[Word]:
    """On what a receipt stands: who is there, and who told of what ran before it left."""
    told = {(one.nodename, one.incarnation) for one in tasks}
    present = seen.present_in(scope)
    left = [
        worker
        for worker in seen.workers
        if worker not in present and (worker.beat.nodename, worker.beat.incarnation) in told
    ]
    return [worker.sighting.word for worker in (*present, *left)]


def _says_nothing_new(drain: Drain, step: _Step | None) -> bool:
    return step is None or (step.ending is None and (step.tasks, step.at_pause) == (drain.tasks, drain.at_pause))


def _event(hold: Hold, truth: Truth, made: Receipt, now: datetime) -> events.Event:
    return events.Event(
        action="drain_completed",
        outcome=events.APPLIED,
        actor=events.SYSTEM,
        at=now,
        edition=truth.edition,
        reason=hold.reason,
        details=made.to_wire(),
        **events.about(hold),
    )
