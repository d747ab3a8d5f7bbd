"""`/api/workers`: every worker, and the end of one that will not come back."""

from __future__ import annotations

from fastapi import Request
from starlette.convertors import StringConvertor, register_url_convertor

from sluicegate.control import spelling
from sluicegate.control.access.tokens import Right
from sluicegate.control.http.guard import Guard, GuardedRouter, Tried, caller_of, parts_of, reads, scope_of
from sluicegate.control.http.problems import errors
from sluicegate.schemas.api.own_holds import ClearAnswer, ClearRequest
from sluicegate.schemas.api.workers import ForgetAnswer, ForgetRequest, WorkersAnswer


class _AnyText(StringConvertor):
    """A part of a path with whatever stands in it: a nodename may have slashes, and line breaks too."""

    regex = r"(?s:.+)"


register_url_convertor("anytext", _AnyText())

router = GuardedRouter(tags=["workers"])


@router.guarded("GET", "/workers", Guard(Right.VIEWER, reads))
def list_workers(request: Request) -> WorkersAnswer:
    """Every worker: what it is, what it runs, which version it was told and which it has applied."""
    return WorkersAnswer.of(parts_of(request).reading.workers())


def _forgets(request: Request, body: bytes) -> Tried:
    return Tried("worker_forgotten", scope_of(f"worker:{request.path_params['nodename']}"))


@router.guarded(
    "POST", "/workers/{nodename:anytext}/forget", Guard(Right.OPERATOR, _forgets), responses=errors(404, 409)
)
def forget_worker(request: Request, nodename: str, body: ForgetRequest) -> ForgetAnswer:
    """Stops counting a worker that fell silent, until it beats again."""
    forgotten = parts_of(request).fleet.forget(nodename, reason=body.reason, actor=caller_of(request).name)
    return ForgetAnswer.of(nodename, forgotten.seen_at)


def _clears(request: Request, body: bytes) -> Tried:
    return Tried("health_cleared", scope_of(f"worker:{request.path_params['nodename']}"))


@router.guarded(
    "POST", "/workers/{nodename:anytext}/clear-health", Guard(Right.OPERATOR, _clears), responses=errors(404)
)
def clear_health(request: Request, nodename: str, body: ClearRequest) -> ClearAnswer:
    """Has a worker let go of what it holds itself for, and judge its GPUs and its host anew."""
    own, caller = parts_of(request).own_records, caller_of(request)
    return spelling.cleared_of(own.clear(nodename, rule=body.rule, reason=body.reason, actor=caller.name))
