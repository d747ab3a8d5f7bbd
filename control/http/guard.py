"""Before a route sees its request: who asks, may they, and is the body of a reasonable size."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

from fastapi import APIRouter, Request, Response
from fastapi.routing import APIRoute
from starlette.concurrency import run_in_threadpool

from sluicegate.control.access.admission import Attempt
from sluicegate.control.access.tokens import Caller, Right
from sluicegate.control.parts import Parts
from sluicegate.schemas.errors import InvalidInput
from sluicegate.schemas.scopes import Scope

MAX_BODY_BYTES = 64 * 1024

E = TypeVar("E", bound=Callable[..., object])


@dataclass(frozen=True, slots=True)
class Tried:
    """What a request that was turned away had tried: the audit's verb, and on which scope."""

    action: str
    scope: str | None = None


@dataclass(frozen=True, slots=True)
class Guard:
    """What a route needs: the right of its caller; and how to tell what is tried, for the audit.

    `tried` is asked before the body is parsed, with the bytes of it (none of one that is too large).
    """

    right: Right
    tried: Callable[[Request, bytes], Tried]


def reads(request: Request, body: bytes) -> Tried:
    """What every route tries that changes nothing."""
    return Tried("read")


def scope_of(text: object) -> str | None:
    """`text` where it is a scope; what a stranger wrote instead of one does not stand in the audit."""
    try:
        return str(Scope.parse(text))
    except InvalidInput:
        return None


class GuardedRoute(APIRoute):
    """A route that asks who is there before the body is parsed: a stranger learns nothing of what would be accepted."""

    guard: ClassVar[Guard]

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The handler that asks first, and then does what FastAPI's own does."""
        handle = super().get_route_handler()
        guard = self.guard

        async def guarded(request: Request) -> Response:
            refusal = await _read_body(request)
            body = b"" if refusal else await request.body()
            request.state.caller = await run_in_threadpool(_admit, request, guard, body)
            if refusal is not None:
                raise refusal
            return await handle(request)

        return guarded


class GuardedRouter(APIRouter):
    """Routes below one prefix, each declared with its guard beside it; there is no way to add one without."""

    def guarded(self, method: str, path: str, guard: Guard, **declared: Any) -> Callable[[E], E]:
        """As FastAPI's own decorators; `declared` goes to `add_api_route`."""
        kind = type("GuardedRoute", (GuardedRoute,), {"guard": guard})
        described = {"x-right": guard.right.word, "security": [{"token": []}]}

        def add(endpoint: E) -> E:
            self.add_api_route(
                path, endpoint, methods=[method], route_class_override=kind, openapi_extra=described, **declared
            )
            return endpoint

        return add


def parts_of(request: Request) -> Parts:
    """The use cases behind the application."""
    parts: Parts = request.app.state.parts
    return parts


def caller_of(request: Request) -> Caller:
    """Who asks; on guarded routes alone."""
    caller: Caller = request.state.caller
    return caller


def _admit(request: Request, guard: Guard, body: bytes) -> Caller:
    tried = guard.tried(request, body)
    attempt = Attempt(
        action=tried.action,
        client=request.client.host if request.client else "",
        scope=tried.scope,
        details={"method": request.method, "path": request.url.path},
    )
    access = parts_of(request).access
    caller = access.authenticate(request.headers.get("authorization"), attempt)
    access.authorise(caller, guard.right, attempt)
    return caller


async def _read_body(request: Request) -> InvalidInput | None:
    """Reads the body for all who ask for it later; where it is too large, what to answer once it is known who asks."""
    chunks: list[bytes] = []
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > MAX_BODY_BYTES:
            return InvalidInput("body", f"has more than {MAX_BODY_BYTES} bytes")
        chunks.append(chunk)
    request._body = b"".join(chunks)
    return None
