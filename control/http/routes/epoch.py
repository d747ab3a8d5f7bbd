"""`/api/system/epoch`: going above what workers stand at, after the database was lost or restored."""

from __future__ import annotations

from fastapi import Request

from sluicegate.control import spelling
from sluicegate.control.access.tokens import Right
from sluicegate.control.http.guard import Guard, GuardedRouter, Tried, caller_of, parts_of
from sluicegate.control.http.problems import errors
from sluicegate.schemas.api.epoch import EpochAnswer, EpochRequest, edition_above

router = GuardedRouter(tags=["epoch"])


def _raises(request: Request, body: bytes) -> Tried:
    return Tried("epoch_raised")


@router.guarded("POST", "/system/epoch", Guard(Right.ADMIN, _raises), responses=errors(409))
def raise_epoch(request: Request, body: EpochRequest) -> EpochAnswer:
    """Publishes what is ordered above every edition that workers stand at, so that they take it; changes no hold."""
    recovery = parts_of(request).recovery
    above = edition_above(body.above)
    return spelling.epoch_of(recovery.raise_epoch(above=above, reason=body.reason, actor=caller_of(request).name))
