"""Before a route sees its request: who asks, may they, and is the body of a reasonable size."""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.concurrency import run_in_threadpool

from sluicegate.control.access.admission import Access, Attempt
from sluicegate.control.access.tokens import Caller, Right
from sluicegate.schemas.errors import InvalidInput
from sluicegate.schemas.scopes import GLOBAL, Scope

MAX_BODY_BYTES = 64 * 1024

_RIGHT = "x-right"
VIEWER: dict[str, Any] = {_RIGHT: Right.VIEWER.word, "security": [{"token": []}]}
OPERATOR: dict[str, Any] = {_RIGHT: Right.OPERATOR.word, "security": [{"token": []}]}
"""What a route needs, declared where the API's description shows it too."""


class GuardedRoute(APIRoute):
    """A route that needs a token with the right that its `openapi_extra` names.

    It asks before the body is parsed: a stranger learns nothing about what would be accepted.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The handler that asks first, and then does what FastAPI's own does."""
        handle = super().get_route_handler()
        needed = Right[(self.openapi_extra or OPERATOR)[_RIGHT].upper()]

        async def guarded(request: Request) -> Response:
            refusal = await _read_body(request)
            body = b"" if refusal else await request.body()
            access: Access = request.app.state.parts.access
            request.state.caller = await run_in_threadpool(_admit, access, request, needed, body)
            if refusal is not None:
                raise refusal
            return await handle(request)

        return guarded


def caller_of(request: Request) -> Caller:
    """Who asks; on guarded routes alone."""
    caller: Caller = request.state.caller
    return caller


def _admit(access: Access, request: Request, needed: Right, body: bytes) -> Caller:
    action, scope = _tried(request, body)
    attempt = Attempt(
        action=action,
        client=request.client.host if request.client else "",
        scope=scope,
        details={"method": request.method, "path": request.url.path},
    )
    caller = access.authenticate(request.headers.get("authorization"), attempt)
    access.authorise(caller, needed, attempt)
    return caller


def _tried(request: Request, body: bytes) -> tuple[str, str | None]:
    """The audit's verb for what is tried, and its scope, even where the request is not going to be parsed."""
    if request.method == "GET":
        return "read", None
    if nodename := request.path_params.get("nodename"):
        return "worker_forgotten", _scope(f"worker:{nodename}")
    try:
        asked = json.loads(body)
        action, scope = asked.get("action"), asked.get("scope", str(GLOBAL))
    except (ValueError, AttributeError, RecursionError):
        action, scope = None, None
    return (action if action in ("pause", "resume") else "change"), _scope(scope)


def _scope(text: object) -> str | None:
    """`text` where it is a scope; what a stranger wrote instead of one does not stand in the audit."""
    try:
        return str(Scope.parse(text))
    except InvalidInput:
        return None


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
