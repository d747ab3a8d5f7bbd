"""The lives of one nodename: which of them count, which were replaced, and which are two workers of one name. Pure.

A nodename should be one worker's. A rolling deploy has two for a while, and two apps on one host may have the default
name for good. Each life is told by its incarnation:

    counts ── it says goodbye ──────────────────────────────────────────▶ gone
       └───── its lease runs out, and another began after its last beat ▶ replaced
              its lease runs out, and none did ─────────────────────────▶ unknown: it counts on
              the same, but that one cannot show to be of its place ────▶ unknown, *displaced*

Two lives of which each beat after the other had begun are namesakes: two workers, and no restart.

A life that signs its beats (`schemas.signed_beats`) is replaced by another one of its place alone: whoever can write
heartbeats can begin a life of any nodename, and keep the true one from being heard. Its beats count up, so that none
comes twice.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from sluicegate.schemas.beats import Beat
from sluicegate.schemas.errors import InvalidInput
from sluicegate.schemas.progress import Sighting, is_silent
from sluicegate.schemas.signed_beats import Word
from sluicegate.schemas.times import from_wire, from_wire_or_none, to_wire, to_wire_or_none

MAX_LIVES = 64
"""So many of one nodename are looked at, the newest: with more than one that beats, nothing is drained anyhow."""

MAX_GIVEN_UP = 8
"""So many of those that were given up are remembered, the newest: a heart keeps no more of other lives in Redis."""

Read = Callable[[bytes], tuple[Beat, Word]]
"""Reads a heartbeat, and whose word it is; raises InvalidInput."""

GONE_LISTED_FOR = timedelta(seconds=60)
"""How long a life that said goodbye is told of beside another one: its last words say what became of its tasks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Life:
    """What one life of a nodename said last.

    `since`: when it was first heard, by the server's clock; None: earlier than all that is known. `is_forgotten`: an
    operator gave it up, and it has not been heard of since.
    """

    sighting: Sighting
    since: datetime | None = None
    is_forgotten: bool = False

    @property
    def incarnation(self) -> str:
        """Which life it is."""
        return self.sighting.beat.incarnation

    @property
    def seen_at(self) -> datetime:
        """When it was last heard."""
        return self.sighting.seen_at

    def to_wire(self) -> dict[str, Any]:
        """As the database keeps it beside the newest life of its nodename."""
        return {
            "seenAt": to_wire(self.seen_at),
            "since": to_wire_or_none(self.since),
            "forgotten": self.is_forgotten,
            "beat": self.sighting.beat.to_wire(),
            "word": self.sighting.word.to_wire(),
        }

    @classmethod
    def from_wire(cls, data: Mapping[str, Any]) -> Life:
        """The inverse of `to_wire`; raises KeyError, TypeError or InvalidInput."""
        return cls(
            sighting=Sighting(
                beat=Beat.from_wire(data["beat"]),
                seen_at=from_wire(data["seenAt"], "seenAt"),
                word=Word.from_wire(data.get("word")),
            ),
            since=from_wire_or_none(data["since"], "since"),
            is_forgotten=bool(data["forgotten"]),
        )


def decode(raw: bytes | None, nodename: str, now: datetime, read: Read) -> list[Life]:
    """What stands under `names.lives_key`, as the workers' script wrote it: `{incarnation: {at, since, beat}}`.

    Times are seconds of the server. What cannot be read of it is left out, and what is forged: the newest life is heard
    under its own key.
    """
    try:
        found = list(json.loads(raw).values()) if raw else []
    except (ValueError, AttributeError, RecursionError):
        return []
    found = sorted(found, key=_newness)[-MAX_LIVES:]
    lives = (_decoded(entry, read) for entry in found)
    heard = [one for one in lives if one and one.sighting.beat.nodename == nodename and one.seen_at <= now]
    return sorted(heard, key=lambda one: one.seen_at)


def _newness(entry: Any) -> float:
    try:
        at = float(entry["at"])
    except (ValueError, KeyError, TypeError, OverflowError):
        return 0.0
    return at if math.isfinite(at) else 0.0


def _decoded(entry: Any, read: Read) -> Life | None:
    try:
        seen_at, since = _instant(entry["at"]), entry.get("since")
        beat, word = read(entry["beat"].encode())
        seen = Sighting(beat=beat, seen_at=seen_at, word=word)
        return Life(sighting=seen, since=None if since is None else _instant(since))
    except (InvalidInput, ValueError, KeyError, TypeError, AttributeError, OverflowError, OSError):
        return None


def _instant(seconds: Any) -> datetime:
    return datetime.fromtimestamp(float(seconds), UTC)


