"""API tokens: 256 random bits shown once, stored as their SHA-256, with a name (the actor) and a right."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import IntEnum

from sqlalchemy import Connection, insert, select, update

from sluicegate.control.audit import events
from sluicegate.control.holds.namespaces import clock
from sluicegate.control.store.database import Database
from sluicegate.control.store.tables import TOKENS
from sluicegate.schemas.errors import InvalidInput, NotFound, Refused
from sluicegate.schemas.holds.hold import check_actor

PREFIX = "sg_"
ANONYMOUS = "anonymous"
_RESERVED = frozenset({events.SYSTEM, ANONYMOUS})


class Right(IntEnum):
    """What a token allows; each includes the ones below it."""

    VIEWER = 1
    OPERATOR = 2
    ADMIN = 3

    @property
    def word(self) -> str:
        """As tables and commands spell it."""
        return self.name.lower()


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks, and what they may."""

    name: str
    right: Right


def create(database_url: str, name: str, right: str) -> str:
    """Makes a token and returns its secret, which is stored nowhere. Audited as `token_created`.

    Raises InvalidInput (name, right), Refused where the name has a token, Unavailable, NotMigrated.
    """
    actor = check_actor(name, "name")
    if actor in _RESERVED:
        raise InvalidInput("name", f"{actor!r} is what the system calls itself: choose another")
    granted = next((known for known in Right if known.word == right), None)
    if granted is None:
        raise InvalidInput("right", f"{right!r} is not a right: use {', '.join(known.word for known in Right)}")
    secret = PREFIX + secrets.token_urlsafe(32)
    with _transaction(database_url) as connection:
        _serialise(connection)
        taken = select(TOKENS.c.name).where(TOKENS.c.name == actor, TOKENS.c.revoked_at.is_(None))
        if connection.execute(taken).first() is not None:
            raise Refused(f"{actor!r} has a token: revoke it first, or choose another name")
        now = clock(connection)
        row = {"digest": digest_of(secret), "name": actor, "right": granted.word, "created_at": now}
        connection.execute(insert(TOKENS).values(row))
        made = events.Event(
            action="token_created",
            outcome=events.APPLIED,
            actor=events.SYSTEM,
            at=now,
            # With the digest, `audit verify` tells this token from another one of its name.
            details={"name": actor, "right": granted.word, "digest": row["digest"]},
        )
        events.record(connection, None, made)
    return secret


def revoke(database_url: str, name: str) -> None:
    """Makes the token of `name` worthless, at once. Audited as `token_revoked`.

    Raises NotFound where nobody has it, Unavailable, NotMigrated.
    """
    with _transaction(database_url) as connection:
        now = clock(connection)
        revoked = connection.execute(
            update(TOKENS).where(TOKENS.c.name == name, TOKENS.c.revoked_at.is_(None)).values(revoked_at=now)
        )
        if revoked.rowcount == 0:
            raise NotFound(f"nobody has a token named {name!r}")
        gone = events.Event(
            action="token_revoked",
            outcome=events.APPLIED,
            actor=events.SYSTEM,
            at=now,
            details={"name": name},
        )
        events.record(connection, None, gone)


def digest_of(secret: str) -> str:
    """What is stored of a secret. Plain SHA-256: 256 random bits need no slow hash."""
    return hashlib.sha256(secret.encode()).hexdigest()


def find(connection: Connection, digest: str) -> Caller | None:
    """Who has the token with this digest; None for an unknown or a revoked one."""
    row = connection.execute(
        select(TOKENS.c.name, TOKENS.c.right).where(TOKENS.c.digest == digest, TOKENS.c.revoked_at.is_(None))
    ).first()
    return None if row is None else Caller(row.name, Right[row.right.upper()])


def _serialise(connection: Connection) -> None:
    """Two that make the same name at once: the second waits, and is refused in words."""
    connection.exec_driver_sql("lock table tokens in share row exclusive mode")


@contextmanager
def _transaction(database_url: str) -> Iterator[Connection]:
    database = Database(database_url)
    try:
        with database.transaction() as connection:
            yield connection
    finally:
        database.close()
