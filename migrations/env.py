"""How Alembic runs here: always on a connection that `control.store.migrate` hands in, never from an ini file."""

from __future__ import annotations

from alembic import context
from sqlalchemy import text

from sluicegate.control.store.tables import METADATA

_LOCK = 7_283_114_905_216_335
"""An arbitrary number, the same in every replica: two that migrate at once do it one after the other."""

connection = context.config.attributes["connection"]
context.configure(connection=connection, target_metadata=METADATA)
with context.begin_transaction():
    connection.execute(text("select pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
    context.run_migrations()
