"""Progress: what a pause has achieved, derived from what was ordered and what workers said. Never stored.

Intent (`Holds`, versioned) and progress are different types on purpose: nothing here can change a hold.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Protocol

from sluicegate.schemas.beats import Beat, RunningTask, WorkerState
from sluicegate.schemas.holds.hold import Holds
from sluicegate.schemas.names import host_of
from sluicegate.schemas.scopes import GLOBAL, Scope, ScopeKind, Subject
from sluicegate.schemas.signed_beats import UNSIGNED, Word
from sluicegate.schemas.snapshots import NOTHING, Edition


@dataclass(frozen=True, slots=True, kw_only=True)
class Sighting:
    """A worker's last beat, when it arrived by the server's clock (not the worker's), and on whose word it stands."""

    beat: Beat
    seen_at: datetime
    word: Word = UNSIGNED


def illegible(nodename: str, seen_at: datetime) -> Sighting:
    """What stands for a worker that is there but whose words cannot be read: unknown, never quiet (L4)."""
    beat = Beat(
        nodename=nodename,
        incarnation="",
        host=host_of(nodename),
        pool="",
        pid=0,
        seq=0,
        sent_at=seen_at,
        state=WorkerState.UNKNOWN,
        applied=NOTHING,
        applied_at=None,
    )
    return Sighting(beat=beat, seen_at=seen_at)


class Running(Protocol):
    """A running task, as far as a scope asks: whether a worker told of it or the control plane."""

    @property
    def name(self) -> str:
        """What it is called."""
        ...

    @property
    def queue(self) -> str | None:
        """Where it came from, where that is known."""
        ...


def is_of(task: Running, scope: Scope) -> bool:
    """Does `scope` cover this task, on a worker that is in it? One whose queue is not known counts for every queue."""
    match scope.kind:
        case ScopeKind.QUEUE:
            return task.queue in (None, scope.name)
        case ScopeKind.TASK:
            return task.name == scope.name
        case _:
            return True


def has_work_of(scope: Scope, worker: Subject, queues: Collection[str], running: Iterable[Running]) -> bool:
    """Could work of `scope` run on this worker, which consumes `queues` and runs `running`?"""
    match scope.kind:
        case ScopeKind.QUEUE:
            return scope.name in queues or any(is_of(task, scope) for task in running)
        case ScopeKind.TASK:
            return True
        case _:
            return scope.matches(worker)


AHEAD_AT_MOST = timedelta(seconds=30)
"""Two looks at one clock lie closer together than this. What was seen further ahead of `now` was seen by a clock that
has been set back since, or by another server's before a failover, and is no sign of life."""


def is_of_another_clock(seen_at: datetime, now: datetime) -> bool:
    """Was it seen at a time that cannot have come yet?"""
    return seen_at - now > AHEAD_AT_MOST


def is_silent(sighting: Sighting, *, lease: timedelta, now: datetime) -> bool:
    """Has the lease of what was last heard run out?"""
    return now >= sighting.seen_at + lease or is_of_another_clock(sighting.seen_at, now)


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerView:
    """One worker as an operator sees it, at one moment.

    `is_ahead`: it stands by a state that this database knows nothing of, above what is ordered or beside it. So it
    takes no order: the database was restored or lost, or somebody forges its heartbeat. It is never quiet.
    """

    sighting: Sighting
    state: WorkerState
    desired: Edition
    lease_expires_at: datetime
    not_enforced: tuple[Scope, ...] = ()
    is_ahead: bool = False
    namesakes: int = 0
    """How many other workers beat under this one's nodename at the same time (`schemas.lives`)."""
    is_displaced: bool = False
    """It fell silent, and a later life of its nodename cannot show to be of its place (`schemas.lives`)."""
    is_forged: bool = False
    """In its nodename's place stands now what is not its word. What is told here was said before."""
    needs_signed: bool = False
    """Is a worker that signs nothing never quiet?"""

    @property
    def beat(self) -> Beat:
        """Its newest heartbeat, however old: `state` says whether that still counts."""
        return self.sighting.beat

    @property
    def has_applied(self) -> bool:
        """Has it put exactly what is ordered into force? What is ahead of that has not: it obeys something else."""
        return self.beat.applied == self.desired and not self.is_ahead

    @property
    def is_signed(self) -> bool:
        """Does what it says stand on its own word? One of an older version signs nothing."""
        return self.sighting.word.is_signed

    @property
    def is_believed(self) -> bool:
        """May it be called quiet for what it says?"""
        return not self.is_forged and (self.is_signed or not self.needs_signed)

    @property
    def clock_ahead_s(self) -> float:
        """By how many seconds its wall clock is ahead of the server's; below zero: behind, the beat's way included."""
        return (self.beat.sent_at - self.sighting.seen_at).total_seconds()

    def enforces(self, scope: Scope) -> bool:
        """Does it obey holds of this kind of scope?"""
        return str(scope.kind) in self.beat.enforces

    def is_in(self, scope: Scope) -> bool:
        """Could work of this scope run here?"""
        beat = self.beat
        subject = Subject(host=beat.host, worker=beat.nodename, labels=beat.labels)
        return has_work_of(scope, subject, beat.queues, beat.running)

    def tasks_in(self, scope: Scope) -> tuple[RunningTask, ...]:
        """What runs here of this scope; a task whose queue is not known counts for every queue."""
        return tuple(task for task in self.beat.running if is_of(task, scope))


@dataclass(frozen=True, slots=True, kw_only=True)
class Metrics:
    """The figures of R-C4. `queued` is None where the broker's depth could not be read.

    `waiting`: of those running, how many wait at a checkpoint. `is_quiesced`: as drained, but for those. `ahead`: how
    many workers stand by a state that this database knows nothing of, which is an alarm. `workers`: how many are there.
    `strangers`: who consumes here and sends no heartbeat; none of the other figures knows of them. `set_aside`: what
    waits beside each queue while its task is held; None where that is not known, as on RabbitMQ, where it is in the
    workers' hands. `unread`: how many heartbeats were too many or too large to be read. `unsigned`: how many of them
    sign nothing (workers of an older version); `forged`: in the place of how many stands what is not theirs.
    """

    queued: int | None
    running: int
    stale_running: int
    is_drained: bool
    source: str
    waiting: int = 0
    is_quiesced: bool = False
    ahead: int = 0
    set_aside: Mapping[str, int] | None = None
    workers: int = 0
    strangers: tuple[str, ...] = ()
    unread: int = 0
    unsigned: int = 0
    forged: int = 0


UNAVAILABLE = Metrics(queued=None, running=0, stale_running=0, is_drained=False, source="unavailable")
"""What is said when metrics cannot be had: never drained."""


def is_ahead(beat: Beat, desired: Edition, fingerprint: str | None = None, newest: Edition | None = None) -> bool:
    """Does a worker that says `beat` stand by a state that the database of `desired` knows nothing of?

    `fingerprint`: that of the holds at `desired`, where they are known. `newest`: what the database says after the
    beat was heard, where that is newer: a worker may be faster than a look.
    """
    if beat.stands_at > max(desired, newest or desired):
        return True
    return beat.applied == desired and None not in (fingerprint, beat.fingerprint) and beat.fingerprint != fingerprint


def view(
    sighting: Sighting,
    *,
    desired: Edition,
    lease: timedelta,
    now: datetime,
    holds: Holds | None = None,
    newest: Edition | None = None,
    namesakes: int = 0,
    is_displaced: bool = False,
    is_forged: bool = False,
    needs_signed: bool = False,
) -> WorkerView:
    """What a worker is at `now`: silence past its lease is `unknown`, never quiet (L4).

    `holds` are those in force at `desired`: which of them it does not enforce is said of it. `newest`: as `is_ahead`.
    """
    expires_at = sighting.seen_at + lease
    if sighting.beat.is_goodbye:
        state = WorkerState.GONE
    elif is_silent(sighting, lease=lease, now=now):
        state = WorkerState.UNKNOWN
    else:
        state = sighting.beat.state
    seen = WorkerView(
        sighting=sighting,
        state=state,
        desired=desired,
        lease_expires_at=expires_at,
        namesakes=namesakes,
        is_displaced=is_displaced,
        is_forged=is_forged,
        needs_signed=needs_signed,
        is_ahead=is_ahead(sighting.beat, desired, None if holds is None else holds.fingerprint, newest),
    )
    active = () if holds is None else holds.active
    ignored = {hold.scope for hold in active if seen.is_in(hold.scope) and not seen.enforces(hold.scope)}
    return replace(seen, not_enforced=tuple(sorted(ignored)))


def present_in(workers: Iterable[WorkerView], scope: Scope) -> list[WorkerView]:
    """The workers that have not left, and where work of `scope` could run."""
    return [worker for worker in workers if worker.state is not WorkerState.GONE and worker.is_in(scope)]


def measure(
    workers: Iterable[WorkerView],
    *,
    queued: int | None,
    source: str,
    scope: Scope = GLOBAL,
    set_aside: Mapping[str, int] | None = None,
    unread: int = 0,
) -> Metrics:
    """The metrics over `workers`; `queued` None (the broker's depth could not be read) is never drained.

    Of a `scope`: over the workers where its work could run, and what of it runs there. One that does not enforce such
    holds is never quiet, nor is one of several that share a nodename, nor one that is not believed.

    `running` counts all running tasks, `stale_running` those of them on workers whose lease ran out. Drained
    is: no worker unknown, each has applied the desired edition, nothing running (R-C4). A worker that said
    goodbye counts as quiet. One that is ahead of what is ordered has not applied it. Nothing is quiet while heartbeats
    are `unread`.
    """
    present = present_in(workers, scope)
    running = sum(len(worker.tasks_in(scope)) for worker in present)
    waiting = sum(task.is_waiting for worker in present for task in worker.tasks_in(scope))
    stale = sum(len(worker.tasks_in(scope)) for worker in present if worker.state is WorkerState.UNKNOWN)
    is_quiet = queued is not None and not unread
    is_quiet = is_quiet and all(
        worker.state is not WorkerState.UNKNOWN
        and worker.has_applied
        and worker.enforces(scope)
        and not worker.namesakes
        and worker.is_believed
        for worker in present
    )
    return Metrics(
        queued=queued,
        running=running,
        stale_running=stale,
        waiting=waiting,
        is_drained=is_quiet and running == 0 and stale == 0,
        is_quiesced=is_quiet and running == waiting and stale == 0,
        ahead=sum(worker.is_ahead for worker in present),
        workers=len(present),
        source=source if queued is not None else "unavailable",
        set_aside=set_aside,
        unread=unread,
        unsigned=sum(not worker.is_signed for worker in present),
        forged=sum(worker.is_forged for worker in present),
    )
