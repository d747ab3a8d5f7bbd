"""Is it alive, is it ready: the bodies of `/healthz` and `/readyz`."""

from __future__ import annotations

from typing import Literal

from sluicegate.schemas.api.base import Answer


class AliveAnswer(Answer):
    """`GET /healthz`."""

    status: Literal["ok"] = "ok"


class PartsBody(Answer):
    """What the control plane stands on, each `ok` or in words what is not well."""

    redis: str
    postgres: str


class ReadyAnswer(Answer):
    """`GET /readyz`, where all is well; a 503 has `parts` beside its error."""

    status: Literal["ready"] = "ready"
    parts: PartsBody
