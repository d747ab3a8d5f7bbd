"""Hysteresis: when a rule takes its hold, and when it lets go. Pure.

A hold is taken at once; it ends by continuous recovery alone: at least the dwell after it was taken, and after a dwell
in which every reading was well. "0.05 above the mark, and 30 s after it was taken" made 161 edges an hour of a noisy
reading, some 2 s apart. Each time it is taken again soon, the dwell doubles.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime

from sluicegate.schemas.health.thresholds import RuleSetting

AGAIN_WITHIN_S = 900.0
LONGEST_DWELL_S = 900.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What one rule says of one look. `is_bad` None: it cannot be known, and is neither bad nor well.

    `reason`: what was read and what must change, in words; `about`: what it is of (GPUs, codes), so that a hold that
    stands says what has come since.
    """

    is_bad: bool | None
    is_well: bool = False
    reason: str = ""
    numbers: dict[str, int | float | str | None] = field(default_factory=dict)
    about: frozenset[str] = frozenset()


NOTHING_TO_JUDGE = Finding(is_bad=None, is_well=True)
UNKNOWN = Finding(is_bad=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """A hold that stands, or would stand: since when by the host's clock, and by `now_s`. `is_adopted`: by an
    earlier life of the worker.
    """

    since: datetime
    taken_s: float
    finding: Finding
    is_adopted: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Latch:
    """What is known of one rule from look to look. Times are of a clock that only goes forward, in seconds."""

    bad_in_row: int = 0
    taken: Taken | None = None
    dwell_s: float = 0.0
    well_since_s: float | None = None
    released_s: float | None = None


def step(latch: Latch, finding: Finding, setting: RuleSetting, *, at: datetime, now_s: float) -> Latch:
    """The latch after one look."""
    if latch.taken is not None:
        return _go_on(latch, latch.taken, finding, now_s)
    if finding.is_bad is None:
        return latch
    if not finding.is_bad:
        return replace(latch, bad_in_row=0)
    in_row = latch.bad_in_row + 1
    if in_row < setting.readings:
        return replace(latch, bad_in_row=in_row)
    is_again = latch.released_s is not None and now_s - latch.released_s <= AGAIN_WITHIN_S
    dwell_s = min(2 * latch.dwell_s, LONGEST_DWELL_S) if is_again else float(setting.release_after_s)
    taken = Taken(since=at, taken_s=now_s, finding=finding)
    return Latch(taken=taken, dwell_s=max(dwell_s, float(setting.release_after_s)))


def adopt(latch: Latch, finding: Finding, setting: RuleSetting, *, since: datetime, now_s: float) -> Latch:
    """Stand by a hold that an earlier life of this worker took: it is judged as one that was taken now."""
    taken = Taken(since=since, taken_s=now_s, finding=finding, is_adopted=True)
    return Latch(taken=taken, dwell_s=max(latch.dwell_s, float(setting.release_after_s)))


def interrupt(latch: Latch) -> Latch:
    """There was no look where one was due: whatever was well before counts no more."""
    return replace(latch, well_since_s=None)


def _go_on(latch: Latch, taken: Taken, finding: Finding, now_s: float) -> Latch:
    if finding.is_bad or not finding.is_well:
        if finding.is_bad and not finding.about <= taken.finding.about:
            taken = replace(taken, finding=finding)
        return replace(latch, taken=taken, well_since_s=None)
    well_since_s = now_s if latch.well_since_s is None else latch.well_since_s
    if now_s - taken.taken_s >= latch.dwell_s and now_s - well_since_s >= latch.dwell_s:
        return Latch(dwell_s=latch.dwell_s, released_s=now_s)
    return replace(latch, well_since_s=well_since_s)
