"""Days as people have them, in a time zone: of 23, 24 or 25 hours, the first of which may be missing. Pure."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta
from functools import cache, lru_cache
from typing import TypeVar
from zoneinfo import ZoneInfo, available_timezones

from sluicegate.schemas.errors import InvalidInput

T = TypeVar("T")

QUARTER = timedelta(minutes=15)
"""Every offset of tzdata that is in use is a multiple of it, and so are all changes of the clocks."""


@lru_cache(maxsize=1024)
def zone_of(name: object, field: str = "zone") -> ZoneInfo:
    """The zone of this name; raises InvalidInput naming `field`."""
    if not isinstance(name, str) or name not in _names():
        raise InvalidInput(field, f"{name!r:.60} is not a time zone such as Europe/Berlin")
    return ZoneInfo(name)


@cache
def _names() -> frozenset[str]:
    return frozenset(available_timezones())


def first_instant(day: date, zone: ZoneInfo) -> datetime:
    """The first instant at which calendars show `day` or a later one, in UTC: not always a midnight."""
    instant = datetime.combine(day, time(), tzinfo=zone).astimezone(UTC)
    while (instant - QUARTER).astimezone(zone).date() >= day:
        instant -= QUARTER
    return instant


def day_of(now: datetime, zone: ZoneInfo, begun: date | None = None) -> date:
    """The local date of `now`; a day that has `begun` is not left because a clock was set back.

    One that lies further ahead was begun by a clock that was wrong, and does not count.
    """
    today = now.astimezone(zone).date()
    return begun if begun is not None and today < begun <= today + timedelta(days=1) else today


def next_change(now: datetime, zone: ZoneInfo, value_of: Callable[[int], T]) -> datetime | None:
    """The next instant at which what the local hour has by `value_of` changes; None within two days: never."""
    present = value_of(now.astimezone(zone).hour)
    instant = datetime.fromtimestamp(now.timestamp() // QUARTER.total_seconds() * QUARTER.total_seconds(), UTC)
    for _ in range(4 * 49):
        instant += QUARTER
        if value_of(instant.astimezone(zone).hour) != present:
            return instant
    return None
