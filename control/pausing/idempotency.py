"""What each request did, by its idempotency key: a repeated request is answered, not done again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Self
from uuid import uuid4

from sqlalchemy import Connection, delete, insert, select

from sluicegate.control.audit.events import Latest
from sluicegate.control.holds.namespaces import Truth
from sluicegate.control.store.tables import IDEMPOTENCY_KEYS
from sluicegate.schemas.api.pausing import SystemBody
from sluicegate.schemas.errors import InvalidInput
from sluicegate.schemas.holds.hold import Hold, Holds
from sluicegate.schemas.times import from_wire, to_wire

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """What an order did, as each repetition of it is told: `outcome` is `applied` or `noop`, `after` the truth then.

    `latest`: the newest events then. `remaining`: after a resume, the causes that still held its scope.
    """

    outcome: str
    after: Truth
    latest: tuple[Latest, ...]
    remaining: tuple[str, ...]

    def to_wire(self) -> dict[str, Any]:
        """As the database keeps it. Replicas of other versions read it too: the shape is that of the first."""
        holds, epoch = self.after.holds, self.after.epoch
        return {
            "outcome": self.outcome,
            "system": SystemBody.of(holds, epoch=epoch, updated_at=self.after.updated_at).to_json(),
            "audit": {
                "latest": [
                    {
                        "id": one.id,
                        "action": one.action,
                        "mode": one.mode,
                        "reason": one.reason,
                        "actorUserId": one.actor,
                        "createdAt": to_wire(one.at),
                    }
                    for one in self.latest
                ]
            },
            "remaining": list(self.remaining),
        }

    @classmethod
    def from_wire(cls, data: Mapping[str, Any], *, namespace: str, at: datetime) -> Self:
        """The inverse of `to_wire`, for what was kept at `at`."""
        system = data["system"]
        return cls(
            outcome=data["outcome"],
            after=Truth(
                namespace=namespace,
                epoch=system["epoch"],
                holds=Holds(
                    version=system["version"], active=frozenset(Hold.from_wire(hold) for hold in system["holds"])
                ),
                updated_at=from_wire(system["updatedAt"], "updatedAt"),
                now=at,
            ),
            latest=tuple(
                Latest(
                    id=one["id"],
                    action=one["action"],
                    mode=one["mode"],
                    reason=one["reason"],
                    actor=one["actorUserId"],
                    at=from_wire(one["createdAt"], "createdAt"),
                )
                for one in data["audit"]["latest"]
            ),
            remaining=tuple(data["remaining"]),
        )


def _checked(key: str) -> str:
    if not key.strip() or len(key) > MAX_KEY_CHARS or not key.isprintable():
        raise InvalidInput("idempotencyKey", f"must be 1 to {MAX_KEY_CHARS} printable characters")
    return key


def find(connection: Connection, namespace: str, ask: Ask) -> Effect | None:
    """What this very request did before; None for a new one.

    Raises InvalidInput where the key was used for another request.
    """
    column = IDEMPOTENCY_KEYS.c
    row = connection.execute(
        select(column.fingerprint, column.answer, column.created_at).where(
            column.namespace == namespace, column.actor == ask.actor, column.key == ask.key
        )
    ).first()
    if row is None:
        return None
    if row.fingerprint != ask.fingerprint:
        raise InvalidInput("idempotencyKey", "was used for another request: a key belongs to one request")
    return Effect.from_wire(row.answer, namespace=namespace, at=row.created_at)


def keep(connection: Connection, namespace: str, ask: Ask, effect: Effect, now: datetime) -> None:
    """Stores what `ask` did, in the transaction that does it."""
    connection.execute(
        insert(IDEMPOTENCY_KEYS).values(
            namespace=namespace,
            actor=ask.actor,
            key=ask.key,
            fingerprint=ask.fingerprint,
            answer=effect.to_wire(),
            created_at=now,
        )
    )


def purge(connection: Connection, now: datetime) -> None:
    """Removes what nobody will ask for again."""
    connection.execute(delete(IDEMPOTENCY_KEYS).where(IDEMPOTENCY_KEYS.c.created_at < now - KEPT_FOR))
