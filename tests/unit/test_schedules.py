"""Schedules against an oracle that walks through every minute; windows over every change of the clocks."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import cache
from itertools import islice
from zoneinfo import ZoneInfo, available_timezones

import pytest

from sluicegate.control.governors.schedules import Schedule
from sluicegate.schemas.errors import InvalidInput
from sluicegate.schemas.governors.windows import Window, judge

MINUTE = timedelta(minutes=1)
CRONS = ("30 2 * * *", "0 */6 * * *", "*/20 * * * *", "0,30 0-3 * * *", "15 1 * * 0,1")
YEAR = 2026


@cache
def changes(zone: str) -> tuple[datetime, ...]:
    """The instants of a year at which the offset of a zone changes, to the minute."""
    tz = ZoneInfo(zone)

    def offset(at: datetime) -> timedelta | None:
        return at.astimezone(tz).utcoffset()

    found = []
    hour = datetime(YEAR, 1, 1, tzinfo=UTC)
    while hour.year == YEAR:
        after = hour + timedelta(hours=6)
        if offset(hour) != offset(after):
            low = hour
            while offset(low) == offset(low + MINUTE):
                low += MINUTE
            found.append(low + MINUTE)
        hour = after
    return tuple(found)


def in_field(text: str, value: int, least: int, most: int) -> bool:
    for part in text.split(","):
        span, _, step = part.partition("/")
        low, _, high = (f"{least}-{most}" if span == "*" else span).partition("-")
        if int(low) <= value <= int(high or low) and (value - int(low)) % int(step or 1) == 0:
            return True
    return False


def is_written(cron: str, local: datetime) -> bool:
    """Do the fields name what a clock shows? (None of these crons names days of the month.)"""
    minute, hour, _, _, weekday = cron.split()
    return (
        in_field(minute, local.minute, 0, 59)
        and in_field(hour, local.hour, 0, 23)
        and in_field(weekday, (local.weekday() + 1) % 7, 0, 6)
    )


def oracle(cron: str, zone: str, first: datetime, last: datetime) -> Iterator[datetime]:
    """Every minute from `first` to `last`: what does the clock on the wall show, and what did it skip just now?"""
    tz = ZoneInfo(zone)
    minute, hour = cron.split()[:2]
    is_by_the_clock = "*" in (minute[0], hour[0])
    shown_before: set[datetime] = set()
    previous = (first - timedelta(days=1)).astimezone(tz).replace(tzinfo=None)
    at = first - timedelta(days=1)
    while at <= last:
        shown = at.astimezone(tz).replace(tzinfo=None)
        skipped = []
        while previous + MINUTE < shown:
            previous += MINUTE
            skipped.append(previous)
        fires = is_written(cron, shown) and (is_by_the_clock or shown not in shown_before)
        fires = fires or (not is_by_the_clock and any(is_written(cron, one) for one in skipped))
        if fires and at >= first:
            yield at
        shown_before.add(shown)
        previous = shown
        at += MINUTE


def different_zones() -> list[str]:
    """One of all zones whose clocks do the same this year, so that each behaviour is walked through once."""
    seen: dict[object, str] = {}
    for zone in sorted(available_timezones()):
        tz = ZoneInfo(zone)
        told = tuple(
            (at, at.astimezone(tz).utcoffset(), (at - MINUTE).astimezone(tz).utcoffset()) for at in changes(zone)
        )
        seen.setdefault(told or datetime(YEAR, 1, 1, tzinfo=tz).utcoffset(), zone)
    return list(seen.values())


def test_every_zone_over_both_changes_of_the_clocks_is_as_the_oracle_has_it() -> None:
    """Every behaviour that a zone of tzdata has, each change of the year, five schedules."""
    zones = different_zones()
    assert len(zones) > 40
    wrong = []
    for zone in zones:
        for change in changes(zone) or (datetime(YEAR, 7, 1, tzinfo=UTC),):
            first, last = change - timedelta(hours=30), change + timedelta(hours=30)
            for cron in CRONS:
                told = []
                for start in Schedule(cron, zone).starts(first - MINUTE):
                    if start > last:
                        break
                    told.append(start)
                if told != list(oracle(cron, zone, first, last)):
                    wrong.append((zone, cron, change))
    assert wrong == []


@pytest.mark.long
@pytest.mark.parametrize("duration", [timedelta(minutes=45), timedelta(hours=5)])
def test_windows_are_right_over_every_change_of_the_clocks(duration: timedelta) -> None:
    """Held is whatever lies less than the duration after a start of the oracle; `next_at` is where that changes."""
    wrong = []
    for zone in different_zones():
        for change in changes(zone):
            first, last = change - timedelta(hours=8), change + timedelta(hours=8)
            for cron in CRONS:
                window = Window(cron=cron, zone=zone, duration=duration)
                starts = list(oracle(cron, zone, first - duration, last + timedelta(hours=24)))
                schedule = Schedule(cron, zone)
                at = first
                while at < last:
                    held = any(start <= at < start + duration for start in starts)
                    decision = judge(window, schedule.starts, at)
                    just_before = decision.next_at and judge(window, schedule.starts, decision.next_at - MINUTE)
                    if decision.should_hold is not held or (just_before and just_before.should_hold is not held):
                        wrong.append((zone, cron, at))
                    at += timedelta(hours=3, minutes=7)
    assert wrong == []


@pytest.mark.parametrize(
    ("cron", "field"),
    [("0 0 2 * * *", "cron"), ("* * *", "cron"), ("61 * * * *", "cron"), ("0 0 30 2 *", "cron"), ("a b c d e", "cron")],
)
def test_what_is_no_schedule_is_refused(cron: str, field: str) -> None:
    """Six fields too: the seconds of cronsim would be taken for minutes."""
    with pytest.raises(InvalidInput) as refused:
        Schedule(cron, "UTC")
    assert refused.value.field == field


def test_a_zone_that_there_is_not_is_refused() -> None:
    with pytest.raises(InvalidInput, match="Mars/Olympus"):
        Schedule("0 2 * * *", "Mars/Olympus")


def test_sunday_is_zero_and_seven() -> None:
    """2026-11-29 is one."""
    after = datetime(2026, 11, 26, tzinfo=UTC)
    for word in ("0", "7", "SUN"):
        assert next(Schedule(f"0 2 * * {word}", "UTC").starts(after)) == datetime(2026, 11, 29, 2, tzinfo=UTC)


def test_lord_howe_has_its_six_oclock() -> None:
    """Its clocks go back by half an hour on 5 April 2026; cronsim alone goes from midnight to noon."""
    after = datetime(2026, 4, 4, 14, tzinfo=UTC)
    hours = [
        at.astimezone(ZoneInfo("Australia/Lord_Howe")).hour
        for at in islice(Schedule("0 */6 * * *", "Australia/Lord_Howe").starts(after), 4)
    ]
    assert hours == [6, 12, 18, 0]
