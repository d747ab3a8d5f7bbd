"""Spans of time as people write them: `90s`, `5m`, `1h30m`, `2d`."""

from __future__ import annotations

import re
from datetime import timedelta

from sluicegate.schemas.errors import InvalidInput

_UNITS = {"d": 86_400, "h": 3600, "m": 60, "s": 1}
_SHAPE = re.compile(r"(?:(\d{1,9})d)?(?:(\d{1,9})h)?(?:(\d{1,9})m)?(?:(\d{1,9})s)?\Z", re.ASCII)
MOST = timedelta(days=366)


def parse_span(text: str, field: str) -> timedelta:
    """The span that `text` spells, above zero and at most a year; raises InvalidInput naming `field`."""
    match = _SHAPE.match(text.strip().lower())
    if not text.strip() or match is None:
        raise InvalidInput(field, f"{text!r} is not a span of time such as 90s, 5m, 1h30m or 2d")
    amounts = zip(match.groups(), _UNITS.values(), strict=True)
    span_s = sum(int(amount or 0) * unit for amount, unit in amounts)
    if not 0 < span_s <= MOST.total_seconds():
        raise InvalidInput(field, f"{text!r} is out of range: above zero, at most {MOST.days}d")
    return timedelta(seconds=span_s)


def format_span(span: timedelta) -> str:
    """The inverse, of whole seconds; `0s` for none."""
    left, told = int(span.total_seconds()), ""
    for unit, seconds in _UNITS.items():
        amount, left = divmod(left, seconds)
        told += f"{amount}{unit}" if amount else ""
    return told or "0s"
