"""Progress: what a pause has achieved, derived from what was ordered and what workers said. Never stored.

Intent (`Holds`, versioned) and progress are different types on purpose: nothing here can change a hold.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from sluicegate.schemas.beats import Beat, RunningTask, WorkerState
from sluicegate.schemas.holds.hold import Hold
from sluicegate.schemas.scopes import GLOBAL, Scope, ScopeKind, Subject
from sluicegate.schemas.snapshots import Edition
from sluicegate.schemas.times import to_wire, to_wire_or_none


@dataclass(frozen=True, slots=True, kw_only=True)
class Sighting:
    """A worker's last beat, and when it arrived by the server's clock (not the worker's)."""

    beat: Beat
    seen_at: datetime


def is_of(task: RunningTask, scope: Scope) -> bool:
    """Does `scope` cover this task, on a worker that is in it? One whose queue is not known counts for every queue."""
    match scope.kind:
        case ScopeKind.QUEUE:
            return task.queue in (None, scope.name)
        case ScopeKind.TASK:
            return task.name == scope.name
        case _:
            return True


AHEAD_AT_MOST = timedelta(seconds=30)
"""Two looks at one clock lie closer together than this. What was seen further ahead of `now` was seen by a clock that
has been set back since, or by another server's before a failover, and is no sign of life."""


def is_of_another_clock(seen_at: datetime, now: datetime) -> bool:
    """Was it seen at a time that cannot have come yet?"""
    return seen_at - now > AHEAD_AT_MOST


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerView:
    """One worker as an operator sees it, at one moment."""

    sighting: Sighting
    state: WorkerState
    desired: Edition
    lease_expires_at: datetime
    not_enforced: tuple[Scope, ...] = ()

    @property
    def beat(self) -> Beat:
        """Its newest heartbeat, however old: `state` says whether that still counts."""
        return self.sighting.beat

    @property
    def has_applied(self) -> bool:
        """Has it put the desired edition, or a newer one, into force?"""
        return self.beat.applied >= self.desired

    @property
    def clock_ahead_s(self) -> float:
        """By how many seconds its wall clock is ahead of the server's; below zero: behind, the beat's way included."""
        return (self.beat.sent_at - self.sighting.seen_at).total_seconds()

    @property
    def is_lost_with_work(self) -> bool:
        """Did it fall silent while tasks were running on it?"""
        return self.state is WorkerState.UNKNOWN and bool(self.beat.running)

    def enforces(self, scope: Scope) -> bool:
        """Does it obey holds of this kind of scope?"""
        return str(scope.kind) in self.beat.enforces

    def is_in(self, scope: Scope) -> bool:
        """Could work of this scope run here?"""
        match scope.kind:
            case ScopeKind.QUEUE:
                return scope.name in self.beat.queues or bool(self.tasks_in(scope))
            case ScopeKind.TASK:
                return True
            case _:
                beat = self.beat
                return scope.matches(Subject(host=beat.host, worker=beat.nodename, labels=beat.labels))

    def tasks_in(self, scope: Scope) -> tuple[RunningTask, ...]:
        """What runs here of this scope; a task whose queue is not known counts for every queue."""
        return tuple(task for task in self.beat.running if is_of(task, scope))

    def to_wire(self) -> dict[str, Any]:
        """One element of `GET /api/workers`; times in UTC, editions as their numbers."""
        beat = self.beat
        return {
            "nodename": beat.nodename,
            "incarnation": beat.incarnation,
            "host": beat.host,
            "pool": beat.pool,
            "state": str(self.state),
            "desiredVersion": self.desired.version,
            "appliedVersion": beat.applied.version,
            "desiredEpoch": self.desired.epoch,
            "appliedEpoch": beat.applied.epoch,
            "appliedAt": to_wire_or_none(beat.applied_at),
            "running": [task.to_wire() for task in beat.running],
            "reserved": beat.reserved,
            "queues": list(beat.queues),
            "stale": beat.is_stale,
            "refused": dict(beat.refused),
            "labels": dict(beat.labels),
            "notEnforced": [str(scope) for scope in self.not_enforced],
            "clockAheadS": self.clock_ahead_s,
            "lastSeenAt": to_wire(self.sighting.seen_at),
            "leaseExpiresAt": to_wire(self.lease_expires_at),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Metrics:
    """The figures of R-C4. `queued` is None where the broker's depth could not be read.

    `waiting`: of those running, how many wait at a checkpoint. `is_quiesced`: as drained, but for those.
    """

    queued: int | None
    running: int
    stale_running: int
    is_drained: bool
    source: str
    waiting: int = 0
    is_quiesced: bool = False

    def to_wire(self) -> dict[str, Any]:
        """The `metrics` object of R-A6; `queued` is null where the broker's depth could not be read."""
        return {
            "queued": self.queued,
            "running": self.running,
            "staleRunning": self.stale_running,
            "waiting": self.waiting,
            "isDrained": self.is_drained,
            "isQuiesced": self.is_quiesced,
            "metricsSource": self.source,
        }


UNAVAILABLE = Metrics(queued=None, running=0, stale_running=0, is_drained=False, source="unavailable")
"""What is said when metrics cannot be had: never drained."""


def view(
    sighting: Sighting, *, desired: Edition, lease: timedelta, now: datetime, holds: Iterable[Hold] = ()
) -> WorkerView:
    """What a worker is at `now`: silence past its lease is `unknown`, never quiet (L4).

    `holds` are those in force: which of them it does not enforce is said of it.
    """
    expires_at = sighting.seen_at + lease
    if sighting.beat.is_goodbye:
        state = WorkerState.GONE
    elif now >= expires_at or is_of_another_clock(sighting.seen_at, now):
        state = WorkerState.UNKNOWN
    else:
        state = sighting.beat.state
    seen = WorkerView(sighting=sighting, state=state, desired=desired, lease_expires_at=expires_at)
    ignored = {hold.scope for hold in holds if seen.is_in(hold.scope) and not seen.enforces(hold.scope)}
    return replace(seen, not_enforced=tuple(sorted(ignored)))


def present_in(workers: Iterable[WorkerView], scope: Scope) -> list[WorkerView]:
    """The workers that have not left, and where work of `scope` could run."""
    return [worker for worker in workers if worker.state is not WorkerState.GONE and worker.is_in(scope)]


def measure(workers: Iterable[WorkerView], *, queued: int | None, source: str, scope: Scope = GLOBAL) -> Metrics:
    """The metrics over `workers`; `queued` None (the broker's depth could not be read) is never drained.

    Of a `scope`: over the workers where its work could run, and what of it runs there. One that does not enforce such
    holds is never quiet.

    `running` counts all running tasks, `stale_running` those of them on workers whose lease ran out. Drained
    is: no worker unknown, each has applied the desired edition, nothing running (R-C4). A worker that said
    goodbye counts as quiet.
    """
    present = present_in(workers, scope)
    running = sum(len(worker.tasks_in(scope)) for worker in present)
    waiting = sum(task.is_waiting for worker in present for task in worker.tasks_in(scope))
    stale = sum(len(worker.tasks_in(scope)) for worker in present if worker.state is WorkerState.UNKNOWN)
    is_quiet = queued is not None and all(
        worker.state is not WorkerState.UNKNOWN and worker.has_applied and worker.enforces(scope) for worker in present
    )
    return Metrics(
        queued=queued,
        running=running,
        stale_running=stale,
        waiting=waiting,
        is_drained=is_quiet and running == 0 and stale == 0,
        is_quiesced=is_quiet and running == waiting and stale == 0,
        source=source if queued is not None else "unavailable",
    )
