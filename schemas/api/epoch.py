"""The epoch: the bodies of `POST /api/system/epoch`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import WithJsonSchema

from sluicegate.schemas.api.base import Answer, Asked
from sluicegate.schemas.api.pausing import SystemBody
from sluicegate.schemas.errors import InvalidInput
from sluicegate.schemas.snapshots import MAX_EPOCH, MAX_VERSION, Edition


class EpochRequest(Asked):
    """`POST /api/system/epoch`. `above`: `EPOCH.VERSION`, or null for the furthest that a worker stands at."""

    reason: Annotated[Any, WithJsonSchema({"type": "string"})] = None
    above: Annotated[Any, WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "null"}]})] = None


class EpochAnswer(Answer):
    """What is ordered, at the edition that it has now. `outcome`: `noop` where the epoch was above `above` already."""

    outcome: Literal["applied", "noop"]
    above: str
    published: bool
    system: SystemBody


def edition_above(text: object, field: str = "above") -> Edition | None:
    """The edition that `EPOCH.VERSION` names, with an epoch left above it; None for None. Raises InvalidInput."""
    if text is None:
        return None
    epoch, _, version = text.partition(".") if isinstance(text, str) else ("", "", "")
    if not (_is_count(epoch) and _is_count(version)):
        raise InvalidInput(field, f"{text!r:.40} is no edition such as 1.23")
    if not 1 <= int(epoch) < MAX_EPOCH:
        raise InvalidInput(field, f"an epoch to go above is a number from 1 to {MAX_EPOCH - 1}")
    return Edition(int(epoch), int(version))


def _is_count(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= len(str(MAX_VERSION))
