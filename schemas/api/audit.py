"""The audit: the bodies of `GET /api/audit`, and of the newest events beside every state."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from sluicegate.schemas.api.base import Answer, Instant, Wire


class AuditQuery(Wire):
    """The filters of `GET /api/audit`; they add up. `since` is included, `until` is not."""

    since: str | None = None
    until: str | None = None
    actor: str | None = None
    action: str | None = None
    cause: str | None = None
    scope: str | None = None
    worker: str | None = None
    limit: int = Field(100, ge=1, le=1000)
    offset: int = Field(0, ge=0, le=1_000_000_000)


class EventBody(Answer):
    """One audit event. `version` is null for an event that changed no state (noop, refused, denied)."""

    id: int
    action: str
    outcome: str
    epoch: int
    version: int | None
    scope: str | None
    cause: str | None
    source: str | None
    mode: str | None
    reason: str | None
    actor: str
    hold_id: str | None
    details: dict[str, Any]
    created_at: Instant


class AuditAnswer(Answer):
    """`GET /api/audit`: newest first; `total` counts all that match, whatever the limit."""

    events: list[EventBody]
    total: int
    limit: int
    offset: int


class LatestEvent(Answer):
    """One of the newest five audit events."""

    id: int
    action: str
    mode: str | None
    reason: str | None
    actor_user_id: str
    created_at: Instant


class AuditTail(Answer):
    """The `audit` block of a state."""

    latest: list[LatestEvent]
