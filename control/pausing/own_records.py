"""The holds that workers place on themselves, on record: placed and released by what they tell, cleared by operators.

The record is not what holds: a worker is held by itself, before it tells of it. So a record may come late, and what is
on record twice or not at all would be wrong in words alone. What is to be done, `schemas.health.recording` decides from
the truth under the row lock; what was done by a turn that was cut off is not done again by the next.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import Connection, func, select

from sluicegate.control.audit import events
from sluicegate.control.fleet.view import Fleet, Seen
from sluicegate.control.holds import namespaces
from sluicegate.control.holds.namespaces import Truth
from sluicegate.control.publishing.publisher import Publisher
from sluicegate.control.store.database import Database
from sluicegate.control.store.tables import CONTROL_EVENTS, DRAINS, HOLDS
from sluicegate.schemas.beats import Beat, WorkerState
from sluicegate.schemas.errors import NotFound
from sluicegate.schemas.health.local_holds import actor_of, is_cleared, owner_of
from sluicegate.schemas.health.recording import STORM_WITHIN, Step, Told, is_storm, own_records, steps, told_by
from sluicegate.schemas.holds.hold import MAX_REASON_CHARS, Cause, Hold, check_reason
from sluicegate.schemas.holds.transitions import Change, place, release
from sluicegate.schemas.names import host_of
from sluicegate.schemas.scopes import ScopeKind
from sluicegate.schemas.snapshots import MAX_ORDERED_BYTES, Edition, most_bytes
from sluicegate.schemas.times import to_wire

IN_ONE_TURN = 50
"""So many changes are made in one transaction, and orders wait for no more."""
MOST_BYTES = MAX_ORDERED_BYTES // 2
"""How large records of own holds may make a state: whoever forges heartbeats must leave room for orders."""
CLEARED_FOR = timedelta(days=1)
"""How long a worker that is away may take to hear that its hold was cleared."""
STORM_TOLD_EVERY = timedelta(minutes=15)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClearedHolds:
    """What was cleared: the holds as they stand on record until their worker lets go. `published`: is it in Redis?"""

    worker: str
    holds: tuple[Hold, ...]
    published: bool


class OwnRecords:
    """Of one namespace. Thread-safe; `follow` is for the leader alone."""

    def __init__(self, *, database: Database, fleet: Fleet, publisher: Publisher, namespace: str) -> None:
        self._database = database
        self._fleet = fleet
        self._publisher = publisher
        self._namespace = namespace
        self._shadows: set[tuple[str, str, datetime]] = set()

    def follow(self, beats: Iterable[Beat]) -> int:
        """A turn, after `beats` were heard; how many changes it made. Raises Unavailable."""
        with self._database.transaction() as connection:
            truth = namespaces.read(connection, self._namespace)
            is_due = truth is not None and (own_records(truth.holds.active) or any(one.local_holds for one in beats))
            remembered = self._fleet.recall(connection) if is_due else None
        if truth is None or remembered is None:
            return 0
        seen = self._fleet.look(truth, remembered)
        if not seen.is_heard:
            return 0  # the last known words are no evidence of anything
        self._note_shadows(seen)
        if not self._due(truth, seen):
            return 0
        with self._database.transaction() as connection:
            truth = namespaces.lock(connection, self._namespace)
            count = 0
            for step in _steps(connection, truth, seen)[:IN_ONE_TURN]:
                after = self._take(connection, truth, step)
                count += after is not truth
                truth = after
            if count:
                self._note_storm(connection, truth, seen)
        if count:
            self._publisher.publish_now(truth.edition)
        return count

    def _due(self, truth: Truth, seen: Seen) -> bool:
        """Without the lock: nearly always there is nothing to do, and then nobody is to wait."""
        with self._database.transaction() as connection:
            return bool(_steps(connection, truth, seen))

    def _take(self, connection: Connection, truth: Truth, step: Step) -> Truth:
        change = _change(truth, step)
        if change.is_noop or change.hold is None:
            return truth
        if step.told is not None and most_bytes(self._namespace, change.holds) > MOST_BYTES:
            self._publisher.alarm("unrecorded", "so many workers hold themselves that not all of it is on record")
            return truth
        return namespaces.store(connection, truth, change, _event(truth, change, step))

    def _note_shadows(self, seen: Seen) -> None:
        """What a rule that only warns would hold, once each time."""
        told = [one for by in told_by(seen.workers, is_shadow=True).values() for one in by]
        present = {(worker.beat.nodename, hold.rule, hold.since): (hold, worker) for hold, worker in told}
        self._shadows &= present.keys()
        new = [key for key in present if key not in self._shadows][:IN_ONE_TURN]
        if not new:
            return
        with self._database.transaction() as connection:
            truth = namespaces.lock(connection, self._namespace)
            for key in new:
                event = _shadow_event(truth, present[key])
                if not _is_on_record(connection, self._namespace, event):
                    events.record(connection, self._namespace, event)
        self._shadows |= set(new)

    def _note_storm(self, connection: Connection, truth: Truth, seen: Seen) -> None:
        host_by_name = {worker.beat.nodename: worker.beat.host for worker in seen.workers}
        there = {worker.beat.host for worker in seen.workers if worker.state is not WorkerState.GONE}
        newly = sorted(_newly_held(connection, self._namespace, truth.now - STORM_WITHIN, host_by_name))
        if not is_storm(len(newly), len(there)):
            return
        is_told = _last(connection, self._namespace, "health_storm", truth.now - STORM_TOLD_EVERY)
        if is_told:
            return
        said = f"{len(newly)} of {len(there)} hosts hold themselves for their health since {STORM_WITHIN}"
        self._publisher.alarm("health_storm", f"{said}: is it the hosts, or what judges them?")
        storm = events.Event(
            action="health_storm",
            outcome=events.APPLIED,
            actor=events.SYSTEM,
            at=truth.now,
            edition=truth.edition,
            reason=said,
            details={"newlyHeldHosts": newly[:IN_ONE_TURN], "newlyHeldCount": len(newly), "hostCount": len(there)},
        )
        events.record(connection, self._namespace, storm)

    def clear(self, worker: str, *, rule: str | None, reason: object, actor: str) -> ClearedHolds:
        """Has `worker` let go of what it holds itself for (of `rule`, or of all), and judge anew; an audited act.

        The record says so until the worker has done it, CLEARED_FOR at most. Raises InvalidInput (reason), NotFound
        where nothing is known of the worker, Unavailable.
        """
        why = check_reason(reason)
        with self._database.transaction() as connection:
            truth = namespaces.lock(connection, self._namespace)
            remembered = self._fleet.recall(connection)
        seen = self._fleet.look(truth, remembered)
        mine = [view for view in seen.workers if view.beat.nodename == worker]
        with self._database.transaction() as connection:
            truth = namespaces.lock(connection, self._namespace)
            recorded = {hold.key: hold for hold in own_records(truth.holds.active) if owner_of(hold) == worker}
            told = {key: _wish(by[0], truth) for key, by in told_by(mine).items() if truth.holds.find(key) is None}
            if not mine and not recorded:
                raise NotFound(f"no worker is known as {worker!r}")
            found = [hold for hold in (told | recorded).values() if rule in (None, hold.source)]
            cleared = []
            for hold in found:
                truth, after = self._mark(connection, truth, hold, why, actor)
                cleared.append(after)
            if not cleared:
                events.record(connection, self._namespace, _nothing(truth, worker, rule, why, actor))
        return ClearedHolds(worker=worker, holds=tuple(cleared), published=self._publisher.publish_now(truth.edition))

    def _mark(self, connection: Connection, truth: Truth, hold: Hold, why: str, actor: str) -> tuple[Truth, Hold]:
        said = f"cleared by {actor}: {why} (was: {hold.reason})"[:MAX_REASON_CHARS]
        change = place(truth.holds, replace(hold, expires_at=truth.now + CLEARED_FOR, reason=said))
        event = events.Event(
            action="health_cleared",
            outcome=events.APPLIED,
            actor=actor,
            at=truth.now,
            edition=Edition(truth.epoch, change.holds.version),
            version=change.holds.version,
            reason=why,
            details={"worker": owner_of(hold), "was": hold.reason},
            **events.about(change.hold),
        )
        return namespaces.store(connection, truth, change, event), change.hold or hold


def _steps(connection: Connection, truth: Truth, seen: Seen) -> list[Step]:
    versions = _versions(connection, [hold.id for hold in own_records(truth.holds.active)])
    return steps(truth.holds, truth.epoch, versions, seen.workers, now=seen.at, are_all_known=not seen.unread)


def _versions(connection: Connection, ids: Sequence[UUID]) -> dict[UUID, int]:
    """At which version each hold became what it is."""
    column = DRAINS.c
    query = select(column.hold_id, func.max(column.version)).where(column.hold_id.in_(ids)).group_by(column.hold_id)
    return {row[0]: row[1] for row in connection.execute(query)} if ids else {}


def _change(truth: Truth, step: Step) -> Change:
    if step.told is not None:
        return place(truth.holds, _wish(step.told, truth))
    assert step.hold is not None
    return release(truth.holds, step.hold.key, actor=actor_of(owner_of(step.hold)), reason=step.why, now=truth.now)


def _wish(told: Told, truth: Truth) -> Hold:
    local, worker = told
    return Hold(
        id=uuid4(),
        scope=local.scope,
        mode=local.mode,
        reason=local.reason,
        actor=actor_of(worker.beat.nodename),
        created_at=truth.now,
        cause=str(local.cause),
        source=local.rule,
    )


def _event(truth: Truth, change: Change, step: Step) -> events.Event:
    hold = change.hold
    assert hold is not None
    details: dict[str, Any] = {"change": str(change.kind), "worker": owner_of(hold)}
    if step.told is not None:
        details |= {"heldSince": to_wire(step.told[0].since), "numbers": step.told[0].numbers}
    elif step.hold is not None and is_cleared(step.hold):
        details["cleared"] = True
    return events.Event(
        action="own_hold_released" if step.told is None else "own_hold_placed",
        outcome=events.APPLIED,
        actor=actor_of(owner_of(hold)),
        at=truth.now,
        edition=Edition(truth.epoch, change.holds.version),
        version=change.holds.version,
        reason=step.why or hold.reason,
        details=details,
        **events.about(hold),
    )


def _shadow_event(truth: Truth, told: Told) -> events.Event:
    hold, worker = told
    return events.Event(
        action="would_hold",
        outcome=events.NOOP,
        actor=actor_of(worker.beat.nodename),
        at=truth.now,
        edition=truth.edition,
        scope=str(hold.scope),
        cause=str(hold.cause),
        source=hold.rule,
        mode=hold.mode.word,
        reason=hold.reason,
        details={"worker": worker.beat.nodename, "heldSince": to_wire(hold.since), "numbers": hold.numbers},
    )


def _nothing(truth: Truth, worker: str, rule: str | None, why: str, actor: str) -> events.Event:
    return events.Event(
        action="health_cleared",
        outcome=events.NOOP,
        actor=actor,
        at=truth.now,
        edition=truth.edition,
        reason=why,
        details={"worker": worker, "rule": rule},
    )


def _is_on_record(connection: Connection, namespace: str, event: events.Event) -> bool:
    """Was it said before, by another leader perhaps?"""
    column = CONTROL_EVENTS.c
    query = select(column.id).where(
        column.namespace == namespace,
        column.action == event.action,
        column.scope == event.scope,
        column.source == event.source,
        column.details["heldSince"].astext == event.details["heldSince"],
    )
    return connection.execute(query.limit(1)).first() is not None


def _last(connection: Connection, namespace: str, action: str, since: datetime) -> bool:
    column = CONTROL_EVENTS.c
    is_it = (column.namespace == namespace) & (column.action == action) & (column.created_at >= since)
    return connection.execute(select(column.id).where(is_it).limit(1)).first() is not None


def _newly_held(connection: Connection, namespace: str, since: datetime, host_by_name: dict[str, str]) -> set[str]:
    """The hosts of which a worker has held itself for its health since then, released or not."""
    column = HOLDS.c
    query = select(column.scope).where(
        column.namespace == namespace, column.cause == str(Cause.HEALTH), column.created_at >= since
    )
    hosts = set()
    for scope in connection.execute(query).scalars():
        kind, _, name = scope.partition(":")
        if kind == ScopeKind.HOST:
            hosts.add(name)
        elif kind == ScopeKind.WORKER:
            hosts.add(host_by_name.get(name) or host_of(name))
    return hosts
