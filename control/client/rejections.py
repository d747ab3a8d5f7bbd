"""How an HTTP answer that is not a success becomes an error of `schemas.errors`."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from sluicegate.schemas.api.errors import ErrorBody, ErrorDetail
from sluicegate.schemas.errors import (
    DatabaseTooNew,
    InvalidInput,
    NotAllowed,
    NotAuthenticated,
    NotFound,
    NotMigrated,
    Refused,
    SluicegateError,
    Unavailable,
)


class InputRejected(InvalidInput):
    """The control plane refused a value that this client let through (422): exit 6, where InvalidInput is 2."""

    is_from_server = True

    def __str__(self) -> str:
        return f"{self.field}: {self.message}" if self.field else self.message


def to_error(status: int, body: Any, origin: str) -> SluicegateError:
    """The error that an answer means. `body` is its JSON or None, `origin` the control plane's address.

    The `code` in the body decides, where this client knows it; else the status. A body that is not of our
    shape did not come from a control plane (a proxy, another service): that is Unavailable, whatever the status.
    """
    try:
        parsed = ErrorBody.model_validate(body)
    except ValidationError:
        return Unavailable(f"{origin} does not answer as a sluicegate control plane does (HTTP {status})")
    error = parsed.error
    for kind in (NotAuthenticated, NotAllowed, NotFound, NotMigrated, DatabaseTooNew, Unavailable):
        if error.code == kind.code:
            return kind(error.message)
    if error.code == Refused.code:
        return Refused(error.message, parsed.model_extra)
    if error.code == InvalidInput.code:
        return _rejected(error)
    return _by_status(status, error, parsed.model_extra, origin)


def _by_status(status: int, error: ErrorDetail, extra: dict[str, Any] | None, origin: str) -> SluicegateError:
    match status:
        case 401:
            return NotAuthenticated(error.message)
        case 403:
            return NotAllowed(error.message)
        case 404:
            return NotFound(error.message)
        case 409:
            return Refused(error.message, extra)
        case status if 400 <= status < 500:
            return _rejected(error)
        case _:
            return Unavailable(f"the control plane at {origin} failed (HTTP {status}): {error.message}")


def _rejected(error: ErrorDetail) -> InputRejected:
    # A server may send its message with the field's name in front already; it is to be said once.
    field = error.field or ""
    return InputRejected(field, error.message.removeprefix(f"{field}: "))
