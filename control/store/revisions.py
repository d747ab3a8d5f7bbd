"""The revision of a database, and whether code of another revision can work with it (docs/upgrades.md)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, text

from sluicegate.schemas.errors import DatabaseTooNew, NotMigrated

_TABLES = text("select to_regclass('alembic_version') is not null as ours, to_regclass('compatibility') is not null")
_REVISION = text("select version_num, cast(null as text) as usable_from from alembic_version")
_BOTH = text("select version_num, (select usable_from from compatibility) as usable_from from alembic_version")


@dataclass(frozen=True, slots=True, kw_only=True)
class Revision:
    """What a database says of its tables. `number` None: it has none of ours.

    `usable_from`: the oldest code revision that can work with them; None where that is not said (before 0006, which
    no other code than its own can use).
    """

    number: str | None
    usable_from: str | None = None


def read(connection: Connection) -> Revision:
    """The revision that the database has now."""
    # Asked for first: a statement that fails would end the caller's transaction.
    is_ours, says_from_where = connection.execute(_TABLES).one()
    row = connection.execute(_BOTH if says_from_where else _REVISION).first() if is_ours else None
    return Revision(number=None) if row is None else Revision(number=row.version_num, usable_from=row.usable_from)


def is_newer(found: Revision, known: Sequence[str]) -> bool:
    """Was the database brought to a revision that came after this code? `known`: the code's, oldest first."""
    return found.number is not None and found.number not in known


def is_usable_by(code: str, *, reached: str | None, usable_from: str | None, known: Sequence[str]) -> bool:
    """Can code of the revision `code` work with a database at `reached`, all three being in `known`?"""
    if reached is None or usable_from is None:
        return False
    return known.index(usable_from) <= known.index(code) <= known.index(reached)


def refuse_unusable(found: Revision, known: Sequence[str]) -> None:
    """Raises NotMigrated or DatabaseTooNew where this code, whose revisions are `known`, cannot work with `found`.

    What is newer is usable where it says that it can be used from a revision on that this code has.
    """
    own = known[-1]
    if found.number == own or (is_newer(found, known) and found.usable_from in known):
        return
    if found.number is None:
        raise NotMigrated("the database has no sluicegate tables: run `sluicegate db upgrade`")
    if found.number in known:
        raise NotMigrated(
            f"the database is at revision {found.number}, this version needs {own}: run `sluicegate db upgrade`"
        )
    raise DatabaseTooNew(
        f"the database is at revision {found.number}, which can be used from {found.usable_from or found.number} on,"
        f" and this version is of {own}: upgrade this control plane (docs/upgrades.md tells the way back)"
    )
