"""The database: pooled connections and durable transactions. The truth is here and nowhere else."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Connection, Engine, create_engine, text
from sqlalchemy.exc import DBAPIError

from sluicegate.control.store import migrate
from sluicegate.control.store.connection import CONNECT_TIMEOUT_S, first_line, parse_url, translated
from sluicegate.schemas.errors import NotMigrated, Unavailable

LOCK_TIMEOUT_MS = 5000
STATEMENT_TIMEOUT_MS = 5000
IDLE_TIMEOUT_MS = 10_000
"""A control plane that freezes inside a transaction gives the row lock up after this long."""

_PG_CONNECTION = {
    "connect_timeout": CONNECT_TIMEOUT_S,
    "application_name": "sluicegate",
    # A silent partition must not hold a request for the kernel's default of a quarter of an hour.
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 5000,
}

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
        self._is_checked = False

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """A durable transaction: committed at the end of the block, rolled back where it raises.

        Raises Unavailable, NotMigrated, and CommitUnknown where the commit itself failed.
        """
        with translated(), self._begun() as connection:
            self._check(connection)
            try:
                yield connection
            except BaseException:
                self._is_checked = False
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
        """Is the database there and migrated? Raises Unavailable or NotMigrated."""
        self._is_checked = False
        with self.transaction():
            pass

    def close(self) -> None:
        self._engine.dispose()

    def _check(self, connection: Connection) -> None:
        """The revision is looked at once; a transaction that fails makes the next one look again."""
        if self._is_checked:
            return
        found, wanted = migrate.revision_of(connection), migrate.head()
        if found != wanted:
            state = "no sluicegate tables" if found is None else f"revision {found}, this version needs {wanted}"
            raise NotMigrated(f"the database has {state}: run `sluicegate db upgrade`")
        self._is_checked = True
