"""The database: pooled connections and durable transactions. The truth is here and nowhere else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import copy
from time import monotonic
from typing import Self

from sqlalchemy import Connection, Engine, create_engine, text
from sqlalchemy.exc import DBAPIError

from sluicegate.control.store import migrate, revisions
from sluicegate.control.store.connection import CONNECT_TIMEOUT_S, first_line, is_missing, parse_url, translated
from sluicegate.schemas.errors import Unavailable

LOCK_TIMEOUT_MS = 5000
STATEMENT_TIMEOUT_MS = 5000
IDLE_TIMEOUT_MS = 10_000
"""A control plane that freezes inside a transaction gives the row lock up after this long."""

CHECK_EVERY_S = 1.0
"""How often the revision is looked at, in seconds: it may change under a control plane that runs."""

_PG_CONNECTION = {
    "connect_timeout": CONNECT_TIMEOUT_S,
    "application_name": "sluicegate",
    # A silent partition must not hold a request for the kernel's default of a quarter of an hour.
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 5000,
}

_HAS_WRITTEN = text("select txid_current_if_assigned() is not null")

# Durable whatever the server's default: with it off, orders that were answered were lost when Postgres was killed.
_BEGIN = text(
    "select set_config('synchronous_commit', 'on', true), set_config('timezone', 'UTC', true),"
    f" set_config('lock_timeout', '{LOCK_TIMEOUT_MS}', true),"
    f" set_config('statement_timeout', '{STATEMENT_TIMEOUT_MS}', true),"
    f" set_config('idle_in_transaction_session_timeout', '{IDLE_TIMEOUT_MS}', true)"
)


class CommitUnknown(Unavailable):
    """The connection was lost during a commit: it may be durable or not, and the caller must find out."""


class Database:
    """A pool of connections to one database. Thread-safe; connecting happens at the first use."""

    def __init__(self, database_url: str) -> None:
        """Raises InvalidSetting where `database_url` is not one of Postgres."""
        self._engine: Engine = create_engine(
            parse_url(database_url),
            connect_args=_PG_CONNECTION,
            pool_size=10,
            max_overflow=20,
            pool_timeout=5,
            # Parameters hold reasons and tokens' digests: keep them out of error texts.
            hide_parameters=True,
        )
        self._checked_until = 0.0
        self._fence: Callable[[Connection], None] | None = None

    def fenced(self, fence: Callable[[Connection], None]) -> Self:
        """The same connections, with transactions that call `fence` before they commit what they wrote.

        What it raises ends the transaction, and nothing of it is stored.
        """
        other = copy(self)
        other._fence = fence
        return other

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """A durable transaction: committed at the end of the block, rolled back where it raises.

        Raises Unavailable, NotMigrated, DatabaseTooNew, and CommitUnknown where the commit itself failed.
        """
        with translated(), self._begun() as connection:
            self._check(connection)
            try:
                yield connection
                if self._fence is not None and connection.execute(_HAS_WRITTEN).scalar_one():
                    self._fence(connection)
            except BaseException as error:
                self._checked_until = 0.0
                if isinstance(error, DBAPIError) and is_missing(error):
                    # Its tables have changed under us: that is what is wrong, and not the statement that met it.
                    connection.rollback()
                    self._check(connection)
                raise
            try:
                connection.commit()
            except BaseException as error:
                # Nobody knows in which state it is: the next transaction must not begin in the middle of this one.
                connection.invalidate()
                if not isinstance(error, DBAPIError):
                    raise
                raise CommitUnknown(f"Postgres: {first_line(error.orig)} (during a commit)") from error

    def _begun(self) -> Connection:
        """A connection on which a transaction has begun.

        One that was lost while it lay in the pool shows itself here, where nothing has been done yet, and all that lie
        there are replaced: no question has to go out before to find that out.
        """
        try:
            return self._begin()
        except DBAPIError as error:
            if not error.connection_invalidated:
                raise
        # The whole pool: what else lies there was most likely lost too. (By itself SQLAlchemy goes by the wall clock,
        # which may be set back.)
        self._engine.dispose()
        return self._begin()

    def _begin(self) -> Connection:
        connection = self._engine.connect()
        try:
            connection.execute(_BEGIN)
        except BaseException:
            connection.close()
            raise
        return connection

    def check(self) -> None:
        """Is the database there, and of a revision that this code can use?

        Raises Unavailable, NotMigrated, DatabaseTooNew.
        """
        self._checked_until = 0.0
        with self.transaction():
            pass

    def close(self) -> None:
        self._engine.dispose()

    def _check(self, connection: Connection) -> None:
        """The revision is looked at now and then; a transaction that fails makes the next one look again."""
        now = monotonic()
        if now < self._checked_until:
            return
        revisions.refuse_unusable(revisions.read(connection), migrate.known())
        self._checked_until = now + CHECK_EVERY_S
