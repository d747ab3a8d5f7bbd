"""When a schedule of cron begins, in a time zone, over its changes of the clocks.

cronsim parses, and tells which days match. The instants are found here: walking through the hours, cronsim 2.7 misses
06:00 of `0 */6 * * *` on the day that Lord Howe goes back by half an hour.

As Debian's cron has it: where minute and hour are both named, an occurrence that the clocks skip is made up for when
they have been put forward, and one that comes twice counts the first time. Where one of the two begins with a star,
what is written on the clock counts, as often as it is there.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache

from cronsim import CronSim, CronSimError

from sluicegate.schemas.errors import InvalidInput
from sluicegate.schemas.governors.local_days import zone_of

_DAY = timedelta(days=1)
_MINUTE = timedelta(minutes=1)
FARTHEST_DAYS = 366 * 8
"""How far ahead is looked for a day that matches: 29 February may be eight years away."""


class Schedule:
    """Five fields of cron in one zone. Raises InvalidInput naming `cron` or `zone`."""

    def __init__(self, cron: str, zone: str) -> None:
        fields = cron.split()
        if len(fields) != 5:
            raise InvalidInput("cron", f"{cron!r} has {len(fields)} fields: minute hour day month weekday are five")
        self._zone = zone_of(zone)
        try:
            self._cron = CronSim(cron, datetime(2000, 1, 1))
        except CronSimError as error:
            raise InvalidInput("cron", f"{cron!r}: {str(error).lower()}") from None
        self._is_by_the_clock = fields[0].startswith("*") or fields[1].startswith("*")
        self._times = [time(hour, minute) for hour in sorted(self._cron.hours) for minute in sorted(self._cron.minutes)]
        self._of = lru_cache(maxsize=600)(self._found)
        if next(self.starts(datetime(2000, 1, 1, tzinfo=UTC)), None) is None:
            raise InvalidInput("cron", f"{cron!r} never comes")

    def starts(self, after: datetime) -> Iterator[datetime]:
        """The instants later than `after`, in order, in UTC; none where no day matches for years."""
        # A day more before: what its clocks skip is made up for on the next.
        day = after.astimezone(self._zone).date() - _DAY
        last = after
        missed = 0
        while missed < FARTHEST_DAYS:
            missed = 0 if self._matches(day) else missed + 1
            for instant in self._of(day) if not missed else ():
                # Two that the clocks skip come at the same instant, and are one.
                if instant > last:
                    yield instant
                    last = instant
            day += _DAY

    def _matches(self, day: date) -> bool:
        return day.month in self._cron.months and self._cron.match_day(day)

    def _found(self, day: date) -> list[datetime]:
        """The instants that are due to one day; kept for a while in `_of`, since each judgement asks anew."""
        found = set()
        for written in self._times:
            local = datetime.combine(day, written, tzinfo=self._zone)
            readings = [local.replace(fold=fold) for fold in ((0, 1) if self._is_by_the_clock else (0,))]
            real = [reading.astimezone(UTC) for reading in readings if _is_real(reading)]
            if not real and not self._is_by_the_clock:
                real = [_after_the_gap(local)]
            found.update(real)
        return sorted(found)


def _is_real(local: datetime) -> bool:
    return local.astimezone(UTC).astimezone(local.tzinfo).replace(tzinfo=None) == local.replace(tzinfo=None)


def _after_the_gap(local: datetime) -> datetime:
    """The first instant at which the clocks show more than `local`, which they skip."""
    # By the offset of before, an instant that lies after the change; of that, minute by minute, the first.
    instant = local.replace(fold=0).astimezone(UTC)
    wanted = local.replace(tzinfo=None)
    while (instant - _MINUTE).astimezone(local.tzinfo).replace(tzinfo=None) > wanted:
        instant -= _MINUTE
    return instant


@lru_cache(maxsize=1024)
def schedule_of(cron: str, zone: str) -> Schedule:
    """The schedule, parsed once; raises InvalidInput."""
    return Schedule(cron, zone)
