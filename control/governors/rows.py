"""Governors in the database: rows to values and back, and the term in which they were judged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, RowMapping, select, text, update
from sqlalchemy.dialects.postgresql import insert

from sluicegate.control.store.tables import GOVERNOR_ROUNDS, GOVERNORS
from sluicegate.schemas.governors.decisions import Kind, Override

FILE = "file"
"""`managed_by` of what stands in the file that the control plane was started with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """One governor as it stands in the database. `spec` is JSON; `decision` and `memory` are the leader's."""

    kind: Kind
    name: str
    version: int
    spec: Mapping[str, Any]
    managed_by: str | None
    updated_at: datetime
    updated_by: str
    is_deleted: bool = False
    override: Override | None = None
    decision: Mapping[str, Any] | None = None
    memory: Mapping[str, Any] | None = None
    judged_at: datetime | None = None

    @property
    def key(self) -> tuple[Kind, str]:
        return self.kind, self.name

    def __str__(self) -> str:
        return f"{self.kind}/{self.name}"


def read(connection: Connection, namespace: str) -> list[Stored]:
    """All that there are, by kind and name."""
    column = GOVERNORS.c
    # A later version may have kinds that this one cannot judge.
    is_known = column.kind.in_([str(kind) for kind in Kind])
    statement = select(GOVERNORS).where(column.namespace == namespace, column.deleted_at.is_(None), is_known)
    return [_stored(row) for row in connection.execute(statement.order_by(column.kind, column.name)).mappings()]


def find(connection: Connection, namespace: str, kind: Kind, name: str) -> Stored | None:
    """The one with this name, also one that was deleted: its version goes on."""
    row = connection.execute(select(GOVERNORS).where(_is(namespace, kind, name))).mappings().first()
    return None if row is None else _stored(row)


def write(connection: Connection, namespace: str, governor: Stored, now: datetime) -> None:
    """Writes what somebody has said of a governor; what the leader knows of an earlier one of its name is dropped.

    The caller has the namespace's lock.
    """
    said = {
        "version": governor.version,
        "spec": dict(governor.spec),
        "managed_by": governor.managed_by,
        "updated_at": now,
        "updated_by": governor.updated_by,
        "deleted_at": now if governor.is_deleted else None,
        "override": None if governor.override is None else governor.override.to_wire(),
        "decision": None if governor.is_deleted else governor.decision,
        "memory": None if governor.is_deleted else governor.memory,
    }
    row = said | {"namespace": namespace, "kind": str(governor.kind), "name": governor.name, "created_at": now}
    keys = [GOVERNORS.c.namespace, GOVERNORS.c.kind, GOVERNORS.c.name]
    connection.execute(insert(GOVERNORS).values(row).on_conflict_do_update(index_elements=keys, set_=said))


def note_judged(
    connection: Connection, namespace: str, governor: Stored, decision: Mapping[str, Any], memory: object, now: datetime
) -> None:
    """Keeps the leader's last word about a governor, as long as what was judged is what stands there."""
    is_same = GOVERNORS.c.version == governor.version
    connection.execute(
        update(GOVERNORS)
        .where(_is(namespace, governor.kind, governor.name), is_same)
        .values(decision=dict(decision), memory=memory, judged_at=now)
    )


def set_override(connection: Connection, namespace: str, governor: Stored, override: Override | None) -> None:
    """Begins or ends an override. The caller has the namespace's lock."""
    connection.execute(
        update(GOVERNORS)
        .where(_is(namespace, governor.kind, governor.name))
        .values(override=None if override is None else override.to_wire())
    )


def is_granted(connection: Connection) -> bool:
    """May this role read governors? After an upgrade `db grant` is yet to come: until then there are none."""
    asked = text("select coalesce(has_table_privilege(to_regclass('governors'), 'select'), false)")
    return bool(connection.execute(asked).scalar_one())


def note_round(connection: Connection, namespace: str, term: int, now: datetime) -> None:
    """Says that all governors have been judged in this term."""
    said = {"term": term, "judged_at": now}
    statement = insert(GOVERNOR_ROUNDS).values(said | {"namespace": namespace})
    connection.execute(statement.on_conflict_do_update(index_elements=[GOVERNOR_ROUNDS.c.namespace], set_=said))


def last_round(connection: Connection, namespace: str) -> int | None:
    """The term whose leader has been through all governors; None: none has."""
    asked = select(GOVERNOR_ROUNDS.c.term).where(GOVERNOR_ROUNDS.c.namespace == namespace)
    found: int | None = connection.execute(asked).scalar_one_or_none()
    return found


def _is(namespace: str, kind: Kind, name: str) -> Any:
    column = GOVERNORS.c
    return (column.namespace == namespace) & (column.kind == str(kind)) & (column.name == name)


def _stored(row: RowMapping) -> Stored:
    return Stored(
        kind=Kind(row["kind"]),
        name=row["name"],
        version=row["version"],
        spec=row["spec"],
        managed_by=row["managed_by"],
        updated_at=row["updated_at"],
        updated_by=row["updated_by"],
        is_deleted=row["deleted_at"] is not None,
        override=None if row["override"] is None else Override.from_wire(row["override"]),
        decision=row["decision"],
        memory=row["memory"],
        judged_at=row["judged_at"],
    )
