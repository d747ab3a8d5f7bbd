"""The drains: for each version of each hold, how far its scope has got. Rows of `tables.DRAINS`.

Whoever writes here has the namespace's lock, so each end is reached once, however many replicas look.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, RowMapping, and_, insert, null, select, update

from sluicegate.control.store.tables import DRAINS, HOLDS
from sluicegate.schemas.holds.at_pause import AtPause
from sluicegate.schemas.holds.drains import Ending, Fate, Followed
from sluicegate.schemas.holds.receipts import Receipt


@dataclass(frozen=True, slots=True, kw_only=True)
class Drain:
    """One version of a hold on its way. `at_pause` None: the fleet was not looked at since the hold was placed."""

    hold_id: UUID
    version: int
    begun_at: datetime
    tasks: tuple[Followed, ...]
    at_pause: AtPause | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """How one version of a hold got on; `receipt` once it has drained."""

    version: int
    begun_at: datetime
    ended_at: datetime | None
    ending: str | None
    receipt: Receipt | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """What was running and waiting when a hold was placed, and what became of it, version by version."""

    at_pause: AtPause | None
    tasks: tuple[Followed, ...]
    drains: tuple[Told, ...]


def begin(connection: Connection, namespace: str, hold_id: UUID, version: int, now: datetime) -> None:
    """Follows this version of the hold from now on, from what was known of the one before."""
    end(connection, hold_id, Ending.ALTERED, now)
    column = DRAINS.c
    last = select(column.begun_at, column.at_pause, column.tasks).where(column.hold_id == hold_id)
    row = connection.execute(last.order_by(column.version.desc()).limit(1)).first()
    connection.execute(
        insert(DRAINS).values(
            hold_id=hold_id,
            version=version,
            namespace=namespace,
            begun_at=now if row is None else row.begun_at,
            at_pause=null() if row is None or row.at_pause is None else row.at_pause,
            tasks=[] if row is None else row.tasks,
        )
    )


def end(
    connection: Connection,
    hold_id: UUID,
    ending: Ending,
    now: datetime,
    receipt: Receipt | None = None,
) -> None:
    """Nobody follows this hold's present version any further; nothing where nobody did."""
    connection.execute(
        update(DRAINS)
        .where(DRAINS.c.hold_id == hold_id, DRAINS.c.ended_at.is_(None))
        .values(ended_at=now, ending=str(ending), receipt=null() if receipt is None else receipt.to_wire())
    )


def under_way(connection: Connection, namespace: str) -> list[Drain]:
    """What is to be followed."""
    rows = connection.execute(select(DRAINS).where(DRAINS.c.namespace == namespace, DRAINS.c.ended_at.is_(None)))
    return [_from_row(row) for row in rows.mappings()]


def running(connection: Connection, hold_id: UUID) -> list[dict[str, Any]]:
    """The tasks that a hold waits for, as far as is known: who runs what."""
    column = DRAINS.c
    tasks = connection.execute(
        select(column.tasks).where(column.hold_id == hold_id).order_by(column.version.desc()).limit(1)
    ).scalar()
    return [
        {name: task[name] for name in ("nodename", "id", "name", "startedAt", "waiting")}
        for task in tasks or []
        if task["fate"] == Fate.RUNNING
    ]


def drained(connection: Connection, namespace: str) -> frozenset[UUID]:
    """The holds in force whose present version has drained."""
    column = DRAINS.c
    is_in_force = and_(HOLDS.c.id == column.hold_id, HOLDS.c.released_at.is_(None))
    newest = select(column.hold_id, column.ending).join(HOLDS, is_in_force).where(column.namespace == namespace)
    endings = {row.hold_id: row.ending for row in connection.execute(newest.order_by(column.version))}
    return frozenset(hold_id for hold_id, ending in endings.items() if ending == Ending.DRAINED)


def keep(connection: Connection, drain: Drain, tasks: Sequence[Followed], at_pause: AtPause | None) -> None:
    """What is known of it now."""
    connection.execute(
        update(DRAINS)
        .where(DRAINS.c.hold_id == drain.hold_id, DRAINS.c.version == drain.version)
        .values(tasks=[one.to_wire() for one in tasks], at_pause=null() if at_pause is None else at_pause.to_wire())
    )


def story(connection: Connection, namespace: str, hold_id: UUID) -> Story:
    """What became of the hold; empty where nobody followed it."""
    column = DRAINS.c
    rows = connection.execute(
        select(DRAINS).where(column.namespace == namespace, column.hold_id == hold_id).order_by(column.version)
    )
    found = rows.mappings().all()
    last = _from_row(found[-1]) if found else None
    return Story(
        at_pause=None if last is None else last.at_pause,
        tasks=() if last is None else last.tasks,
        drains=tuple(
            Told(
                version=row["version"],
                begun_at=row["begun_at"],
                ended_at=row["ended_at"],
                ending=row["ending"],
                receipt=None if row["receipt"] is None else Receipt.from_wire(row["receipt"]),
            )
            for row in found
        ),
    )


def _from_row(row: RowMapping) -> Drain:
    return Drain(
        hold_id=row["hold_id"],
        version=row["version"],
        begun_at=row["begun_at"],
        tasks=tuple(Followed.from_wire(task) for task in row["tasks"]),
        at_pause=None if row["at_pause"] is None else AtPause.from_wire(row["at_pause"]),
    )
