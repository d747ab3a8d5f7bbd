"""What all bodies share: camelCase on the wire, snake_case in code; and how a time is spelled."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, PlainSerializer, WithJsonSchema
from pydantic.alias_generators import to_camel

from sluicegate.schemas.times import to_wire

Instant = Annotated[
    datetime,
    PlainSerializer(to_wire, when_used="json"),
    WithJsonSchema({"type": "string", "format": "date-time"}),
]
"""A time as `schemas.times` spells it, with microseconds and Z."""


class Wire(BaseModel):
    """Base of every body. A request with an unknown field is refused: a misspelt one is never silently ignored."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="forbid")

    def to_json(self) -> dict[str, Any]:
        """The body as JSON has it: camelCase keys, times as texts."""
        return self.model_dump(mode="json", by_alias=True)


class Asked(Wire):
    """Base of what is asked for in JSON. Nothing is taken for what it is not: `0` is no `false`."""

    model_config = ConfigDict(strict=True)


class Answer(Wire):
    """Base of what the control plane answers. A reader ignores a field it does not know: answers may grow."""

    model_config = ConfigDict(extra="ignore")
