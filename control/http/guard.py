"""Before a route sees its request: who asks, may they, and is the body of a reasonable size."""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine, Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

from fastapi import APIRouter, Request, Response
from fastapi.routing import APIRoute
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from sluicegate.control.access.denials import Attempt
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

    `tried` is asked before the body is parsed, with the bytes of it: none of one that is too large, and none of one
    whose sender has no valid token.
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
            # The token comes first: a stranger must not make us wait for a body, nor keep one in memory.
            request.state.caller = await run_in_threadpool(_authenticate, request, guard)
            connection = getattr(request.state, "connection", None)
            if connection is not None:
                connection.know()
            try:
                refusal = await _read_body(request)
            except ClientDisconnect:
                return Response(status_code=400)  # to nobody
            body = b"" if refusal else await request.body()
            await run_in_threadpool(_authorise, request, guard, body)
            if refusal is not None:
                raise refusal
            _refuse_repetitions(request.query_params.multi_items())
            _parse(request, body)
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


def _attempt(request: Request, guard: Guard, body: bytes) -> Attempt:
    tried = guard.tried(request, body)
    return Attempt(
        action=tried.action,
        client=request.client.host if request.client else "",
        scope=tried.scope,
        details={"method": request.method, "path": request.url.path},
    )


def _authenticate(request: Request, guard: Guard) -> Caller:
    access = parts_of(request).access
    return access.authenticate(request.headers.get("authorization"), _attempt(request, guard, b""))


def _authorise(request: Request, guard: Guard, body: bytes) -> None:
    parts_of(request).access.authorise(caller_of(request), guard.right, _attempt(request, guard, body))


def _refuse_repetitions(pairs: Iterable[tuple[str, object]]) -> dict[str, object]:
    """The pairs as a dict; raises InvalidInput where a name stands twice: each reader would take another of the two."""
    found: dict[str, object] = {}
    for name, value in pairs:
        if name in found:
            raise InvalidInput(name, "stands there twice")
        found[name] = value
    return found


def _refuse_constant(word: str) -> None:
    raise InvalidInput("body", f"is not JSON: it has no {word}")


def _parse(request: Request, body: bytes) -> None:
    """Parses the body for FastAPI, stricter than it would; what is no JSON at all is left to it to say."""
    with suppress(ValueError, RecursionError):
        request._json = json.loads(body, object_pairs_hook=_refuse_repetitions, parse_constant=_refuse_constant)


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
