"""The REST API as a FastAPI application: routes, and before each of them the question who asks."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, FastAPI, Query, Request
from fastapi.responses import JSONResponse
from pydantic import Field

from sluicegate.control.access.admission import Access
from sluicegate.control.audit import events
from sluicegate.control.fleet.view import Fleet
from sluicegate.control.http import problems
from sluicegate.control.http.guard import OPERATOR, VIEWER, GuardedRoute, caller_of
from sluicegate.control.links.state_redis import Bus
from sluicegate.control.pausing.change import Pausing
from sluicegate.control.store.database import Database
from sluicegate.schemas.api.bodies import (
    AuditAnswer,
    ChangeAnswer,
    ErrorBody,
    ForgetRequest,
    HoldAnswer,
    PauseAnswer,
    PauseRequest,
    PreviewAnswer,
    Wire,
)
from sluicegate.schemas.errors import InvalidInput, SluicegateError
from sluicegate.schemas.scopes import Scope
from sluicegate.schemas.times import from_wire_or_none, to_wire


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What the routes ask."""

    pausing: Pausing
    fleet: Fleet
    access: Access
    database: Database
    bus: Bus
    namespace: str


class AuditQuery(Wire):
    """The filters of `GET /api/audit` (R-C9)."""

    since: str | None = None
    until: str | None = None
    actor: str | None = None
    action: str | None = None
    cause: str | None = None
    scope: str | None = None
    worker: str | None = None
    limit: int = Field(100, ge=1, le=1000)
    offset: int = Field(0, ge=0, le=1_000_000_000)

    def to_query(self) -> events.Query:
        """The query; raises InvalidInput naming the filter that is wrong."""
        words = {name: getattr(self, name) for name in ("actor", "action", "cause", "scope", "worker")}
        for name, value in words.items():
            if value is not None and not (value and value.isprintable()):
                raise InvalidInput(name, f"{value!r} is not something that events have")
        return events.Query(
            since=from_wire_or_none(self.since, "since"),
            until=from_wire_or_none(self.until, "until"),
            limit=self.limit,
            offset=self.offset,
            **words,
        )


def _errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {status: {"model": ErrorBody} for status in statuses}


api = APIRouter(prefix="/api", route_class=GuardedRoute, responses=_errors(401, 403, 422, 429, 503))
health = APIRouter(tags=["health"])


def _parts(request: Request) -> Parts:
    parts: Parts = request.app.state.parts
    return parts


@api.get("/system/worker-pause", response_model=PauseAnswer, openapi_extra=VIEWER, tags=["pause"])
def read_pause(request: Request, scope: str = "global") -> JSONResponse:
    """What is ordered, how far the fleet has got with it, and the newest five audit events.

    The metrics are those of `scope`.
    """
    return JSONResponse(_parts(request).pausing.read(Scope.parse(scope)))


@api.get("/system/worker-pause/preview", response_model=PreviewAnswer, openapi_extra=VIEWER, tags=["pause"])
def preview_pause(request: Request, scope: str = "global") -> JSONResponse:
    """What a hold on `scope` would touch now, and the time until it should have drained. Changes nothing."""
    return JSONResponse(_parts(request).pausing.preview(Scope.parse(scope)))


@api.post(
    "/system/worker-pause",
    response_model=ChangeAnswer,
    openapi_extra=OPERATOR,
    responses=_errors(409),
    tags=["pause"],
)
def change_pause(request: Request, body: PauseRequest) -> JSONResponse:
    """Pauses or resumes; the answer says what this request did."""
    return JSONResponse(_parts(request).pausing.change(body, caller_of(request).name))


@api.get("/holds/{hold_id}", response_model=HoldAnswer, openapi_extra=VIEWER, responses=_errors(404), tags=["pause"])
def read_hold(request: Request, hold_id: str) -> JSONResponse:
    """One hold, in force or released: who ran what when it was placed, what waited, and what became of it."""
    try:
        wanted = UUID(hold_id)
    except ValueError:
        raise InvalidInput("id", f"{hold_id!r} is not the id of a hold") from None
    return JSONResponse(_parts(request).pausing.tell(wanted))


@api.get("/workers", openapi_extra=VIEWER, tags=["workers"])
def list_workers(request: Request) -> JSONResponse:
    """Every worker: what it is, what it runs, which version it was told and which it has applied."""
    return JSONResponse(_parts(request).pausing.workers())


@api.post("/workers/{nodename:path}/forget", openapi_extra=OPERATOR, responses=_errors(404, 409), tags=["workers"])
def forget_worker(request: Request, nodename: str, body: ForgetRequest) -> JSONResponse:
    """Stops counting a worker that fell silent, until it beats again."""
    forgotten = _parts(request).fleet.forget(nodename, reason=body.reason, actor=caller_of(request).name)
    return JSONResponse({"nodename": nodename, "lastSeenAt": to_wire(forgotten.seen_at), "forgotten": True})


@api.get("/audit", response_model=AuditAnswer, openapi_extra=VIEWER, tags=["audit"])
def search_audit(request: Request, query: Annotated[AuditQuery, Query()]) -> JSONResponse:
    """The audit events that match, newest first. `since` is included, `until` is not."""
    parts = _parts(request)
    wanted = query.to_query()
    with parts.database.transaction() as connection:
        found, total = events.search(connection, parts.namespace, wanted)
    return JSONResponse({"events": found, "total": total, "limit": wanted.limit, "offset": wanted.offset})


@health.get("/healthz")
async def is_alive() -> JSONResponse:
    """The process answers; nothing else is looked at."""
    return JSONResponse({"status": "ok"})


@health.get("/readyz", responses=_errors(503))
def is_ready(request: Request) -> JSONResponse:
    """The database is there and migrated, and Redis answers; 503 says which part is not well."""
    parts = _parts(request)
    words: dict[str, str] = {}
    worst: SluicegateError | None = None
    for name, look in (("redis", parts.bus.ping), ("postgres", parts.database.check)):
        try:
            look()
            words[name] = "ok"
        except SluicegateError as error:
            words[name], worst = str(error), error
    if worst is not None:
        return problems.problem(503, worst.code, str(worst), parts=words)
    return JSONResponse({"status": "ready", "parts": words})


def build(parts: Parts) -> FastAPI:
    """The application over `parts`."""
    app = FastAPI(
        title="sluicegate",
        summary="A pause control plane for Celery fleets.",
        version=_version(),
        redoc_url=None,
        openapi_tags=[{"name": name} for name in ("pause", "workers", "audit", "health")],
    )
    app.state.parts = parts
    app.include_router(api)
    app.include_router(health)
    problems.install(app)
    return app


def _version() -> str:
    try:
        return version("sluicegate")
    except PackageNotFoundError:  # run from a tree that is not installed
        return "0"
