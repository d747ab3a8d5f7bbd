"""The checker: decides from evidence alone whether a fleet kept its promises.

Evidence is what the tasks wrote about themselves, what was sent, what lay in the broker, when workers said
that they had put which edition into force, and when an operator called. Nobody tells it what should come
out, and it asks neither Celery nor the gate. All times are whole microseconds of one host's clock, compared
with no slack.

**Starts after acknowledgement** (S1, S2). A worker is shut from the moment at which it says that a paused
edition is in force until the moment at which it says so of a *newer running* one; its later incarnations are
bound by it too. Which editions are paused is known from the calls, not from the worker: an edition that was
never ordered, or one older than what the worker had acknowledged, opens nothing. A worker that never said
that a running edition is in force may start nothing at all (S4).

**Lost, interrupted, duplicated** (S5, S6). At each drained moment, and at the end, every number sent so far
has ended once, or lies in the broker once. It is *interrupted* where its last run began and never ended,
*lost* where nobody has it, *duplicated* where it ran again without having asked for a retry, or lies in the
broker twice, or lies there although it has ended.

**Displaced** (R-B2). Tasks that wait on purpose (countdown, rate limit) or were sent again (retry) are left
out; the others have a *rank*: their place in the queue at the drained moment before, then the order of
sending. Three rules, none of which an undisturbed fleet can break, however many slots it has:

1. Queue. Behind one worker the queue at a drained moment is exactly in rank. Behind W workers each one's
   messages came back in order, in some order of the workers: the longest falling row has at most W members
   (one worker hands its messages over what lies there in order; each further one adds one row). And no
   message stands further from its rank than could have been handed back: all slots times the prefetch, what
   waits on purpose, and one message more a worker, in flight.
2. Starts. Within one run between two resumes, a task is overtaken where one of higher rank started earlier
   on the same worker *and all slots of that worker were busy at some moment between the two starts*. Slots
   are started in rank, and one that has been given its task is not busy until that task takes its time: so a
   task that is merely slow off the mark leaves a slot idle all the while, and is not overtaken.
3. What stayed behind. With one worker, nothing that lies in the queue when it is drained ranks before
   something that has started, where again all slots were busy at some moment since that start.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from tests.fleet.broker import Contents
from tests.fleet.records import RUNS_AGAIN, Event, Record

Edition = tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """One task as its sender knows it. `waits`: it was sent with a countdown, or is of a rate-limited kind."""

    seq: int
    at_us: int
    waits: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One order of an operator: when it was called, and the edition and effect that the answer named."""

    at_us: int
    edition: Edition
    is_paused: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Sighting:
    """A worker's word: since `at_us` by its own clock, `edition` has been in force there."""

    nodename: str
    at_us: int
    edition: Edition


