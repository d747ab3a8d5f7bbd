"""Holds: durable, owned reasons not to start work, and every active one of a namespace. Values alone."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Any, Self
from uuid import UUID

from sluicegate.schemas.errors import InvalidInput
from sluicegate.schemas.holds.ramps import Ramp
from sluicegate.schemas.modes import Mode
from sluicegate.schemas.scopes import Scope, Subject
from sluicegate.schemas.times import from_wire, from_wire_or_none, to_wire, to_wire_or_none

MAX_REASON_CHARS = 1000
MAX_ACTOR_CHARS = 255


class Cause(StrEnum):
    """Why a hold exists. Whoever made a hold releases it and no other."""

    MANUAL = "manual"
    CAPACITY = "capacity"
    BUDGET = "budget"
    WINDOW = "window"
    HEALTH = "health"


class Then(StrEnum):
    """What follows when a hold's deadline passes with work left. Each first asks tasks to stop at a checkpoint."""

    QUIESCE = "quiesce"
    REQUEUE = "requeue"
    """Those that still run `FORCED_END_GRACE_S` later, and are not acknowledged yet, are ended and handed back."""
    TERMINATE = "terminate"
    """Those that still run `FORCED_END_GRACE_S` later are ended for good, as revoked."""


STEPS = f"{', '.join(list(Then)[:-1])} or {list(Then)[-1]}"
ENDS = frozenset({Then.REQUEUE, Then.TERMINATE})
"""The steps that end tasks, not only ask them to stop."""
CAN_END = {"prefork": ENDS, "gevent": frozenset({Then.TERMINATE})}
"""Which of them a worker can do, by its pool: a thread cannot be ended."""
FORCED_END_GRACE_S = 5.0
"""How long a worker lets its tasks come to a checkpoint before it ends them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HoldKey:
    """What makes a hold the same hold: at most one is active per (scope, cause, source)."""

    scope: Scope
    cause: str = Cause.MANUAL
    source: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """A durable, owned reason not to start work. All times are aware UTC.

    `source` tells apart two owners of one cause (the worker, the window, the budget); it is empty for
    manual. `created_at` survives a change of mode or reason; `released_*` are set once, together;
    `escalated_at` is when the deadline came with work left, and `then` began to be in force. With a `ramp` it has been
    resumed, and is in force until `expires_at` on the workers whose turn has not come. `cause` and
    `then` are texts, so that an older worker obeys a hold whose cause it has never heard of.
    """

    id: UUID
    scope: Scope
    mode: Mode
    reason: str
    actor: str
    created_at: datetime
    cause: str = Cause.MANUAL
    source: str = ""
    expires_at: datetime | None = None
    deadline: datetime | None = None
    then: str | None = None
    escalated_at: datetime | None = None
    ramp: Ramp | None = None
    released_at: datetime | None = None
    released_by: str | None = None
    released_reason: str | None = None

    @property
    def key(self) -> HoldKey:
        """What at most one active hold may have."""
        return HoldKey(scope=self.scope, cause=self.cause, source=self.source)

    def has_same_effect_as(self, other: Hold) -> bool:
        """Would placing one over the other change nothing but who asked and when?"""
        return (
            self.key == other.key
            and self.mode == other.mode
            and self.reason == other.reason
            and self.expires_at == other.expires_at
            and self.deadline == other.deadline
            and self.then == other.then
            and self.ramp == other.ramp
        )

    def is_expired(self, now: datetime) -> bool:
        """Has its time run out at `now`? The instant of expiry itself counts as expired."""
        return self.expires_at is not None and self.expires_at <= now

    def is_overdue(self, now: datetime) -> bool:
        """Has its deadline come at `now`, and what follows it not begun?"""
        has_come = self.deadline is not None and self.deadline <= now
        return has_come and self.then in list(Then) and self.escalated_at is None

    @property
    def ends_tasks(self) -> bool:
        """Is a step in force that ends running tasks?"""
        return self.escalated_at is not None and self.then in ENDS

    def to_wire(self) -> dict[str, Any]:
        """The hold as JSON has it everywhere: camelCase keys, ISO-8601 UTC times."""
        return {
            "id": str(self.id),
            "scope": str(self.scope),
            "cause": str(self.cause),
            "source": self.source,
            "mode": self.mode.word,
            "reason": self.reason,
            "actor": self.actor,
            "createdAt": to_wire(self.created_at),
            "expiresAt": to_wire_or_none(self.expires_at),
            "deadline": to_wire_or_none(self.deadline),
            "then": None if self.then is None else str(self.then),
            "escalatedAt": to_wire_or_none(self.escalated_at),
            "ramp": None if self.ramp is None else self.ramp.to_wire(),
            "releasedAt": to_wire_or_none(self.released_at),
            "releasedBy": self.released_by,
            "releasedReason": self.released_reason,
        }

    @classmethod
    def from_wire(cls, data: object) -> Self:
        """The inverse of `to_wire`; raises InvalidInput naming the field that is wrong.

        A mode that this version does not know counts as the strictest: closing too much is the safe mistake.
        """
        if not isinstance(data, dict):
            raise InvalidInput("hold", "not an object")
        try:
            return cls(
                id=UUID(data["id"]),
                scope=Scope.parse(data["scope"]),
                cause=_text(data, "cause"),
                source=_text(data, "source"),
                mode=_mode(_text(data, "mode")),
                reason=_text(data, "reason"),
                actor=_text(data, "actor"),
                created_at=from_wire(data["createdAt"], "createdAt"),
                expires_at=from_wire_or_none(data["expiresAt"], "expiresAt"),
                deadline=from_wire_or_none(data["deadline"], "deadline"),
                then=None if data["then"] is None else _text(data, "then"),
                # Control planes before 0.2 do not say.
                escalated_at=from_wire_or_none(data.get("escalatedAt"), "escalatedAt"),
                ramp=None if data.get("ramp") is None else Ramp.from_wire(data["ramp"]),
                released_at=from_wire_or_none(data["releasedAt"], "releasedAt"),
                released_by=data["releasedBy"],
                released_reason=data["releasedReason"],
            )
        except KeyError as missing:
            raise InvalidInput(f"hold.{missing.args[0]}", "missing") from None
        except (ValueError, TypeError, AttributeError) as error:
            raise InvalidInput("hold", str(error)) from None


def _mode(word: str) -> Mode:
    known = {mode.word: mode for mode in Mode if mode}
    return known.get(word, max(Mode))


def _text(data: dict[str, Any], field: str) -> str:
    value = data[field]
    if not isinstance(value, str):
        raise InvalidInput(f"hold.{field}", f"{value!r} is not a text")
    return value


def check_reason(reason: object, field: str = "reason") -> str:
    """`reason` without surrounding blanks; raises InvalidInput where it is blank, too long or no text (R-A4)."""
    return _checked(reason, field, MAX_REASON_CHARS, "say why, in a few words")


def check_actor(actor: object, field: str = "actor") -> str:
    """`actor` without surrounding blanks; raises InvalidInput where it is blank, too long or no text (R-A4)."""
    return _checked(actor, field, MAX_ACTOR_CHARS, "say who")


def _checked(text: object, field: str, limit: int, hint: str) -> str:
    if not isinstance(text, str) or not text.strip():
        raise InvalidInput(field, f"must not be blank: {hint}")
    text = text.strip()
    if len(text) > limit:
        raise InvalidInput(field, f"has {len(text)} characters, at most {limit} are allowed")
    if "\x00" in text:
        raise InvalidInput(field, "must not contain a NUL character")
    if any("\ud800" <= char <= "\udfff" for char in text):
        raise InvalidInput(field, "contains half of a surrogate pair, which is no character")
    return text


@dataclass(frozen=True, slots=True, kw_only=True)
class Holds:
    """Every active hold of a namespace, and the version that says which edition of the set this is."""

    version: int
    active: frozenset[Hold] = frozenset()

    def __post_init__(self) -> None:
        keys = [hold.key for hold in self.active]
        if len(set(keys)) != len(keys):
            raise ValueError("two active holds have the same scope, cause and source")

    def mode_for(self, subject: Subject) -> Mode:
        """The effective mode: the strongest among the holds that match `subject`; RUN where none does."""
        return max((hold.mode for hold in self.active if hold.scope.matches(subject)), default=Mode.RUN)

    @property
    def global_mode(self) -> Mode:
        """The effective mode of the `global` scope alone."""
        return self.mode_for(Subject())

    def find(self, key: HoldKey) -> Hold | None:
        """The active hold with this key, or None."""
        return next((hold for hold in self.active if hold.key == key), None)

    def causes_at(self, scope: Scope) -> list[str]:
        """The causes that hold at exactly this scope, each once, in order."""
        return sorted({str(hold.cause) for hold in self.active if hold.scope == scope})

    def staying(self) -> Holds:
        """Those that are not being reopened."""
        return replace(self, active=frozenset(hold for hold in self.active if hold.ramp is None))

    @property
    def fingerprint(self) -> str:
        """Which holds these are, in 16 hex digits: the same for a worker and a control plane of any two versions.

        Only of what every version reads alike: the ids, and which are being reopened. Two histories of one database
        may have made different holds at one edition; their ids differ.
        """
        told = sorted(f"{hold.id}{'' if hold.ramp is None else ' reopening'}" for hold in self.active)
        return hashlib.sha256("\n".join(told).encode()).hexdigest()[:16]

    def sorted(self) -> list[Hold]:
        """Oldest first; the order in which they are listed everywhere."""
        return sorted(self.active, key=lambda hold: (hold.created_at, hold.id))
