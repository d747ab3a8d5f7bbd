"""What an operator orders: the body of a request, checked and turned into domain values. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sluicegate.schemas.api import PauseRequest
from sluicegate.schemas.errors import InvalidInput
from sluicegate.schemas.holds import STEPS, Then, check_reason
from sluicegate.schemas.modes import Mode
from sluicegate.schemas.ramps import Rate
from sluicegate.schemas.scopes import Scope
from sluicegate.schemas.times import from_wire_or_none, to_wire, to_wire_or_none

PAUSE, RESUME = "pause", "resume"


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """A pause (with `mode`) or a resume (without) of a scope, and why."""

    action: str
    reason: str
    scope: Scope
    mode: Mode | None = None
    expires_at: datetime | None = None
    deadline: datetime | None = None
    then: Then | None = None
    is_forced: bool = False
    rate: Rate | None = None

    def to_wire(self) -> dict[str, Any]:
        """What makes two requests the same request."""
        # What an order does not have is left out: a request from before it existed is still the same request.
        more = {} if self.deadline is None else {"deadline": to_wire(self.deadline), "then": str(self.then)}
        if self.rate is not None:
            more["ramp"] = self.rate.text
        return more | {
            "action": self.action,
            "reason": self.reason,
            "scope": str(self.scope),
            "mode": None if self.mode is None else self.mode.word,
            "expiresAt": to_wire_or_none(self.expires_at),
            "forceResume": self.is_forced,
        }


def order_of(request: PauseRequest) -> Order:
    """The order that `request` spells; raises InvalidInput naming the field that is wrong (R-A4).

    What no worker of this version can do is refused, not stored; what some workers do not enforce is told by them.
    """
    reason = check_reason(request.reason)
    scope = Scope.parse(request.scope)
    if request.action == PAUSE:
        if request.force_resume:
            raise InvalidInput("forceResume", "belongs to a resume")
        if request.ramp is not None:
            raise InvalidInput("ramp", "belongs to a resume")
        mode = Mode.of_hold(request.mode)
        expires_at = from_wire_or_none(request.expires_at, "expiresAt")
        deadline, then = _escalation(request, mode, expires_at)
        return Order(
            action=PAUSE,
            reason=reason,
            scope=scope,
            mode=mode,
            expires_at=expires_at,
            deadline=deadline,
            then=then,
        )
    # A client may send the mode that it sees along with a resume; it means nothing there.
    for field, value in (
        ("expiresAt", request.expires_at),
        ("deadline", request.deadline),
        ("then", request.then),
    ):
        if value is not None:
            raise InvalidInput(field, "belongs to a pause")
    rate = None if request.ramp is None else Rate.parse(request.ramp)
    return Order(action=RESUME, reason=reason, scope=scope, is_forced=request.force_resume, rate=rate)


def _escalation(request: PauseRequest, mode: Mode, expires_at: datetime | None) -> tuple[datetime | None, Then | None]:
    deadline = from_wire_or_none(request.deadline, "deadline")
    if request.then is not None and request.then not in list(Then):
        raise InvalidInput("then", f"{request.then!r} is not what can follow a deadline: use {STEPS}")
    if deadline is None:
        if request.then is not None:
            raise InvalidInput("then", "belongs to a deadline")
        return None, None
    if request.then is None:
        raise InvalidInput("then", f"say what follows the deadline: {STEPS}")
    then = Then(request.then)
    if mode is Mode.QUIESCE and then is Then.QUIESCE:
        raise InvalidInput("then", f"this is a quiesce already: use {Then.REQUEUE} or {Then.TERMINATE}")
    if expires_at is not None and expires_at <= deadline:
        raise InvalidInput("deadline", "must lie before the hold expires")
    return deadline, then
