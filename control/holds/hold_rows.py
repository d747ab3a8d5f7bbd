"""Holds in the database: rows to `schemas.holds.Hold` and back."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, select
from sqlalchemy.dialects.postgresql import insert

from sluicegate.control.store.tables import HOLDS
from sluicegate.schemas.holds.hold import Cause, Hold, Then
from sluicegate.schemas.holds.ramps import Ramp
from sluicegate.schemas.modes import Mode
from sluicegate.schemas.scopes import Scope


def to_row(hold: Hold) -> dict[str, Any]:
    """The columns that `hold` itself fills."""
    return {
        "id": hold.id,
        "scope": str(hold.scope),
        "cause": str(hold.cause),
        "source": hold.source,
        "mode": hold.mode.word,
        "reason": hold.reason,
        "actor": hold.actor,
        "created_at": hold.created_at,
        "expires_at": hold.expires_at,
        "deadline": hold.deadline,
        "then": None if hold.then is None else str(hold.then),
        "escalated_at": hold.escalated_at,
        "ramp": None if hold.ramp is None else hold.ramp.to_wire(),
        "released_at": hold.released_at,
        "released_by": hold.released_by,
        "released_reason": hold.released_reason,
    }


def from_row(row: Mapping[str, Any]) -> Hold:
    """The hold that a row of `tables.HOLDS` is."""
    return Hold(
        id=row["id"],
        scope=Scope.parse(row["scope"]),
        cause=Cause(row["cause"]),
        source=row["source"],
        mode=Mode.of_hold(row["mode"]),
        reason=row["reason"],
        actor=row["actor"],
        created_at=row["created_at"],
        expires_at=row["expires_at"],
        deadline=row["deadline"],
        then=None if row["then"] is None else Then(row["then"]),
        escalated_at=row["escalated_at"],
        ramp=None if row["ramp"] is None else Ramp.from_wire(row["ramp"]),
        released_at=row["released_at"],
        released_by=row["released_by"],
        released_reason=row["released_reason"],
    )


def find(connection: Connection, namespace: str, hold_id: UUID) -> Hold | None:
    """The hold with this id, in force or released; None where this namespace never had it."""
    row = connection.execute(select(HOLDS).where(HOLDS.c.namespace == namespace, HOLDS.c.id == hold_id)).first()
    return None if row is None else from_row(row._asdict())


def store(connection: Connection, namespace: str, hold: Hold, now: datetime) -> None:
    """Writes `hold` as it is now, over its old row if it has one. The caller has the namespace's lock."""
    row = to_row(hold) | {"namespace": namespace, "updated_at": now}
    connection.execute(insert(HOLDS).values(row).on_conflict_do_update(index_elements=[HOLDS.c.id], set_=row))
