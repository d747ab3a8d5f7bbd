"""Times on the wire: ISO-8601 in UTC with microseconds and a trailing Z, never a local time."""

from __future__ import annotations

from datetime import UTC, datetime

from sluicegate.schemas.errors import InvalidInput


def to_wire(instant: datetime) -> str:
    """`2026-01-31T09:30:00.000000Z` for this instant, whatever its zone; raises ValueError where it has none."""
    if instant.tzinfo is None:
        raise ValueError("a time without a zone cannot go on the wire")
    return instant.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def to_wire_or_none(instant: datetime | None) -> str | None:
    """As `to_wire`, for what may not have happened yet: None stays None."""
    return None if instant is None else to_wire(instant)


def from_wire(text: object, field: str) -> datetime:
    """The aware UTC time that `text` spells; raises InvalidInput naming `field` (a zone is required)."""
    if not isinstance(text, str):
        raise InvalidInput(field, f"{text!r} is not an ISO-8601 time")
    try:
        instant = datetime.fromisoformat(text)
    except ValueError:
        raise InvalidInput(field, f"{text!r} is not an ISO-8601 time") from None
    if instant.tzinfo is None:
        raise InvalidInput(field, f"{text!r} has no time zone: add Z or an offset")
    try:
        return instant.astimezone(UTC)
    except OverflowError:
        raise InvalidInput(field, f"{text!r} is out of range") from None


def from_wire_or_none(text: object, field: str) -> datetime | None:
    """As `from_wire`, for what may be left out: None stays None. Raises InvalidInput."""
    return None if text is None else from_wire(text, field)
