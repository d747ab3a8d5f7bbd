"""The holds that workers place on themselves: the bodies of `POST /api/workers/{nodename}/clear-health`."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import WithJsonSchema

from sluicegate.schemas.api.base import Answer, Asked
from sluicegate.schemas.api.holds import HoldBody


class ClearRequest(Asked):
    """`POST /api/workers/{nodename}/clear-health`. `rule`: one alone, such as `gpu.lost`; null for all."""

    reason: Annotated[Any, WithJsonSchema({"type": "string"})] = None
    rule: Annotated[Any, WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "null"}]})] = None


class ClearAnswer(Answer):
    """Which holds of its own the worker is told to let go of. `published`: is that in Redis, where it sees it?"""

    nodename: str
    cleared: list[HoldBody]
    published: bool
