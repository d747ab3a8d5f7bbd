"""How Alembic runs here: always on a connection that `control.store.migrate` hands in, never from an ini file."""

from __future__ import annotations

from alembic import context
from sqlalchemy import text

from sluicegate.control.store.tables import METADATA

_LOCK = 7_283_114_905_216_335
"""An arbitrary number, the same in every replica: two that migrate at once do it one after the other."""

LOCK_TIMEOUT_MS = 2000
"""Who waits for a table makes all others wait behind it: given up before a control plane gives up an order (5 s)."""

_STORE_USABLE_FROM = text(
    "insert into compatibility (is_the_row, usable_from) values (true, :revision)"
    " on conflict (is_the_row) do update set usable_from = excluded.usable_from"
)


def _say_usable_from(reached: str | None) -> None:
    """Puts on record which code can work with the revision that was reached, in the transaction that reached it."""
    # The table is as old as 0006: what is older could not be used by any other code than its own.
    if reached is None or connection.execute(text("select to_regclass('compatibility')")).scalar_one() is None:
        return
    script = context.script.get_revision(reached)
    connection.execute(_STORE_USABLE_FROM, {"revision": script.module.usable_from})


connection = context.config.attributes["connection"]
context.configure(connection=connection, target_metadata=METADATA)
with context.begin_transaction():
    connection.execute(text("select pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
    connection.execute(text(f"set local lock_timeout = {LOCK_TIMEOUT_MS}"))
    context.run_migrations()
    _say_usable_from(context.get_context().get_current_revision())
