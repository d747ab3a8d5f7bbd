"""Terms of leadership, as rows of `tables.LEADERS`: read under a lock, and checked before a leader's writes count."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Select, select, update
from sqlalchemy.dialects.postgresql import insert

from sluicegate.control.store.tables import LEADERS
from sluicegate.schemas.errors import SluicegateError

_NEVER = datetime.fromtimestamp(0, UTC)


class Deposed(SluicegateError):
    """A write of a term that has ended: nothing of its transaction is stored."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Term:
    """The present term of a fleet. `replica` None: its leader gave it up; number 0: nobody was ever elected."""

    number: int
    replica: UUID | None
    leased_until: datetime


def read(connection: Connection, namespace: str) -> Term:
    """The present term, for who waits for nobody: it may have changed by the time that it is looked at."""
    row = connection.execute(_present(namespace)).first()
    if row is None:
        return Term(number=0, replica=None, leased_until=_NEVER)
    return Term(number=row.term, replica=row.replica, leased_until=row.leased_until)


def _present(namespace: str) -> Select[tuple[Any, ...]]:
    column = LEADERS.c
    return select(column.term, column.replica, column.leased_until).where(column.namespace == namespace)


def lock(connection: Connection, namespace: str) -> Term:
    """The present term; whoever else wants to lock or change it waits until the transaction ends."""
    statement = _present(namespace).with_for_update()
    row = connection.execute(statement).first()
    if row is None:
        first = {"namespace": namespace, "term": 0, "replica": None, "leased_until": _NEVER}
        connection.execute(insert(LEADERS).values(first).on_conflict_do_nothing())
        row = connection.execute(statement).one()
    return Term(number=row.term, replica=row.replica, leased_until=row.leased_until)


def store(connection: Connection, namespace: str, term: Term) -> None:
    """Writes what becomes of the term that the caller has `lock`ed."""
    connection.execute(
        update(LEADERS)
        .where(LEADERS.c.namespace == namespace)
        .values(term=term.number, replica=term.replica, leased_until=term.leased_until)
    )


def check(connection: Connection, namespace: str, number: int | None, replica: UUID) -> None:
    """Raises Deposed where `number` is not the term of `replica` any more; else it stays so until the transaction ends.

    To be asked last, right before the commit: an election waits for the lock that this takes.
    """
    column = LEADERS.c
    is_ours = (column.namespace == namespace) & (column.term == number) & (column.replica == replica)
    if number is None:
        raise Deposed("nothing is stored here but in a leader's turn")
    if connection.execute(select(column.term).where(is_ours).with_for_update(read=True)).first() is None:
        raise Deposed(f"term {number} has ended: another replica leads")
