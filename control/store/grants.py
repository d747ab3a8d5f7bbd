"""What the control plane's own role may do in the database: as little as it can do its work with.

The tables belong to another role, which brings them to a revision and makes tokens. The control plane's can add
events and read them; it can neither change nor remove one, nor switch off what guards them, nor make a token.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from sqlalchemy import Connection, text

from sluicegate.control.store.connection import connected
from sluicegate.control.store.tables import CONTROL_EVENTS, PUBLICATIONS
from sluicegate.schemas.errors import InvalidInput, NotFound, Refused

_BY_TRIGGER = frozenset({"id", "position", "previous_hash", "hash"})
_CHOSEN = ", ".join(column.name for column in CONTROL_EVENTS.columns if column.name not in _BY_TRIGGER)

TABLES: Final[Mapping[str, str]] = {
    "alembic_version": "select",
    "compatibility": "select",
    "leaders": "select, insert, update",
    "replicas": "select, insert, update, delete",
    "namespaces": "select, insert, update (epoch, version, updated_at)",
    "holds": "select, insert, update",
    "audit_chain": "select",
    "control_events": f"select, insert ({_CHOSEN})",
    "drains": "select, insert, update",
    "governor_rounds": "select, insert, update",
    "governors": "select, insert, update",
    "idempotency_keys": "select, insert, delete",
    "runtimes": "select, insert, update",
    "spend": "select, insert, update, delete",
    "tokens": "select",
    "workers": "select, insert, update, delete",
}
"""What is granted on each table; a table that is not here is not reached."""

SEQUENCES: Final[Mapping[str, str]] = {PUBLICATIONS.name: "usage, select"}
FUNCTIONS: Final[Mapping[str, str]] = {"sluicegate_raise_publications(bigint)": "execute"}

_ROLE = text("select rolsuper from pg_roles where rolname = :role")
_IS_OWNERS = text(
    "select pg_has_role(:role, relowner, 'MEMBER') from pg_class where oid = to_regclass('control_events')"
)
# What the role can still do by other ways than our grants: as PUBLIC, or as a role that it is a member of.
_EXCESS = text(
    "select wish from unnest(array['UPDATE', 'DELETE', 'TRUNCATE', 'TRIGGER', 'INSERT of a hash']) as wish"
    " where case wish"
    "   when 'UPDATE' then has_any_column_privilege(:role, 'control_events', 'UPDATE')"
    "   when 'INSERT of a hash' then has_column_privilege(:role, 'control_events', 'hash', 'INSERT')"
    "   else has_table_privilege(:role, 'control_events', wish) end"
)


def grant(database_url: str, role: str) -> dict[str, str]:
    """Gives `role` exactly what `TABLES`, `SEQUENCES` and `FUNCTIONS` say, by name, and returns it. Safe to repeat.

    To be called as the tables' owner, and again after each upgrade. What the role had of them before is taken away.
    Raises NotFound (no such role), Refused where the role could change events all the same, Unavailable,
    NotMigrated.
    """
    with connected(database_url) as connection, connection.begin():
        quoted = connection.dialect.identifier_preparer.quote(role)
        _check_role(connection, role)
        schema = connection.execute(text("select quote_ident(current_schema())")).scalar_one()
        connection.exec_driver_sql(f"grant usage on schema {schema} to {quoted}")
        for kind, wanted in (("table", TABLES), ("sequence", SEQUENCES), ("function", FUNCTIONS)):
            for name, privileges in wanted.items():
                connection.exec_driver_sql(f"revoke all on {kind} {name} from {quoted}")
                connection.exec_driver_sql(f"grant {privileges} on {kind} {name} to {quoted}")
        excess = connection.execute(_EXCESS, {"role": role}).scalars().all()
        if excess:
            raise Refused(f"{role} may {', '.join(excess)} on control_events by PUBLIC or by a role that it is in")
    return {**TABLES, **SEQUENCES, **FUNCTIONS}


def create_role(database_url: str, role: str) -> None:
    """Makes a role that may log in and has no password, where there is none: for servers that ask for none."""
    with connected(database_url) as connection, connection.begin():
        if connection.execute(_ROLE, {"role": role}).first() is None:
            quoted = connection.dialect.identifier_preparer.quote(role)
            connection.exec_driver_sql(f"create role {quoted} login")


def _check_role(connection: Connection, role: str) -> None:
    if not role.strip() or "\x00" in role:
        raise InvalidInput("role", f"{role!r} is not the name of a role")
    row = connection.execute(_ROLE, {"role": role}).first()
    if row is None:
        raise NotFound(f"there is no role {role!r}: make it first (CREATE ROLE … LOGIN)")
    if row.rolsuper:
        raise Refused(f"{role} is a superuser: nothing can be kept from it")
    if connection.execute(_IS_OWNERS, {"role": role}).scalar():
        raise Refused(f"{role} owns control_events, or is a member of the role that does: use another")
