"""What each request was answered, by its idempotency key: a repeated request is answered, not done again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Self
from uuid import uuid4

from sqlalchemy import Connection, delete, insert, select

from sluicegate.control.store.tables import IDEMPOTENCY_KEYS
from sluicegate.schemas.errors import InvalidInput

KEPT_FOR = timedelta(days=1)
MAX_KEY_CHARS = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """Who asks for what under which key. `fingerprint` tells two requests of one key apart."""

    actor: str
    key: str
    fingerprint: str

    @classmethod
    def of(cls, actor: str, key: str | None, request: Mapping[str, Any]) -> Self:
        """`key` None makes one up: it finds out what became of a commit whose answer was lost."""
        canonical = json.dumps(request, sort_keys=True, default=str)
        return cls(
            actor=actor,
            key=f"made:{uuid4()}" if key is None else _checked(key),
            fingerprint=hashlib.sha256(canonical.encode()).hexdigest(),
        )


def _checked(key: str) -> str:
    if not key.strip() or len(key) > MAX_KEY_CHARS or not key.isprintable():
        raise InvalidInput("idempotencyKey", f"must be 1 to {MAX_KEY_CHARS} printable characters")
    return key


def find(connection: Connection, namespace: str, ask: Ask) -> dict[str, Any] | None:
    """What this very request was answered before; None for a new one.

    Raises InvalidInput where the key was used for another request.
    """
    column = IDEMPOTENCY_KEYS.c
    row = connection.execute(
        select(column.fingerprint, column.answer).where(
            column.namespace == namespace, column.actor == ask.actor, column.key == ask.key
        )
    ).first()
    if row is None:
        return None
    if row.fingerprint != ask.fingerprint:
        raise InvalidInput("idempotencyKey", "was used for another request: a key belongs to one request")
    answer: dict[str, Any] = row.answer
    return answer


def keep(connection: Connection, namespace: str, ask: Ask, answer: Mapping[str, Any], now: datetime) -> None:
    """Stores what `ask` is answered, in the transaction that does it."""
    connection.execute(
        insert(IDEMPOTENCY_KEYS).values(
            namespace=namespace,
            actor=ask.actor,
            key=ask.key,
            fingerprint=ask.fingerprint,
            answer=dict(answer),
            created_at=now,
        )
    )


def purge(connection: Connection, now: datetime) -> None:
    """Removes the answers that nobody will ask for again."""
    connection.execute(delete(IDEMPOTENCY_KEYS).where(IDEMPOTENCY_KEYS.c.created_at < now - KEPT_FOR))
