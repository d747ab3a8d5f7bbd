"""`/healthz` and `/readyz`: for whoever keeps the process running. No token is needed."""

from __future__ import annotations

from fastapi import APIRouter, Request

from sluicegate.control.http.guard import parts_of
from sluicegate.control.http.problems import PartsDown, errors
from sluicegate.schemas.api.health import AliveAnswer, PartsBody, ReadyAnswer

router = APIRouter(tags=["health"])


@router.get("/healthz")
async def is_alive() -> AliveAnswer:
    """The process answers; nothing else is looked at."""
    return AliveAnswer()


@router.get("/readyz", responses=errors(503))
def is_ready(request: Request) -> ReadyAnswer:
    """The database is there and migrated, and Redis answers; 503 says which part is not well."""
    faults = parts_of(request).readiness.look().faults
    words = {name: str(faults[name]) if name in faults else "ok" for name in PartsBody.model_fields}
    if faults:
        raise PartsDown(list(faults.values())[-1], words)
    return ReadyAnswer(parts=PartsBody(**words))
