"""What an operator orders: the body of a request, checked and turned into domain values. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sluicegate.schemas.api import PauseRequest
from sluicegate.schemas.errors import InvalidInput
from sluicegate.schemas.holds import check_reason
from sluicegate.schemas.modes import Mode
from sluicegate.schemas.scopes import Scope
from sluicegate.schemas.times import from_wire_or_none, to_wire_or_none

PAUSE, RESUME = "pause", "resume"


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """A pause (with `mode`) or a resume (without) of a scope, and why."""

    action: str
    reason: str
    scope: Scope
    mode: Mode | None = None
    expires_at: datetime | None = None
    is_forced: bool = False

    def to_wire(self) -> dict[str, Any]:
        """What makes two requests the same request."""
        return {
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
    unenforced: Mapping[str, Any] = {"deadline": request.deadline, "then": request.then}
    for field, value in unenforced.items():
        if value is not None:
            raise InvalidInput(field, "is not enforced by this version")
    if request.action == PAUSE:
        if request.force_resume:
            raise InvalidInput("forceResume", "belongs to a resume")
        mode = Mode.of_hold(request.mode)
        expires_at = from_wire_or_none(request.expires_at, "expiresAt")
        return Order(action=PAUSE, reason=reason, scope=scope, mode=mode, expires_at=expires_at)
    # A client may send the mode that it sees along with a resume; it means nothing there.
    if request.expires_at is not None:
        raise InvalidInput("expiresAt", "belongs to a pause")
    return Order(action=RESUME, reason=reason, scope=scope, is_forced=request.force_resume)
