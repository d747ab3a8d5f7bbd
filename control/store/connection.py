"""Postgres itself: how its address is spelled, and what its errors mean to us."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import URL, Connection, NullPool, create_engine, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from sluicegate.schemas.errors import InvalidSetting, NotMigrated, Unavailable

CONNECT_TIMEOUT_S = 2

# What Postgres raises where a table, a column or a sequence of ours is not there.
_MISSING = frozenset({"42P01", "42703"})
_FORBIDDEN = "42501"


def parse_url(database_url: str, setting: str = "SLUICEGATE_DATABASE_URL") -> URL:
    """`database_url` for psycopg 3; raises InvalidSetting, which never repeats the URL: it has a password."""
    _, _, behind_user = database_url.partition("://")[2].partition(":")
    if behind_user.count("@") > 1:
        # What follows the first one would be asked for as a host, and stand in errors: a piece of the password.
        raise InvalidSetting(setting, "has more than one `@` behind the user: write those of the password as %40")
    try:
        url = make_url(database_url)
    except (ArgumentError, ValueError):
        raise InvalidSetting(setting, "is not a URL such as postgresql://USER:PASSWORD@HOST:PORT/DATABASE") from None
    if url.drivername not in ("postgresql", "postgres", "postgresql+psycopg"):
        raise InvalidSetting(setting, f"is for {url.drivername!r}; use postgresql://…")
    return url.set(drivername="postgresql+psycopg")


@contextmanager
def connected(database_url: str) -> Iterator[Connection]:
    """One connection, for a command that needs no more; errors as `translated` has them. The caller commits."""
    engine = create_engine(
        parse_url(database_url), poolclass=NullPool, connect_args={"connect_timeout": CONNECT_TIMEOUT_S}
    )
    try:
        with translated(), engine.connect() as connection:
            yield connection
    finally:
        engine.dispose()


@contextmanager
def translated() -> Iterator[None]:
    """Turns what SQLAlchemy raises into Unavailable or NotMigrated: one line, and no SQL in it."""
    try:
        yield
    except PoolTimeout:
        raise Unavailable("Postgres: all connections are busy") from None
    except DBAPIError as error:
        code = getattr(error.orig, "sqlstate", None)
        if is_missing(error):
            raise NotMigrated(
                "the database lacks a table or a column of this version: run `sluicegate db upgrade`, or ask"
                " `sluicegate db current` whether it is newer"
            ) from None
        hint = " (`sluicegate db grant` says which role may do what)" if code == _FORBIDDEN else ""
        raise Unavailable(f"Postgres: {first_line(error.orig)}{hint}") from error
    except SQLAlchemyError as error:
        raise Unavailable(f"Postgres: {first_line(error)}") from error


def is_missing(error: DBAPIError) -> bool:
    """Was a table, a column or a sequence asked for that the database does not have?"""
    return getattr(error.orig, "sqlstate", None) in _MISSING


def first_line(error: object) -> str:
    """What an operator needs of a driver's message, which may go on with SQL and addresses."""
    return (str(error).strip().splitlines() or ["no answer"])[0]
