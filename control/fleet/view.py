"""The way back: from heartbeats to what an operator sees of each worker, and the metrics over all of them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from time import monotonic
from typing import Any

from sqlalchemy import Connection

from sluicegate.control.audit import events
from sluicegate.control.fleet import runtimes, sightings
from sluicegate.control.fleet.resources import FleetResources
from sluicegate.control.fleet.sightings import Memory, Remembered
from sluicegate.control.fleet.words import Episodes, Told, Words, forged_among
from sluicegate.control.holds import namespaces
from sluicegate.control.holds.namespaces import Truth
from sluicegate.control.links.broker import SOURCE, Broker
from sluicegate.control.links.outages import Outage
from sluicegate.control.links.state_redis import Bus, Heartbeats
from sluicegate.control.store.database import Database
from sluicegate.schemas import lives
from sluicegate.schemas.beats import Beat, WorkerState
from sluicegate.schemas.errors import NotFound, Refused, Unavailable
from sluicegate.schemas.holds.hold import check_reason
from sluicegate.schemas.lives import Life
from sluicegate.schemas.printable import printable_logger
from sluicegate.schemas.progress import (
    UNAVAILABLE,
    Metrics,
    Sighting,
    WorkerView,
    illegible,
    is_of_another_clock,
    measure,
    present_in,
    view,
)
from sluicegate.schemas.roll_call import Answers, strangers
from sluicegate.schemas.runtimes import ended
from sluicegate.schemas.scopes import GLOBAL, Scope, ScopeKind
from sluicegate.schemas.snapshots import Edition
from sluicegate.schemas.times import to_wire

logger = printable_logger("sluicegate.control")

GONE_LISTED_FOR = timedelta(hours=1)
KEPT_FOR = timedelta(days=7)


def combined(heard: list[Told], remembered: Mapping[str, Remembered], now: datetime) -> dict[str, list[Life]]:
    """The newest word of each life of every nodename, from Redis, whose time is `now`, and from the database.

    What is remembered from a time that has not come is older than anything that came by the clock as it is now.
    A forgotten one stays so until it beats again. One whose present words cannot be read goes by its last
    legible ones, which grow old. The newest life comes first, and `schemas.lives` tells which of them count.
    """
    known = {nodename: row.lives for nodename, row in remembered.items()}
    for entry in heard:
        found = _heard_lives(entry, remembered.get(entry.nodename), now)
        if found:
            known[entry.nodename] = found
        elif entry.nodename not in known:
            known[entry.nodename] = [Life(sighting=illegible(entry.nodename, entry.seen_at))]
    return known


def _heard_lives(entry: Told, row: Remembered | None, now: datetime) -> list[Life]:
    """All lives of this nodename, where Redis tells more of them than is remembered; nothing where it does not."""
    others, seen = entry.others, entry.seen
    if seen is None and others:
        # Beside those, somebody beats whose words cannot be read.
        seen = illegible(entry.nodename, entry.seen_at)
    if row is None:
        return lives.merged(others, [Life(sighting=seen)] if seen else [])
    if not sightings.is_newer(entry.seen_at, row.sighting.seen_at, now):
        return []
    # What was seen by a clock that is ahead of this one cannot be compared with what is seen now.
    known = [one for one in row.lives if not is_of_another_clock(one.seen_at, now)]
    found = lives.merged(known, others)
    if seen is None:
        return []
    # A life that nobody knew began after all that was known.
    return lives.merged(found, [Life(sighting=seen, since=_since(seen, found))])


def _since(seen: Sighting, known: list[Life]) -> datetime | None:
    is_known = any(one.incarnation == seen.beat.incarnation for one in known)
    return seen.seen_at if known and not is_known else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far the fleet has got with `truth`, at one moment."""

    truth: Truth
    workers: list[WorkerView]
    metrics: Metrics


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """Every worker at one moment. `is_heard` False: Redis was away, and these are their last known words.

    `forgotten`: the incarnations that an operator gave up, and that have not been heard of since. `answers`: the last
    roll call. `unread`: how many heartbeats were too many or too large to be read: their workers may run anything.
    """

    workers: list[WorkerView]
    at: datetime
    is_heard: bool
    forgotten: frozenset[str] = frozenset()
    answers: Answers = field(default_factory=dict)
    unread: int = 0

    def present_in(self, scope: Scope) -> list[WorkerView]:
        """The workers that have not left, and where work of `scope` could run."""
        return present_in(self.workers, scope)

    def measure(self, scope: Scope, *, queued: int | None, set_aside: Mapping[str, int] | None = None) -> Metrics:
        """The metrics of `scope`, with what was read of the broker elsewhere."""
        source = SOURCE if self.is_heard else UNAVAILABLE.source
        metrics = measure(
            self.workers, queued=queued, set_aside=set_aside, source=source, scope=scope, unread=self.unread
        )
        return replace(metrics, strangers=self.strangers(scope))

    def strangers(self, scope: Scope) -> tuple[str, ...]:
        """Who consumes what is in `scope`, and is heard by nobody here."""
        return strangers(self.answers, self.workers, scope)


