"""What an operator orders: a request, from REST or the command line, checked and turned into domain values. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sluicegate.schemas.api.pausing import PauseRequest
from sluicegate.schemas.errors import InvalidInput
from sluicegate.schemas.holds.hold import STEPS, Then, check_reason
from sluicegate.schemas.holds.ramps import Rate
from sluicegate.schemas.modes import Mode
from sluicegate.schemas.scopes import Scope
from sluicegate.schemas.times import from_wire_or_none, to_wire

PAUSE, RESUME = "pause", "resume"
LONGEST_S = 366 * 86_400

When = datetime | timedelta
"""A time, or a span from when the order is stored: by the database's clock, whatever the clock of whoever asks says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """A pause (with `mode`) or a resume (without) of a scope, and why."""

    action: str
    reason: str
    scope: Scope
    mode: Mode | None = None
    expires: When | None = None
    deadline: When | None = None
    then: Then | None = None
    is_forced: bool = False
    rate: Rate | None = None

    def to_wire(self) -> dict[str, Any]:
        """What makes two requests the same request."""
        # What an order does not have is left out: a request from before it existed is still the same request.
        wire: dict[str, Any] = {
            "action": self.action,
            "reason": self.reason,
            "scope": str(self.scope),
            "mode": None if self.mode is None else self.mode.word,
            "expiresAt": None,
            "forceResume": self.is_forced,
        }
        wire |= _told(self.expires, "expiresAt", "expiresInS") | _told(self.deadline, "deadline", "deadlineInS")
        if self.then is not None:
            wire["then"] = str(self.then)
        if self.rate is not None:
            wire["ramp"] = self.rate.text
        return wire


def _told(when: When | None, name: str, span_name: str) -> dict[str, Any]:
    if when is None:
        return {}
    return {span_name: when.total_seconds()} if isinstance(when, timedelta) else {name: to_wire(when)}


def instant_of(when: When | None, now: datetime) -> datetime | None:
    """The time that it comes to for an order that is stored at `now`, which must be the database's."""
    return now + when if isinstance(when, timedelta) else when


def request_of(order: Order) -> PauseRequest:
    """The request that spells `order`: the inverse of `order_of`."""
    return PauseRequest.model_validate(order.to_wire())


AS_IN_JSON: Mapping[str, str] = {}


def order_of(request: PauseRequest, called: Mapping[str, str] = AS_IN_JSON) -> Order:
    """The order that `request` spells; raises InvalidInput naming the field that is wrong (R-A4).

    What no worker of this version can do is refused, not stored; what some workers do not enforce is told by them.
    `called` says what the fields are called where `request` was made, if not as in JSON (`expiresAt` is `--until` on
    the command line).
    """
    fields = _Fields(called)
    reason = check_reason(request.reason, fields["reason"])
    scope = Scope.parse(request.scope, fields["scope"])
    if request.action == PAUSE:
        return _pause(request, reason, scope, fields)
    return _resume(request, reason, scope, fields)


class _Fields(dict[str, str]):
    """What each field is called; as in JSON, where nothing else is said."""

    def __missing__(self, field: str) -> str:
        return field


def _pause(request: PauseRequest, reason: str, scope: Scope, fields: _Fields) -> Order:
    if request.force_resume:
        raise InvalidInput(fields["forceResume"], "belongs to a resume")
    if request.ramp is not None:
        raise InvalidInput(fields["ramp"], "belongs to a resume")
    mode = Mode.of_hold(request.mode, fields["mode"])
    expires = _when(request.expires_at, fields["expiresAt"], request.expires_in_s, fields["expiresInS"])
    deadline, then = _escalation(request, mode, fields)
    return Order(action=PAUSE, reason=reason, scope=scope, mode=mode, expires=expires, deadline=deadline, then=then)


def _resume(request: PauseRequest, reason: str, scope: Scope, fields: _Fields) -> Order:
    # A client may send the mode that it sees along with a resume; it means nothing there.
    for field, value in (
        ("expiresAt", request.expires_at),
        ("expiresInS", request.expires_in_s),
        ("deadline", request.deadline),
        ("deadlineInS", request.deadline_in_s),
        ("then", request.then),
    ):
        if value is not None:
            raise InvalidInput(fields[field], "belongs to a pause")
    rate = None if request.ramp is None else Rate.parse(request.ramp)
    return Order(action=RESUME, reason=reason, scope=scope, is_forced=request.force_resume, rate=rate)


def _when(instant: Any, name: str, span_s: Any, span_name: str) -> When | None:
    if span_s is None:
        return from_wire_or_none(instant, name)
    if instant is not None:
        raise InvalidInput(span_name, f"give {name} or {span_name}, not both")
    if isinstance(span_s, bool) or not isinstance(span_s, int | float) or not 0 < span_s <= LONGEST_S:
        raise InvalidInput(span_name, f"must be a number of seconds above zero, at most {LONGEST_S}")
    return timedelta(seconds=span_s)


def _escalation(request: PauseRequest, mode: Mode, fields: _Fields) -> tuple[When | None, Then | None]:
    then_name = fields["then"]
    deadline = _when(request.deadline, fields["deadline"], request.deadline_in_s, fields["deadlineInS"])
    if request.then is not None and request.then not in list(Then):
        raise InvalidInput(then_name, f"{request.then!r} is not what can follow a deadline: use {STEPS}")
    if deadline is None:
        if request.then is not None:
            raise InvalidInput(then_name, "belongs to a deadline: say when")
        return None, None
    if request.then is None:
        raise InvalidInput(then_name, f"say what follows the deadline: {STEPS}")
    then = Then(request.then)
    if mode is Mode.QUIESCE and then is Then.QUIESCE:
        raise InvalidInput(then_name, f"this is a quiesce already: use {Then.REQUEUE} or {Then.TERMINATE}")
    return deadline, then
