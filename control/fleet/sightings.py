"""What was last heard of each worker, kept in the database: a wiped Redis must not look like rest."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, and_, delete, func, or_, select, update
from sqlalchemy.dialects.postgresql import insert

from sluicegate.control.store.tables import WORKERS
from sluicegate.schemas.beats import Beat
from sluicegate.schemas.progress import AHEAD_AT_MOST, Sighting, is_of_another_clock

NEVER = datetime.fromtimestamp(0, UTC)
"""When the bus says that something was seen whose time is no time, or has not come."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Remembered:
    """A worker's row: its last beat, and whether an operator said to forget it."""

    sighting: Sighting
    is_forgotten: bool


def read(connection: Connection, namespace: str) -> dict[str, Remembered]:
    """Every worker that was ever heard of, by nodename."""
    column = WORKERS.c
    rows = connection.execute(
        select(column.nodename, column.beat, column.last_seen_at, column.forgotten_at).where(
            column.namespace == namespace
        )
    )
    return {
        row.nodename: Remembered(
            sighting=Sighting(beat=_beat(row.beat), seen_at=row.last_seen_at),
            is_forgotten=row.forgotten_at is not None,
        )
        for row in rows
    }


def busy(connection: Connection, namespace: str) -> dict[str, Beat]:
    """The last beat of each worker that was running something then, by nodename."""
    column = WORKERS.c
    is_busy = func.jsonb_array_length(column.beat["running"]) > 0
    rows = connection.execute(select(column.nodename, column.beat).where(column.namespace == namespace, is_busy))
    return {row.nodename: _beat(row.beat) for row in rows}


def is_newer(seen_at: datetime, known_at: datetime, now: datetime) -> bool:
    """Does what was seen at `seen_at` replace what is known from `known_at`? All by the clock that says `now`."""
    return seen_at > known_at or (is_of_another_clock(known_at, now) and seen_at > NEVER)


def fold(connection: Connection, namespace: str, sightings: Iterable[Sighting], now: datetime) -> None:
    """Remembers what is newer than what is known (`is_newer`). A worker that was forgotten and beats again is back."""
    rows = [
        {
            "namespace": namespace,
            "nodename": sighting.beat.nodename,
            "incarnation": sighting.beat.incarnation,
            "beat": sighting.beat.to_wire(),
            "last_seen_at": sighting.seen_at,
        }
        # In one order, so that two replicas that fold at once do not lock each other out.
        for sighting in sorted(sightings, key=lambda seen: seen.beat.nodename)
    ]
    if not rows:
        return
    new = insert(WORKERS)
    changed: Mapping[str, Any] = {
        "incarnation": new.excluded.incarnation,
        "beat": new.excluded.beat,
        "last_seen_at": new.excluded.last_seen_at,
        "forgotten_at": None,
        "forgotten_by": None,
        "forgotten_reason": None,
    }
    connection.execute(
        new.on_conflict_do_update(
            index_elements=[WORKERS.c.namespace, WORKERS.c.nodename],
            set_=changed,
            where=or_(
                WORKERS.c.last_seen_at < new.excluded.last_seen_at,
                and_(WORKERS.c.last_seen_at > now + AHEAD_AT_MOST, new.excluded.last_seen_at > NEVER),
            ),
        ),
        rows,
    )


def forget(connection: Connection, namespace: str, nodename: str, *, by: str, reason: str, now: datetime) -> None:
    """Marks the worker as forgotten until it beats again."""
    connection.execute(
        update(WORKERS)
        .where(WORKERS.c.namespace == namespace, WORKERS.c.nodename == nodename)
        .values(forgotten_at=now, forgotten_by=by, forgotten_reason=reason)
    )


def purge(connection: Connection, before: datetime) -> None:
    """Removes the rows of workers that said goodbye or were forgotten, and were not seen since `before`."""
    said_goodbye = WORKERS.c.beat["goodbye"].as_boolean()
    is_done = or_(said_goodbye, WORKERS.c.forgotten_at.is_not(None))
    connection.execute(delete(WORKERS).where(and_(is_done, WORKERS.c.last_seen_at < before)))


def _beat(wire: Mapping[str, Any]) -> Beat:
    return Beat.decode(json.dumps(wire).encode())
