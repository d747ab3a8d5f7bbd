"""How an error is answered."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from sluicegate.schemas.api.base import Answer


class ErrorDetail(Answer):
    """What went wrong: `code` is a class of `schemas.errors`, `field` what to correct, where there is one."""

    code: str
    message: str
    field: str | None = None


class ErrorBody(BaseModel):
    """Every answer that is not a success; a 409 also carries what stands in the way (`metrics`, `remaining`)."""

    error: ErrorDetail
    model_config = ConfigDict(extra="allow")