@dataclass(frozen=True, slots=True, kw_only=True)
class Drained:
    """What the broker held at a moment when nothing ran."""

    at_us: int
    contents: Contents


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """All that the checker goes by.

    `slots`: concurrency by nodename, of every worker that took part. `drained` has one entry a pause, in
    their order; order across pauses can be judged only so. `final` is the broker at the end, nothing running.
    """

    sent: Sequence[Sent]
    records: Sequence[Record]
    final: Contents
    slots: Mapping[str, int]
    prefetch: int = 1
    calls: Sequence[Call] = ()
    sightings: Sequence[Sighting] = ()
    drained: Sequence[Drained] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class LateStart:
    """A start that a promise forbids: `after_us` after the acknowledgement, or None where there was none yet."""

    record: Record
    after_us: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PauseTimes:
    """One pause: microseconds from its call to the last start and to the last worker's acknowledgement.

    `last_start_us` is None where nothing started after the call; `acknowledged_us` where a worker never did.
    """

    call: Call
    last_start_us: int | None
    acknowledged_us: int | None
    unacknowledged: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What the evidence shows. Each tuple is empty where the promise was kept."""

    starts: int
    ended: int
    late_starts: tuple[LateStart, ...] = ()
    went_back: tuple[Sighting, ...] = ()
    lost: tuple[int, ...] = ()
    interrupted: tuple[int, ...] = ()
    duplicated: tuple[int, ...] = ()
    left_unacked: tuple[int, ...] = ()
    displaced: tuple[int, ...] = ()
    unexpected: tuple[int, ...] = ()
    pauses: tuple[PauseTimes, ...] = field(default=())

    @property
    def broken(self) -> dict[str, int]:
        """How often each promise was broken; empty where all held. An interrupted task counts as lost."""
        counts = {
            "starts after acknowledgement": len(self.late_starts),
            "editions that went back": len(self.went_back),
            "lost": len(self.lost) + len(self.interrupted),
            "duplicated": len(self.duplicated),
            "left unacknowledged": len(self.left_unacked),
            "displaced": len(self.displaced),
            "never sent": len(self.unexpected),
            "pauses not acknowledged": sum(bool(pause.unacknowledged) for pause in self.pauses),
        }
        return {what: count for what, count in counts.items() if count}


def check(evidence: Evidence) -> Verdict:
    """Judge `evidence` by the rules above."""
    starts = sorted((r for r in evidence.records if r.event is Event.START), key=lambda r: r.at_us)
    lost, interrupted, duplicated = _conservation(evidence)
    known = {sent.seq for sent in evidence.sent}
    return Verdict(
        starts=len(starts),
        ended=sum(r.event is Event.END for r in evidence.records),
        late_starts=tuple(_late_starts(evidence, starts)),
        went_back=tuple(_went_back(evidence.sightings)),
        lost=tuple(sorted(lost)),
        interrupted=tuple(sorted(interrupted)),
        duplicated=tuple(sorted(duplicated)),
        left_unacked=tuple(sorted({m.seq for d in evidence.drained for m in d.contents.unacked})),
        displaced=tuple(sorted(_displaced(evidence, starts))),
        unexpected=tuple(sorted({r.seq for r in evidence.records} - known)),
        pauses=tuple(_pause_times(evidence, starts)),
    )


# --- starts after acknowledgement ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Shut:
    since_us: int
    until_us: float


def _late_starts(evidence: Evidence, starts: Sequence[Record]) -> Iterator[LateStart]:
    if not evidence.sightings:
        return  # nobody acknowledged anything: plain Celery, or a fleet that never answered
    shut = {node: list(_shut_times(node, evidence)) for node in {r.nodename for r in starts}}
    opened = {node: _first_opening(node, evidence) for node in shut}
    for start in starts:
        if start.at_us < opened[start.nodename]:
            yield LateStart(record=start, after_us=None)
            continue
        for spell in shut[start.nodename]:
            if spell.since_us < start.at_us < spell.until_us:
                yield LateStart(record=start, after_us=start.at_us - spell.since_us)


def _shut_times(nodename: str, evidence: Evidence) -> Iterator[_Shut]:
    shut: Sighting | None = None
    for sighting in _sightings_of(nodename, evidence.sightings):
        is_paused = _is_paused(sighting.edition, evidence.calls)
        if shut is None and is_paused:
            shut = sighting
        elif shut is not None and not is_paused and sighting.edition > shut.edition:
            yield _Shut(shut.at_us, sighting.at_us)
            shut = None
    if shut is not None:
        yield _Shut(shut.at_us, float("inf"))


def _first_opening(nodename: str, evidence: Evidence) -> float:
    for sighting in _sightings_of(nodename, evidence.sightings):
        if not _is_paused(sighting.edition, evidence.calls):
            return sighting.at_us
    return float("inf")


def _sightings_of(nodename: str, sightings: Iterable[Sighting]) -> list[Sighting]:
    return sorted({s for s in sightings if s.nodename == nodename}, key=lambda s: (s.at_us, s.edition))


def _is_paused(edition: Edition, calls: Iterable[Call]) -> bool:
    """The effect of the newest order that `edition` includes; before the first one the fleet runs."""
    ordered = [call for call in calls if call.edition <= edition]
    return max(ordered, key=lambda call: (call.edition, call.at_us)).is_paused if ordered else False


def _went_back(sightings: Sequence[Sighting]) -> Iterator[Sighting]:
    for nodename in {s.nodename for s in sightings}:
        highest: Edition = (0, 0)
        for sighting in _sightings_of(nodename, sightings):
            if sighting.edition < highest:
                yield sighting
            highest = max(highest, sighting.edition)


# --- lost and duplicated ---------------------------------------------------------------------------------


def _conservation(evidence: Evidence) -> tuple[set[int], set[int], set[int]]:
    lost: set[int] = set()
    interrupted: set[int] = set()
    duplicated: set[int] = set()
    records = sorted(evidence.records, key=lambda r: r.at_us)
    moments = [(d.at_us, d.contents) for d in evidence.drained] + [(None, evidence.final)]
    for at_us, contents in moments:
        past = [r for r in records if at_us is None or r.at_us <= at_us]
        sent = {s.seq for s in evidence.sent if at_us is None or s.at_us <= at_us}
        copies = Counter(m.seq for m in (*contents.queued, *contents.unacked))
        starts = Counter(r.seq for r in past if r.event is Event.START)
        retries = Counter(r.seq for r in past if r.event in RUNS_AGAIN)
        ended = Counter(r.seq for r in past if r.event is Event.END)
        for seq in sent:
            if starts[seq] > 1 + retries[seq] or copies[seq] > 1 or (ended[seq] and copies[seq]):
                duplicated.add(seq)
            elif not ended[seq] and not copies[seq]:
                (interrupted if starts[seq] > retries[seq] else lost).add(seq)
    return lost, interrupted, duplicated


# --- displaced -------------------------------------------------------------------------------------------


class _Ranks:
    """The order in which messages ought to come: as the queue last showed them, then as they were sent."""

    def __init__(self, queue: Sequence[int]) -> None:
        self._place = {seq: place for place, seq in enumerate(queue)}

    def of(self, seq: int) -> tuple[int, int]:
        place = self._place.get(seq)
        return (1, seq) if place is None else (0, place)


def _displaced(evidence: Evidence, starts: Sequence[Record]) -> set[int]:
    resent = {r.seq for r in evidence.records if r.event in RUNS_AGAIN}
    waits = {s.seq for s in evidence.sent if s.waits}
    workers = len(evidence.slots)
    reach = evidence.prefetch * sum(evidence.slots.values()) + workers + len(waits)

    displaced: set[int] = set()
    ranks = _Ranks(())
    for begin_us, end_us, drained in _runs(evidence):
        run = [r for r in starts if begin_us <= r.at_us < end_us and r.seq not in waits | resent]
        displaced |= _overtaken(run, ranks, evidence)
        if drained is not None:
            queue = [m.seq for m in drained.contents.queued if m.seq not in resent]
            plain = [seq for seq in queue if seq not in waits]
            if workers == 1:
                passed = _passed(run, ranks, evidence, drained.at_us)
                displaced |= {seq for seq in plain if ranks.of(seq) < passed}
            displaced |= _out_of_place(queue, ranks, workers, reach)
            ranks = _Ranks(queue)
    return displaced


def _runs(evidence: Evidence) -> Iterator[tuple[float, float, Drained | None]]:
    """The spells in which the fleet ran, each with the drained moment that ended it.

    A spell ends where the next begins: at the call that let the fleet run again.
    """
    begin: float = float("-inf")
    for drained in sorted(evidence.drained, key=lambda d: d.at_us):
        again = [c.at_us for c in evidence.calls if not c.is_paused and c.at_us > drained.at_us]
        end = min(again, default=float("inf"))
        yield begin, end, drained
        begin = end
    yield begin, float("inf"), None


def _out_of_place(queue: Sequence[int], ranks: _Ranks, workers: int, reach: int) -> set[int]:
    order = sorted(queue, key=ranks.of)
    rank = {seq: place for place, seq in enumerate(order)}
    places = [rank[seq] for seq in queue]
    if workers == 1:
        in_order = set(_longest_rising(places))
        return {order[place] for place in places if place not in in_order}
    displaced = {seq for place, seq in enumerate(queue) if abs(rank[seq] - place) > reach}
    falling = [-place for place in _longest_rising([-place for place in places])]
    if len(falling) > workers:
        displaced |= {order[place] for place in falling}
    return displaced


def _longest_rising(values: Sequence[int]) -> list[int]:
    """One longest strictly rising subsequence of distinct `values` (patience sorting)."""
    tops: list[int] = []
    before: dict[int, int | None] = {}
    for value in values:
        pile = bisect_left(tops, value)
        before[value] = tops[pile - 1] if pile else None
        tops[pile : pile + 1] = [value]
    row: list[int] = []
    value_or_none = tops[-1] if tops else None
    while value_or_none is not None:
        row.append(value_or_none)
        value_or_none = before[value_or_none]
    return row[::-1]


def _overtaken(run: Sequence[Record], ranks: _Ranks, evidence: Evidence) -> set[int]:
    """Rule 2. `run` holds the starts of one spell, in order of time."""
    overtaken: set[int] = set()
    for nodename, slots in evidence.slots.items():
        mine = [r for r in run if r.nodename == nodename]
        full = _full_spells(nodename, slots, evidence.records)
        seen: set[int] = set()
        highest = (-1, 0)
        passed = 0
        for start in mine:
            while passed < len(mine) and mine[passed].at_us < _last_full(full, start.at_us):
                highest = max(highest, ranks.of(mine[passed].seq))
                passed += 1
            if start.seq not in seen and ranks.of(start.seq) < highest:
                overtaken.add(start.seq)
            seen.add(start.seq)
    return overtaken


def _passed(run: Sequence[Record], ranks: _Ranks, evidence: Evidence, at_us: int) -> tuple[int, int]:
    """Rule 3, for one worker: the highest rank that started early enough for all slots to be busy after it."""
    ((nodename, slots),) = evidence.slots.items()
    last_full = _last_full(_full_spells(nodename, slots, evidence.records), at_us)
    return max((ranks.of(r.seq) for r in run if r.at_us < last_full), default=(-1, 0))


def _full_spells(nodename: str, slots: int, records: Sequence[Record]) -> list[int]:
    """The ends of the spells in which all slots of a worker were busy, in order.

    A run that never ended is not counted as busy: who knows when it stopped.
    """
    changes: list[tuple[int, int]] = []
    open_runs: dict[tuple[int, int], int] = {}
    for record in sorted((r for r in records if r.nodename == nodename), key=lambda r: r.at_us):
        key = (record.pid, record.seq)
        if record.event is Event.START:
            open_runs[key] = record.at_us
        elif key in open_runs:
            changes += [(open_runs.pop(key), +1), (record.at_us, -1)]
    ends: list[int] = []
    busy = 0
    for at_us, change in sorted(changes):
        if busy >= slots and change < 0:
            ends.append(at_us)
        busy += change
    return ends


def _last_full(ends: Sequence[int], at_us: int) -> float:
    """The end of the last spell that had ended by `at_us`; -inf where there was none."""
    place = bisect_right(ends, at_us)
    return ends[place - 1] if place else float("-inf")


# --- times -----------------------------------------------------------------------------------------------


def _pause_times(evidence: Evidence, starts: Sequence[Record]) -> Iterator[PauseTimes]:
    for call, following in _pause_calls(evidence.calls):
        end = following.at_us if following else float("inf")
        since = [s.at_us for s in starts if call.at_us <= s.at_us < end]
        answered: dict[str, int] = defaultdict(int)
        for nodename in evidence.slots:
            in_force = [
                s.at_us
                for s in _sightings_of(nodename, evidence.sightings)
                if s.edition >= call.edition and s.at_us >= call.at_us and _is_paused(s.edition, evidence.calls)
            ]
            if in_force and min(in_force) < end:
                answered[nodename] = min(in_force)
        missing = frozenset(evidence.slots) - frozenset(answered)
        yield PauseTimes(
            call=call,
            last_start_us=max(since) - call.at_us if since else None,
            acknowledged_us=None if missing or not answered else max(answered.values()) - call.at_us,
            unacknowledged=missing,
        )


def _pause_calls(calls: Sequence[Call]) -> Iterator[tuple[Call, Call | None]]:
    """Each call that shut a running fleet, and the one that let it run again."""
    pause: Call | None = None
    for call in sorted(calls, key=lambda c: c.at_us):
        if call.is_paused and pause is None:
            pause = call
        elif not call.is_paused and pause is not None:
            yield pause, call
            pause = None
    if pause is not None:
        yield pause, None