class Fleet:
    """Reads heartbeats and keeps the database's memory of them. Thread-safe."""

    def __init__(
        self,
        *,
        database: Database,
        bus: Bus,
        broker: Broker,
        namespace: str,
        lease: timedelta,
        answers: Callable[[], Answers] = dict,
        words: Words | None = None,
        needs_signed: bool = False,
    ) -> None:
        """`words`: shared, so that nothing is checked twice. `needs_signed`: is who does not sign never quiet?"""
        self._database = database
        self._bus = bus
        self._broker = broker
        self._namespace = namespace
        self._lease = lease
        self._answers = answers
        self._needs_signed = needs_signed
        self._words = words or Words(namespace)
        self._episodes = Episodes()
        self._outage = Outage("heartbeats")
        self._resources = FleetResources(bus)

    def recall(self, connection: Connection) -> Memory:
        """What the database remembers of the workers."""
        return sightings.recall(connection, self._namespace, self._bus.most_workers)

    def progress(self, truth: Truth, remembered: Memory, scope: Scope = GLOBAL) -> Progress:
        """What the workers made of `truth`. With Redis away: the last that is known, and never drained.

        The metrics are those of `scope`; all workers are listed.
        """
        seen = self.look(truth, remembered)
        return Progress(truth=truth, workers=seen.workers, metrics=self.measure(seen, scope))

    def look(self, truth: Truth, remembered: Memory) -> Seen:
        """Every worker, at one moment."""
        rows = remembered.rows
        found = self._listen(rows)
        if found is None:
            last = {name: row.lives for name, row in rows.items()}
            workers = self._views(last, truth, truth.now)
            return Seen(
                workers=workers, at=truth.now, is_heard=False, forgotten=_forgotten(last), unread=remembered.unread
            )
        told = self._told(found)
        known = combined(told, rows, found.at)
        return Seen(
            workers=self._views(known, truth, found.at, forged_among(told, rows)),
            at=found.at,
            is_heard=True,
            forgotten=_forgotten(known),
            answers=self._answers(),
            unread=found.unread + remembered.unread,
        )

    def with_resources(self, workers: Iterable[WorkerView]) -> list[WorkerView]:
        """The same workers with what their probes read, as far as that can be had."""
        return self._resources.filled(workers)

    def measure(self, seen: Seen, scope: Scope = GLOBAL) -> Metrics:
        """The metrics of `scope`; asks the broker, unless Redis is away."""
        if not seen.is_heard:
            return seen.measure(scope, queued=None)
        depths, aside = self.depths(seen, scope), self.set_aside(seen, scope)
        return seen.measure(scope, queued=None if depths is None else sum(depths.values()), set_aside=aside)

    def depths(self, seen: Seen, scope: Scope = GLOBAL) -> dict[str, int] | None:
        """What is ready in each queue where work of `scope` may wait; None where the broker cannot be read."""
        return self._broker.depths(_queues_of(seen, scope))

    def set_aside(self, seen: Seen, scope: Scope = GLOBAL) -> dict[str, int] | None:
        """What is set aside of the same queues; None where that is not known. By the same look as the depths."""
        return self._broker.set_aside(_queues_of(seen, scope))

    def fold(self) -> list[Beat]:
        """Writes what Redis has into the database, and learns from it how long tasks take; what it heard.

        Only a leader does: two would count each run twice. Raises Unavailable.
        """
        now, entries = self._hear_for_good()
        with self._database.transaction() as connection:
            busy = sightings.busy(connection, self._namespace, self._bus.most_workers)
            forged = self._fold(connection, entries, now)
            runtimes.learn(connection, self._namespace, _runs_s(busy, entries), now)
        self._tell_of(forged)
        return [
            seen.beat
            for entry in entries
            if entry.nodename not in forged
            for seen in (entry.seen, *(one.sighting for one in entry.others))
            if seen is not None
        ]

    def _tell_of(self, forged: Mapping[str, str]) -> None:
        """Raises the alarm, and puts it on record, once an episode."""
        begun = self._episodes.note(forged, monotonic())
        if begun is None:
            return
        named = "; ".join(f"{name}: {why}" for name, why in begun.why.items())
        logger.error("ALARM forged_heartbeats: of %d workers (%s)", begun.count, named)
        with self._database.transaction() as connection:
            truth = namespaces.lock(connection, self._namespace)
            event = events.Event(
                action="heartbeats_forged",
                outcome=events.REFUSED,
                actor=events.SYSTEM,
                at=truth.now,
                edition=truth.edition,
                details={"worker": next(iter(begun.why)), "count": begun.count, "workers": dict(begun.why)},
            )
            events.record(connection, self._namespace, event)

    def purge(self) -> None:
        """Lets go of the rows of workers that left long ago. Raises Unavailable."""
        _, entries = self._hear_for_good()
        told = {entry.nodename for entry in entries}
        with self._database.transaction() as connection:
            before = namespaces.clock(connection) - KEPT_FOR
            sightings.purge(connection, self._namespace, before, still_told=told)

    def forget(self, nodename: str, *, reason: object, actor: str) -> Sighting:
        """Stops counting a worker that fell silent, until it beats again; an audited act (R-C3).

        Raises InvalidInput (reason), NotFound, Refused while its lease lasts (it would be counted as quiet
        though it runs), Unavailable where Redis cannot be asked.
        """
        why = check_reason(reason)
        now, entries = self._hear([nodename])
        entries = [entry for entry in entries if entry.nodename == nodename]
        with self._database.transaction() as connection:
            truth = namespaces.lock(connection, self._namespace)
            # Of this one alone: no order may wait for the others under the lock.
            self._fold(connection, entries, now)
            # What cannot be read is remembered here, so that forgetting it has a row to mark.
            unread = [illegible(entry.nodename, entry.seen_at) for entry in entries if entry.seen is None]
            known = self._read(connection, [nodename])
            if nodename not in known and unread:
                sightings.fold(connection, self._namespace, [[Life(sighting=unread[0])]], now, self._bus.most_workers)
                known = self._read(connection, [nodename])
            row = known.get(nodename)
            seen = self._views({nodename: row.lives}, truth, now) if row else []
            if row is None or not seen:
                raise NotFound(f"no worker is known as {nodename!r}")
            silent = _silent(seen)
            for worker in silent or seen[:1]:
                event = events.Event(
                    action="worker_forgotten",
                    outcome=events.APPLIED if silent else events.REFUSED,
                    actor=actor,
                    at=truth.now,
                    edition=truth.edition,
                    reason=why,
                    details=_details(worker),
                )
                events.record(connection, self._namespace, event)
            if silent:
                given_up = {worker.beat.incarnation for worker in silent}
                if row.sighting.beat.incarnation in given_up:
                    sightings.forget(connection, self._namespace, nodename, by=actor, reason=why, now=truth.now)
                sightings.forget_others(connection, self._namespace, nodename, given_up)
                return silent[0].sighting
        raise Refused(f"{nodename} is alive ({seen[0].state}): only a worker that fell silent can be forgotten")

    def _read(self, connection: Connection, nodenames: list[str]) -> dict[str, Remembered]:
        return sightings.read(connection, self._namespace, self._bus.most_workers, nodenames)

    def _views(
        self,
        known: Mapping[str, Sequence[Life]],
        truth: Truth,
        now: datetime,
        forged: Collection[str] = (),
    ) -> list[WorkerView]:
        newest = self._newest(truth, [one.sighting for told in known.values() for one in told])
        views = (
            view(
                one.sighting,
                desired=truth.edition,
                lease=self._lease,
                now=now,
                holds=truth.holds,
                newest=newest,
                namesakes=namesakes,
                is_displaced=lives.is_displaced(one, known[name], lease=self._lease, now=now),
                is_forged=name in forged,
                needs_signed=self._needs_signed,
            )
            for name in sorted(known)
            for one, namesakes in lives.counting(known[name], lease=self._lease, now=now)
        )
        return [
            worker
            for worker in views
            if worker.state is not WorkerState.GONE or now - worker.sighting.seen_at < GONE_LISTED_FOR
        ]

    def _newest(self, truth: Truth, known: Iterable[Sighting]) -> Edition:
        """What is ordered by now: a worker that seems ahead of `truth` may have taken an order that came after it."""
        if all(sighting.beat.stands_at <= truth.edition for sighting in known):
            return truth.edition
        with self._database.transaction() as connection:
            now = namespaces.read(connection, self._namespace)
        return truth.edition if now is None else now.edition

    def _listen(self, known: Collection[str]) -> Heartbeats | None:
        try:
            return self._beats(known)
        except Unavailable:
            return None

    def _told(self, found: Heartbeats) -> list[Told]:
        return [self._words.told(heard, found.at) for heard in found.heard]

    def _hear(self, known: Collection[str] = ()) -> tuple[datetime, list[Told]]:
        found = self._beats(known)
        return found.at, self._told(found)

    def _hear_for_good(self) -> tuple[datetime, list[Told]]:
        """Where not all can be read, those that are remembered are read in any case."""
        found = self._beats()
        if not found.unread:
            return found.at, self._told(found)
        with self._database.transaction() as connection:
            known = sightings.names(connection, self._namespace, self._bus.most_workers)
        return self._hear(known)

    def _beats(self, known: Collection[str] = ()) -> Heartbeats:
        try:
            found = self._bus.heartbeats(known)
        except Unavailable as error:
            self._outage.begin(error)
            raise
        self._outage.end()
        return found

    def _fold(self, connection: Connection, entries: list[Told], now: datetime) -> dict[str, str]:
        """Remembers what is heard; which of it is forged, and why."""
        fleet: list[list[Life]] = []
        several: list[Told] = []
        # Most nodenames have the one life that they had: what is remembered of those need not be read.
        alone = sightings.alone(connection, self._namespace)
        for entry in entries:
            seen = None if entry.has_others else entry.seen
            incarnation, last = alone.get(entry.nodename, (None, None))
            if seen is None or incarnation != seen.beat.incarnation or (last is not None and seen.beat.seq < last):
                several.append(entry)
            elif last is None or seen.beat.seq > last:
                fleet.append([Life(sighting=seen)])
        rows: dict[str, Remembered] = {}
        if several:
            rows = self._read(connection, [entry.nodename for entry in several])
            heard = (_heard_lives(entry, rows.get(entry.nodename), now) for entry in several)
            legible = ([one for one in found if one.incarnation] for found in heard)
            fleet += [lives.worth_remembering(found, lease=self._lease, now=now) for found in legible if found]
        sightings.fold(connection, self._namespace, fleet, now, self._bus.most_workers)
        return forged_among(several, rows)


