"""`/api/system/worker-pause` and `/api/holds`: pause, resume, what is held, what a hold would touch."""

from __future__ import annotations

import json
from uuid import UUID

from fastapi import Request

from sluicegate.control import spelling, spelling_governors
from sluicegate.control.access.tokens import Right
from sluicegate.control.http.guard import Guard, GuardedRouter, Tried, caller_of, parts_of, reads, scope_of
from sluicegate.control.http.problems import errors
from sluicegate.schemas.api.holds import HoldAnswer
from sluicegate.schemas.api.orders import PAUSE, RESUME, order_of
from sluicegate.schemas.api.pausing import ChangeAnswer, PauseAnswer, PauseRequest, PreviewAnswer
from sluicegate.schemas.errors import InvalidInput
from sluicegate.schemas.scopes import GLOBAL, Scope

SYSTEM = "/system/worker-pause"
VIEWER = Guard(Right.VIEWER, reads)

router = GuardedRouter(tags=["pause"])


@router.guarded("GET", SYSTEM, VIEWER)
def read_pause(request: Request, scope: str = "global") -> PauseAnswer:
    """What is ordered, how far the fleet has got with it, and the newest five audit events.

    The metrics are those of `scope`.
    """
    parts = parts_of(request)
    state = spelling.state_of(parts.reading.state(Scope.parse(scope)))
    return spelling_governors.with_capacity(state, parts.governors.all())


@router.guarded("GET", f"{SYSTEM}/preview", VIEWER)
def preview_pause(request: Request, scope: str = "global") -> PreviewAnswer:
    """What a hold on `scope` would touch now, and the time until it should have drained. Changes nothing."""
    return spelling.preview_of(parts_of(request).reading.preview(Scope.parse(scope)))


def _orders(request: Request, body: bytes) -> Tried:
    try:
        asked = json.loads(body)
        action, scope = asked.get("action"), asked.get("scope", str(GLOBAL))
    except (ValueError, AttributeError, RecursionError):
        action, scope = None, None
    return Tried(action if action in (PAUSE, RESUME) else "change", scope_of(scope))


@router.guarded("POST", SYSTEM, Guard(Right.OPERATOR, _orders), responses=errors(409))
def change_pause(request: Request, body: PauseRequest) -> ChangeAnswer:
    """Pauses or resumes; the answer says what this request did."""
    order = order_of(body)
    done = parts_of(request).orders.take(order, actor=caller_of(request).name, key=body.idempotency_key)
    return spelling.change_of(done)


@router.guarded("GET", "/holds/{hold_id}", VIEWER, responses=errors(404))
def read_hold(request: Request, hold_id: str) -> HoldAnswer:
    """One hold, in force or released: who ran what when it was placed, what waited, and what became of it."""
    try:
        wanted = UUID(hold_id)
    except ValueError:
        raise InvalidInput("id", f"{hold_id!r} is not the id of a hold") from None
    return spelling.hold_of(parts_of(request).reading.hold(wanted))
