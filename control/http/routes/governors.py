"""`/api/governors`: what holds by itself; each changed by who has seen its version."""

from __future__ import annotations

from fastapi import Request, Response

from sluicegate.control import spelling_governors as spelling
from sluicegate.control.access.tokens import Right
from sluicegate.control.http.guard import Guard, GuardedRouter, Tried, caller_of, parts_of, reads
from sluicegate.control.http.problems import errors
from sluicegate.schemas.api.governors import (
    AdjustAnswer,
    AdjustRequest,
    DeletedAnswer,
    GovernorAnswer,
    GovernorBody,
    GovernorRequest,
    GovernorsAnswer,
    OverrideRequest,
    ReasonRequest,
    RehearseAnswer,
    RehearseRequest,
)
from sluicegate.schemas.errors import InvalidInput
from sluicegate.schemas.governors.specs import check_kind
from sluicegate.schemas.times import from_wire_or_none

VIEWER = Guard(Right.VIEWER, reads)
ONE = "/governors/{kind}/{name}"

router = GuardedRouter(tags=["governors"])


def _changes(request: Request, body: bytes) -> Tried:
    return Tried("governor_changed" if request.method == "PUT" else "governor_deleted")


def _overrides(request: Request, body: bytes) -> Tried:
    return Tried("override_begun" if request.method == "POST" else "override_ended")


def _adjusts(request: Request, body: bytes) -> Tried:
    return Tried("budget_adjusted")


def _seen(request: Request) -> int | None:
    """The version in `If-Match`, as `ETag` spelled it; None where there is none. Raises InvalidInput."""
    said = request.headers.get("if-match")
    if said is None:
        return None
    number = said.strip().removeprefix('"').removesuffix('"')
    if not (number.isascii() and number.isdigit() and len(number) < 16):
        raise InvalidInput("If-Match", f"{said!r:.40} is not the version of a governor")
    return int(number)


@router.guarded("GET", "/governors", VIEWER)
def read_governors(request: Request) -> GovernorsAnswer:
    """All governors: what they say, what the leader decided last, and whether they hold."""
    return spelling.governors_of(parts_of(request).governors.all())


@router.guarded("GET", ONE, VIEWER, responses=errors(404))
def read_governor(request: Request, response: Response, kind: str, name: str) -> GovernorBody:
    """One governor; its version is the `ETag`."""
    shown = parts_of(request).governors.one(check_kind(kind), name)
    response.headers["ETag"] = f'"{shown.stored.version}"'
    return spelling.governor_of(shown)


@router.guarded("PUT", ONE, Guard(Right.ADMIN, _changes), responses=errors(409))
def put_governor(request: Request, response: Response, kind: str, name: str, body: GovernorRequest) -> GovernorAnswer:
    """Makes a governor (without `If-Match`), or changes the one of which `If-Match` names the version."""
    changed = parts_of(request).governors.put(
        check_kind(kind),
        name,
        body.spec,
        version=_seen(request),
        reason=body.reason,
        actor=caller_of(request).name,
        is_dry=body.dry_run,
    )
    response.headers["ETag"] = f'"{changed.shown.stored.version}"'
    return GovernorAnswer(outcome=changed.outcome, governor=spelling.governor_of(changed.shown), dry_run=body.dry_run)


@router.guarded("DELETE", ONE, Guard(Right.ADMIN, _changes), responses=errors(404, 409))
def delete_governor(request: Request, kind: str, name: str, body: ReasonRequest) -> DeletedAnswer:
    """Takes a governor away; its hold is released at the leader's next round."""
    gone = parts_of(request).governors.delete(
        check_kind(kind), name, version=_seen(request), reason=body.reason, actor=caller_of(request).name
    )
    return DeletedAnswer(kind=str(gone.kind), name=gone.name, version=gone.version)


@router.guarded("POST", f"{ONE}/override", Guard(Right.OPERATOR, _overrides), responses=errors(404, 409))
def override_governor(request: Request, kind: str, name: str, body: OverrideRequest) -> GovernorBody:
    """Goes on past a governor that holds, until its condition turns false or the time is over."""
    shown = parts_of(request).governors.override(
        check_kind(kind), name, for_s=body.for_s, reason=body.reason, actor=caller_of(request).name
    )
    return spelling.governor_of(shown)


@router.guarded("DELETE", f"{ONE}/override", Guard(Right.OPERATOR, _overrides), responses=errors(404, 409))
def end_override(request: Request, kind: str, name: str, body: ReasonRequest) -> GovernorBody:
    """Ends an override before its time."""
    shown = parts_of(request).governors.end_override(
        check_kind(kind), name, reason=body.reason, actor=caller_of(request).name
    )
    return spelling.governor_of(shown)


@router.guarded("POST", "/governors/budget/{name}/adjust", Guard(Right.ADMIN, _adjusts), responses=errors(404, 409))
def adjust_budget(request: Request, name: str, body: AdjustRequest) -> AdjustAnswer:
    """Adds to what the budget's day has cost, or takes off; a repeated `key` counts once."""
    is_new = parts_of(request).governors.adjust(
        name, amount=body.amount, reason=body.reason, key=body.key, actor=caller_of(request).name
    )
    return AdjustAnswer(outcome="applied" if is_new else "noop", budget=name, amount=str(body.amount))


@router.guarded("POST", "/governors/{kind}/test", VIEWER)
def rehearse_governor(request: Request, kind: str, body: RehearseRequest) -> RehearseAnswer:
    """What a governor would decide at a time, for a reading; changes nothing."""
    decision = parts_of(request).governors.rehearse(
        check_kind(kind), body.spec, at=from_wire_or_none(body.at, "at"), reading=body.reading or {}
    )
    return spelling.rehearsed(decision)
