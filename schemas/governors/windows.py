"""Maintenance windows: a schedule that holds, or that holds all the rest of the time. Pure.

A window is [start, start + duration) in elapsed time: a change of the clocks makes it neither longer nor shorter.
Windows that overlap are one. `lead` is drained before the hold is wanted, so that the fleet is idle by then.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from sluicegate.schemas.governors.decisions import Decision
from sluicegate.schemas.modes import Mode
from sluicegate.schemas.scopes import GLOBAL, Scope
from sluicegate.schemas.times import to_wire, to_wire_or_none

LONGEST = timedelta(days=7)
MOST_STARTS = 500
"""Looked at for one edge: windows that still run into each other after so many have no end that matters."""

Starts = Callable[[datetime], Iterator[datetime]]
"""The instants later than another one at which a schedule begins, in order; it may end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """A schedule of five fields of cron in `zone`. `is_inverted`: work may start only inside."""

    cron: str
    zone: str
    duration: timedelta
    lead: timedelta = timedelta(0)
    scope: Scope = GLOBAL
    mode: Mode = Mode.DRAIN
    is_inverted: bool = False
    is_enabled: bool = True


@dataclass(frozen=True, slots=True)
class Span:
    """From its first instant to its end, which is not in it; `end` None: no end can be seen."""

    start: datetime
    end: datetime | None


def judge(window: Window, starts: Starts, now: datetime) -> Decision:
    """Is `now` within a span that is held? The edge that comes next is told too."""
    span = _span_at_or_after(window, starts, now)
    is_within = span is not None and span.start <= now
    is_held = is_within is not window.is_inverted
    edge = None if span is None else (span.end if is_within else span.start)
    return Decision(
        should_hold=is_held,
        reason=_words(window, is_held, edge),
        details={
            "shouldPause": is_held,
            "isWithin": is_within,
            "startsAt": None if span is None else to_wire(span.start),
            "endsAt": None if span is None else to_wire_or_none(span.end),
            "nextTransition": to_wire_or_none(edge),
            "invert": window.is_inverted,
        },
        next_at=edge,
        mode=window.mode,
    )


def _span_at_or_after(window: Window, starts: Starts, now: datetime) -> Span | None:
    """The span that `now` is in, or else the next one; overlapping ones, and such as touch, are one.

    Of a window that holds a span begins `lead` early; of one that is inverted it ends `lead` early, since it is the
    time outside that is to find the fleet idle.
    """
    before, after = (timedelta(0), window.lead) if window.is_inverted else (window.lead, timedelta(0))
    length = window.duration - after
    found: Span | None = None
    for count, start in enumerate(starts(now - length)):
        begins, ends = start - before, start + length
        if found is None:
            found = Span(begins, ends)
        elif found.end is not None and begins <= found.end:
            found = Span(found.start, max(found.end, ends))
        else:
            return found
        if count >= MOST_STARTS:
            return Span(found.start, None)
        if found.start > now:
            return found
    return found


def _words(window: Window, is_held: bool, edge: datetime | None) -> str:
    """Printed by minutes in UTC: people compare it with logs."""
    until = "for good" if edge is None else f"until {edge.strftime('%Y-%m-%d %H:%M')} UTC"
    schedule = f"{window.cron!r} ({window.zone})"
    if window.is_inverted:
        return f"outside the window {schedule}, closed {until}" if is_held else f"inside the window {schedule}, {until}"
    return f"the window {schedule} is open {until}" if is_held else f"the window {schedule} is closed {until}"
