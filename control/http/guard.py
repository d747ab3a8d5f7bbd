"""Before a route sees its request: who asks, may they, and is the body of a reasonable size."""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.concurrency import run_in_threadpool

from sluicegate.control.access import Access, Attempt
from sluicegate.control.tokens import Caller, Right
from sluicegate.schemas.errors import InvalidInput

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
            await _read_body(request)
            body = await request.body()
            access: Access = request.app.state.parts.access
            request.state.caller = await run_in_threadpool(_admit, access, request, needed, body)
            return await handle(request)

        return guarded


def caller_of(request: Request) -> Caller:
    """Who asks; on guarded routes alone."""
    caller: Caller = request.state.caller
    return caller


def _admit(access: Access, request: Request, needed: Right, body: bytes) -> Caller:
    attempt = Attempt(
        action=_action(request, body),
        client=request.client.host if request.client else "",
        details={"method": request.method, "path": request.url.path},
    )
    caller = access.authenticate(request.headers.get("authorization"), attempt)
    access.authorise(caller, needed, attempt)
    return caller


def _action(request: Request, body: bytes) -> str:
    """The audit's verb for what is tried, even by somebody whose request is not going to be parsed."""
    if request.method == "GET":
        return "read"
    if request.url.path.endswith("/forget"):
        return "worker_forgotten"
    try:
        asked = json.loads(body).get("action")
    except (ValueError, AttributeError, RecursionError):
        asked = None
    return asked if asked in ("pause", "resume") else "change"


async def _read_body(request: Request) -> None:
    """Reads the body for all who ask for it later; raises InvalidInput where it is too large."""
    chunks: list[bytes] = []
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > MAX_BODY_BYTES:
            raise InvalidInput("body", f"has more than {MAX_BODY_BYTES} bytes")
        chunks.append(chunk)
    request._body = b"".join(chunks)