def _forgotten(known: Mapping[str, Sequence[Life]]) -> frozenset[str]:
    return frozenset(one.incarnation for found in known.values() for one in found if one.is_forgotten)


def _silent(seen: list[WorkerView]) -> list[WorkerView]:
    """Those that may be given up: all where none is alive, and beside one that is those that fell silent."""
    if all(worker.state in (WorkerState.UNKNOWN, WorkerState.GONE) for worker in seen):
        return seen
    return [worker for worker in seen if worker.state is WorkerState.UNKNOWN]


def _runs_s(busy: Mapping[str, Beat], entries: list[Told]) -> dict[str, list[float]]:
    """The runs that ended since `busy`, in seconds, by the name of their task."""
    runs_s: dict[str, list[float]] = {}
    for entry in entries:
        before = busy.get(entry.nodename)
        seen = entry.seen
        for name, seconds in ended(before, seen.beat) if before and seen else ():
            runs_s.setdefault(name, []).append(seconds)
    return runs_s


def _details(seen: WorkerView) -> dict[str, Any]:
    """What an auditor wants to know of a worker that is given up."""
    return {
        "worker": seen.beat.nodename,
        "incarnation": seen.beat.incarnation,
        "state": str(seen.state),
        "lastSeenAt": to_wire(seen.sighting.seen_at),
        "running": [task.to_wire() for task in seen.beat.running],
    }


def _queues_of(seen: Seen, scope: Scope) -> set[str]:
    if scope.kind is ScopeKind.QUEUE:
        return {scope.name}
    return {queue for worker in seen.present_in(scope) for queue in worker.beat.queues}
