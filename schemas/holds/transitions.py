"""The pure transitions between sets of holds.

A transition takes the set in force and returns a `Change`. A no-op carries the same set back, with the
same version; every other change carries a set whose version is exactly one higher. Storing a change and
announcing it is the control plane's work, never done here.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from uuid import UUID

from sluicegate.schemas.holds.hold import Hold, HoldKey, Holds
from sluicegate.schemas.holds.ramps import Ramp
from sluicegate.schemas.modes import Mode


class ChangeKind(StrEnum):
    """What a transition did; the word is the audit event's `details.change`."""

    PLACED = "placed"
    ALTERED = "altered"
    RELEASED = "released"
    EXPIRED = "expired"
    ESCALATED = "escalated"
    RAMPED = "ramped"
    NOOP = "noop"


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What a transition did: the set after it, and the hold it was about (None for a no-op without one)."""

    kind: ChangeKind
    holds: Holds
    hold: Hold | None = None

    @property
    def is_noop(self) -> bool:
        """Is there nothing to store but the audit row?"""
        return self.kind is ChangeKind.NOOP


def place(holds: Holds, wish: Hold) -> Change:
    """What placing `wish` does: a new hold, another mode/reason/expiry of the one in force, or nothing.

    An altered hold keeps the id and the `created_at` of the one it replaces (R-A2); the actor becomes the
    one who asked last. A hold of the same effect is a no-op (R-A5).
    """
    current = holds.find(wish.key)
    if current is None:
        return _changed(holds, ChangeKind.PLACED, add=wish)
    if current.has_same_effect_as(wish):
        return Change(kind=ChangeKind.NOOP, holds=holds, hold=current)
    altered = replace(wish, id=current.id, created_at=current.created_at)
    return _changed(holds, ChangeKind.ALTERED, add=altered, remove=current)


def release(holds: Holds, key: HoldKey, *, actor: str, reason: str, now: datetime) -> Change:
    """What releasing the hold with `key` does; a no-op where there is none. No other hold is touched (R-G1)."""
    current = holds.find(key)
    if current is None:
        return Change(kind=ChangeKind.NOOP, holds=holds)
    released = replace(current, released_at=now, released_by=actor, released_reason=reason)
    return _changed(holds, ChangeKind.RELEASED, remove=current, about=released)


def reopen(holds: Holds, key: HoldKey, ramp: Ramp, *, now: datetime) -> Change:
    """What resuming with a ramp does: the hold stays until the ramp is over, and each worker leaves it in its turn.

    Its deadline is over: nothing more is ended. A no-op where there is no such hold.
    """
    current = holds.find(key)
    if current is None:
        return Change(kind=ChangeKind.NOOP, holds=holds)
    ends_at = now + timedelta(seconds=ramp.span_s)
    if current.expires_at is not None:
        ends_at = min(ends_at, current.expires_at)
    ramped = replace(current, ramp=ramp, expires_at=ends_at, deadline=None, then=None, escalated_at=None)
    return _changed(holds, ChangeKind.RAMPED, add=ramped, remove=current)


def expire(holds: Holds, *, now: datetime) -> Change:
    """What the clock does: releases the hold that expired first, or nothing.

    One at a time, so that each expiry is one version and one audit event; call until it is a no-op.
    """
    due = [hold for hold in holds.active if hold.is_expired(now)]
    if not due:
        return Change(kind=ChangeKind.NOOP, holds=holds)
    first = min(due, key=lambda hold: (hold.expires_at or now, hold.id))
    why = "expired" if first.ramp is None else "reopened"
    released = replace(first, released_at=now, released_by="sluicegate", released_reason=why)
    return _changed(holds, ChangeKind.EXPIRED, remove=first, about=released)


def escalate(holds: Holds, *, now: datetime, drained: Collection[UUID] = ()) -> Change:
    """What a deadline does: the hold whose deadline came first becomes a quiesce, its step begins; or nothing (R-B6).

    One at a time, as `expire`. `drained`: the ids of holds whose scope has drained: nothing is left to escalate. What
    has expired is the other transition's. The deadline stays on the hold, to tell why it is a quiesce; it comes once.
    """
    due = [
        hold for hold in holds.active if hold.is_overdue(now) and not hold.is_expired(now) and hold.id not in drained
    ]
    if not due:
        return Change(kind=ChangeKind.NOOP, holds=holds)
    first = min(due, key=lambda hold: (hold.deadline or now, hold.id))
    stricter = replace(first, mode=Mode.QUIESCE, escalated_at=now)
    return _changed(holds, ChangeKind.ESCALATED, add=stricter, remove=first)


def _changed(
    holds: Holds, kind: ChangeKind, *, add: Hold | None = None, remove: Hold | None = None, about: Hold | None = None
) -> Change:
    active = holds.active - {remove} if remove else holds.active
    if add:
        active |= {add}
    return Change(kind=kind, holds=Holds(version=holds.version + 1, active=active), hold=about or add or remove)
