"""Errors as JSON: one shape for all of them, and never a traceback."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from sluicegate.control.http.headers import SECURE
from sluicegate.schemas.api.errors import ErrorBody
from sluicegate.schemas.errors import InvalidInput, NotAuthenticated, Refused, SluicegateError
from sluicegate.schemas.printable import printable_logger

logger = printable_logger("sluicegate.control")

_WORDS = {404: "not_found", 405: "method_not_allowed"}


class PartsDown(Exception):
    """The control plane cannot serve now; `words` says of each part it stands on how it is."""

    def __init__(self, worst: SluicegateError, words: Mapping[str, str]) -> None:
        super().__init__(str(worst))
        self.worst = worst
        self.words = dict(words)


def errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """What a route declares of the errors that it answers."""
    return {status: {"model": ErrorBody} for status in statuses}


def problem(status: int, code: str, message: str, field: str | None = None, **more: Any) -> JSONResponse:
    """`{"error": {code, message, field?}}`, and beside it what stands in the way."""
    error = {"code": code, "message": _sendable(message)} | ({} if field is None else {"field": _sendable(field)})
    return JSONResponse({"error": error} | more, status, dict(SECURE))


def _sendable(text: str) -> str:
    """JSON may spell half of a surrogate pair, UTF-8 cannot: not all that was sent can be sent back."""
    return text.encode(errors="backslashreplace").decode()


def install(app: FastAPI) -> None:
    """Makes every error of `app` answer in that shape."""
    app.add_exception_handler(SluicegateError, _ours)
    app.add_exception_handler(PartsDown, _not_ready)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(Exception, _unforeseen)


async def _ours(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, SluicegateError)
    field = error.field if isinstance(error, InvalidInput) else None
    more = error.details if isinstance(error, Refused) else {}
    message = error.message if isinstance(error, InvalidInput) else str(error)
    answer = problem(error.http_status, error.code, message, field, **more)
    if isinstance(error, NotAuthenticated):
        answer.headers["WWW-Authenticate"] = "Bearer"
    return answer


async def _not_ready(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, PartsDown)
    return problem(503, error.worst.code, str(error), parts=error.words)


async def _invalid(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    return problem(422, InvalidInput.code, *reversed(_first(error.errors())))


def _first(errors: Sequence[Any]) -> tuple[str, str]:
    """The field (as the caller spelled it) and the message of the first error that pydantic found."""
    first = errors[0]
    names = [str(part) for part in first["loc"][1:] if isinstance(part, str)]
    if first["type"] == "json_invalid":
        return "body", f"is not JSON: {first.get('ctx', {}).get('error', first['msg'])}"
    if first["type"] == "extra_forbidden":
        return ".".join(names), "is not a field of this request"
    message = str(first["msg"])
    return ".".join(names) or "body", message[:1].lower() + message[1:]


async def _http(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    if error.status_code == 400:
        # How FastAPI puts it when a body breaks the parser (nested too deep, not UTF-8) instead of its rules.
        return problem(422, InvalidInput.code, "cannot be parsed as JSON", "body")
    code = _WORDS.get(error.status_code, "error")
    message = f"{request.method} {request.url.path}: {str(error.detail).lower()}"
    answer = problem(error.status_code, code, message)
    answer.headers.update(error.headers or {})
    return answer


async def _unforeseen(request: Request, error: Exception) -> JSONResponse:
    # Starlette raises it again after this answer, and the server logs it; the caller gets no traceback.
    return problem(500, "error", "an error that nobody foresaw; the control plane's log has it")
