"""The audit: what was asked, by whom, and what came of it. Rows are only ever added."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from sqlalchemy import ColumnElement, Connection, RowMapping, func, insert, or_, select

from sluicegate.control.audit.bounds import bounded_details, bounded_text
from sluicegate.control.store.tables import CONTROL_EVENTS
from sluicegate.schemas.holds.hold import Hold
from sluicegate.schemas.snapshots import NOTHING, Edition

SYSTEM: Final = "sluicegate"
"""The actor of what nobody asked for: expiries, a new namespace, a bumped epoch."""

APPLIED, NOOP, REFUSED, DENIED = "applied", "noop", "refused", "denied"


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One thing to put on record. `version` only where this event made that version; `details` is JSON."""

    action: str
    outcome: str
    actor: str
    at: datetime
    edition: Edition = NOTHING
    version: int | None = None
    scope: str | None = None
    cause: str | None = None
    source: str | None = None
    mode: str | None = None
    reason: str | None = None
    hold_id: UUID | None = None
    details: Mapping[str, Any] = field(default_factory=dict)


def about(hold: Hold | None) -> dict[str, Any]:
    """The columns of an event that is about `hold`; none where it is about no hold."""
    if hold is None:
        return {}
    return {
        "scope": str(hold.scope),
        "cause": str(hold.cause),
        "source": hold.source,
        "mode": hold.mode.word,
        "hold_id": hold.id,
    }


def record(connection: Connection, namespace: str | None, event: Event) -> int:
    """Adds `event` and returns its id; `namespace` None for what concerns the whole database.

    What is too long is cut, and told by its hash (`bounds`). A trigger chains the event to the one before, under a lock
    on the whole chain that is held until the transaction ends. So whoever records takes the namespace's row first, and
    waits for no other's row after: two could else wait for each other.
    """
    row = {
        "namespace": namespace,
        "epoch": event.edition.epoch,
        "version": event.version,
        "action": event.action,
        "outcome": event.outcome,
        "scope": event.scope,
        "cause": event.cause,
        "source": event.source,
        "mode": event.mode,
        "reason": event.reason,
        "actor": event.actor,
        "hold_id": event.hold_id,
        "details": bounded_details(event.details),
        "created_at": event.at,
    }
    row = {name: bounded_text(value) if isinstance(value, str) else value for name, value in row.items()}
    added: int = connection.execute(insert(CONTROL_EVENTS).values(row).returning(CONTROL_EVENTS.c.id)).scalar_one()
    return added


@dataclass(frozen=True, slots=True, kw_only=True)
class Latest:
    """One of the newest events, as far as it stands beside every state."""

    id: int
    action: str
    mode: str | None
    reason: str | None
    actor: str
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """One event on record, under the id that it got."""

    id: int
    event: Event


def latest(connection: Connection, namespace: str, count: int = 5) -> list[Latest]:
    """The newest events of this namespace, the very newest first."""
    rows = connection.execute(
        select(CONTROL_EVENTS)
        .where(CONTROL_EVENTS.c.namespace == namespace)
        .order_by(CONTROL_EVENTS.c.id.desc())
        .limit(count)
    )
    return [
        Latest(
            id=row["id"],
            action=row["action"],
            mode=row["mode"],
            reason=row["reason"],
            actor=row["actor"],
            at=row["created_at"],
        )
        for row in rows.mappings()
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """Which events to list (R-C9); None does not filter. `since` is included, `until` is not."""

    since: datetime | None = None
    until: datetime | None = None
    actor: str | None = None
    action: str | None = None
    cause: str | None = None
    scope: str | None = None
    worker: str | None = None
    limit: int = 100
    offset: int = 0


def search(connection: Connection, namespace: str, query: Query) -> tuple[list[Recorded], int]:
    """The events that match, newest first; and how many match in all."""
    matching = _conditions(namespace, query)
    total = connection.execute(select(func.count()).select_from(CONTROL_EVENTS).where(*matching)).scalar_one()
    rows = connection.execute(
        select(CONTROL_EVENTS)
        .where(*matching)
        .order_by(CONTROL_EVENTS.c.id.desc())
        .limit(query.limit)
        .offset(query.offset)
    )
    return [_recorded(row) for row in rows.mappings()], total


def _conditions(namespace: str, query: Query) -> Sequence[ColumnElement[bool]]:
    column = CONTROL_EVENTS.c
    # What concerns the whole database (tokens) is part of every fleet's story.
    conditions: list[ColumnElement[bool]] = [or_(column.namespace == namespace, column.namespace.is_(None))]
    if query.since is not None:
        conditions.append(column.created_at >= query.since)
    if query.until is not None:
        conditions.append(column.created_at < query.until)
    for name in ("actor", "action", "cause", "scope"):
        wanted = getattr(query, name)
        if wanted is not None:
            conditions.append(column[name] == wanted)
    if query.worker is not None:
        named = column.details["worker"].astext == query.worker
        conditions.append(or_(named, column.scope == f"worker:{query.worker}"))
    return conditions


def _recorded(row: RowMapping) -> Recorded:
    # The version is null where the event made none; its edition has then none to tell either.
    event = Event(
        action=row["action"],
        outcome=row["outcome"],
        actor=row["actor"],
        at=row["created_at"],
        edition=Edition(row["epoch"], row["version"] or 0),
        version=row["version"],
        scope=row["scope"],
        cause=row["cause"],
        source=row["source"],
        mode=row["mode"],
        reason=row["reason"],
        hold_id=row["hold_id"],
        details=row["details"],
    )
    return Recorded(id=row["id"], event=event)
