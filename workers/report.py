"""What a worker's heartbeat says. It is composed on the heart's thread: everything here only reads."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from sluicegate.schemas.beats import Beat, RunningTask
from sluicegate.schemas.health.local_holds import LocalHold
from sluicegate.schemas.health.resources import Resources
from sluicegate.schemas.scopes import ScopeKind
from sluicegate.workers.follower import Follower
from sluicegate.workers.gate import Gate
from sluicegate.workers.hands import Hands
from sluicegate.workers.ports import Sides


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Who a worker is, for the length of one life. `incarnation`: the name of its key."""

    nodename: str
    incarnation: str
    host: str
    labels: Mapping[str, str] = field(default_factory=dict)


class Report:
    """All methods may be called from any thread, and change nothing."""

    def __init__(
        self,
        identity: Identity,
        *,
        gate: Gate[Any],
        follower: Follower,
        hands: Hands,
        sides: Sides,
        resources: Callable[[], Resources | None] = lambda: None,
        own_holds: Callable[[], tuple[LocalHold, ...]] = tuple,
    ) -> None:
        """`resources`: what is to be said of the host and its GPUs now; `own_holds`: what it holds itself by."""
        self._identity = identity
        self._resources = resources
        self._own_holds = own_holds
        self._gate = gate
        self._follower = follower
        self._hands = hands
        self._pool = sides.pool
        self._way_back = sides.way_back
        self._books = sides.books

    def beat(self, seq: int, is_goodbye: bool) -> Beat:
        """The next heartbeat, number `seq`. A goodbye claims that nothing runs: only for who knows that."""
        # `applied` is read before `state`: a beat may report a pause late, never before it is complete.
        applied = self._gate.applied
        # Before `yielded`, `forced` and `ended`: what is in none of the four has finished.
        running = () if is_goodbye else self.running()
        return Beat(
            nodename=self._identity.nodename,
            incarnation=self._identity.incarnation,
            host=self._identity.host,
            pool=self._pool.name,
            pid=os.getpid(),
            seq=seq,
            sent_at=datetime.now(UTC),
            state=self._gate.state,
            applied=applied.edition,
            applied_at=applied.at,
            is_stale=self._follower.is_stale,
            is_goodbye=is_goodbye,
            concurrency=self._books.concurrency(),
            queues=self._books.queues(),
            running=running,
            reserved=0 if is_goodbye else self._books.count_reserved() + self._way_back.count_in_hand(),
            refused=dict(self._follower.refused),
            labels=dict(self._identity.labels),
            enforces=self.enforces(),
            yielded=self._hands.hand_back.yields.told(),
            forced=self._hands.forced_ends.told(),
            ended=self._hands.run_ends.told(),
            beside=self._books.beside(),
            fingerprint=None if applied.standing is None else applied.standing.fingerprint,
            fence=self._follower.following.fence,
            shown=self._follower.shown,
            resources=self._resources(),
            # After `applied`: what is on record by then has been taken over, or is held no more.
            local_holds=self._own_holds(),
        )

    def running(self) -> tuple[RunningTask, ...]:
        """The tasks that the pool has accepted and not finished, forgotten ones too, and what began by `starting`."""
        running = [
            self._books.running_task(request, is_waiting=self._pool.is_waiting(request))
            for request in self._books.running()
        ]
        # On their way back, and not there yet: a fleet is not drained before they are.
        known = {task.id for task in running}
        hands = self._hands
        leaving = (*hands.hand_back.yielding(), *hands.forced_ends.under_way(), *hands.run_ends.running())
        gone = [self._books.running_task(request, is_waiting=False) for request in leaving if request.id not in known]
        return (*self._pool.forgotten(), *running, *gone, *self._hands.own_starts.running())

    def pulse(self) -> object:
        """While held: what runs and what waits, since somebody waits for that."""
        if self._gate.standing.is_free:
            return None
        return frozenset((task.id, task.is_waiting) for task in self.running())

    def enforces(self) -> tuple[str, ...]:
        """The kinds of scope whose holds are obeyed here."""
        return tuple(kind for kind in ScopeKind if kind is not ScopeKind.TASK or self._way_back.can_set_aside)

    def info(self) -> dict[str, Any]:
        """What `celery inspect stats` shows under `sluicegate`."""
        composed = self.beat(0, is_goodbye=False)
        beat = composed.to_wire()
        if composed.resources is not None:
            beat["resources"] = composed.resources.to_wire()
        for key in ("v", "seq", "nodename", "pid", "pool", "concurrency", "running", "sentAt", "goodbye"):
            del beat[key]
        standing = self._gate.standing
        return beat | {"mode": standing.mode.word, "localHold": standing.local_reason}
