"""The control planes that run, as rows of `tables.REPLICAS`: each says every second that it is there."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import Connection, delete, func, select, text
from sqlalchemy.dialects.postgresql import insert

from sluicegate.control.store.tables import REPLICAS

ALIVE_FOR = timedelta(seconds=10)
"""A replica that has said nothing for so long has ended, or can do nothing."""
KEPT_FOR = timedelta(hours=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Replica:
    """One life of a control plane's process. `code_revision`: the newest revision that its code knows."""

    id: UUID
    namespace: str
    code_revision: str

    def __str__(self) -> str:
        return f"{self.id} (fleet {self.namespace}, code of revision {self.code_revision})"


def announce(connection: Connection, replica: Replica, now: datetime) -> None:
    """`replica` is there."""
    row = {
        "id": replica.id,
        "namespace": replica.namespace,
        "code_revision": replica.code_revision,
        "seen_at": now,
    }
    new = insert(REPLICAS).values(row)
    connection.execute(new.on_conflict_do_update(index_elements=[REPLICAS.c.id], set_={"seen_at": now}))


def withdraw(connection: Connection, replica: Replica) -> None:
    """`replica` stops in order."""
    connection.execute(delete(REPLICAS).where(REPLICAS.c.id == replica.id))


def purge(connection: Connection, now: datetime) -> None:
    """Lets go of those that ended long ago without a word."""
    connection.execute(delete(REPLICAS).where(REPLICAS.c.seen_at < now - KEPT_FOR))


def alive(connection: Connection) -> list[Replica]:
    """Those of all fleets that were seen lately; none where the database is older than the table."""
    if connection.execute(text("select to_regclass('replicas')")).scalar_one() is None:
        return []
    column = REPLICAS.c
    rows = connection.execute(
        select(column.id, column.namespace, column.code_revision)
        .where(column.seen_at > func.clock_timestamp() - ALIVE_FOR)
        .order_by(column.code_revision, column.id)
    )
    return [Replica(id=row.id, namespace=row.namespace, code_revision=row.code_revision) for row in rows]