def merged(known: Iterable[Life], heard: Iterable[Life]) -> list[Life]:
    """Each life once, newest first, by its newest word. What was forgotten comes back with a newer one alone.

    Of those that are new as many as there is room for: whatever comes, none that is known makes room for it.
    """
    lives = {one.incarnation: one for one in known}
    for one in heard:
        before = lives.get(one.incarnation)
        if before is None:
            if len(lives) < MAX_LIVES:
                lives[one.incarnation] = one
        elif one.seen_at > before.seen_at and is_news(one.sighting, before.sighting):
            lives[one.incarnation] = replace(one, since=before.since if one.since is None else one.since)
    return sorted(lives.values(), key=lambda one: (one.seen_at, one.incarnation), reverse=True)


def is_news(heard: Sighting, known: Sighting) -> bool:
    """Was it said after `known`, both by one life? One that signs counts its beats: an older one was put back there.

    The same one once more is no sign of life either, whatever Redis says of when it was written.
    """
    return not known.word.is_signed or (heard.word.is_signed and heard.beat.seq > known.beat.seq)


def is_overtaken(heard: Sighting, known: Iterable[Life]) -> bool:
    """Is it an older beat of a life of which a later one was heard?"""
    return any(
        one.incarnation == heard.beat.incarnation
        and one.sighting.word.is_signed
        and heard.beat.seq < one.sighting.beat.seq
        for one in known
    )


def counting(lives: Sequence[Life], *, lease: timedelta, now: datetime) -> list[tuple[Life, int]]:
    """Those that count, in the order given, each with how many namesakes it has."""
    if len(lives) == 1:
        # As nearly every nodename has it.
        return [(one, 0) for one in lives if not one.is_forgotten]
    there = [one for one in lives if not one.is_forgotten and not _is_replaced(one, lives, lease, now)]
    staying = [one for one in there if not one.sighting.beat.is_goodbye]
    if staying:
        gone = [one for one in there if one not in staying and now - one.seen_at < GONE_LISTED_FOR]
        there = [one for one in there if one in staying or one in gone]
    else:
        there = there[:1]
    beating = [one for one in staying if not is_silent(one.sighting, lease=lease, now=now)]
    return [(one, sum(_overlap(one, other) for other in beating) if one in beating else 0) for one in there]


def worth_remembering(lives: Sequence[Life], *, lease: timedelta, now: datetime) -> list[Life]:
    """Those that the database must know of: the newest, the others that count, and those that were given up and may
    still be told of elsewhere.
    """
    counted = {one.incarnation for one, _ in counting(lives, lease=lease, now=now)}
    forgotten = [one for one in lives if one.is_forgotten and not any(_takes_over(other, one) for other in lives)]
    given_up = {one.incarnation for one in forgotten[:MAX_GIVEN_UP]}
    return [
        one
        for number, one in enumerate(lives)
        if number == 0 or one.incarnation in counted or one.incarnation in given_up
    ]


def _is_replaced(one: Life, lives: Iterable[Life], lease: timedelta, now: datetime) -> bool:
    if one.sighting.beat.is_goodbye or not is_silent(one.sighting, lease=lease, now=now):
        return False
    return any(_takes_over(other, one) for other in lives)


def is_displaced(one: Life, lives: Iterable[Life], *, lease: timedelta, now: datetime) -> bool:
    """Would it count as replaced, had a later life shown to be of its place?"""
    if one.sighting.beat.is_goodbye or not is_silent(one.sighting, lease=lease, now=now):
        return False
    later = [other for other in lives if _began_after(other, one)]
    return bool(later) and not any(_takes_over(other, one) for other in later)


def _takes_over(other: Life, one: Life) -> bool:
    """Is `other` the next life of the same worker, as far as can be known?"""
    if not _began_after(other, one):
        return False
    was = one.sighting.word
    return not was.is_signed or (was.place is not None and other.sighting.word.place == was.place)


def _began_after(one: Life, other: Life) -> bool:
    return one.since is not None and one.since > other.seen_at


def _overlap(one: Life, other: Life) -> bool:
    is_another = one.incarnation != other.incarnation
    return is_another and not _began_after(one, other) and not _began_after(other, one)


def clashes(workers: Iterable[tuple[str, int]]) -> list[str]:
    """A line for each nodename that several workers have, wherever that is said. Of each worker its nodename, and how
    many namesakes it has.
    """
    most: dict[str, int] = {}
    for nodename, namesakes in workers:
        most[nodename] = max(namesakes, most.get(nodename, 0))
    return [
        f"{nodename} is the name of {count + 1} workers: nothing is drained while more than one of them runs"
        for nodename, count in most.items()
        if count
    ]
