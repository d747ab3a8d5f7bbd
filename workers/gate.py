"""The gate: nothing starts but through it, and what it says is what the worker acknowledges.

Two threads meet here. The follower's thread puts a state into force; the consumer's thread starts tasks. Check
and start are one critical section with the flip: without the lock 3 tasks started after the acknowledgement in
2,701 pauses, with it none. The gate flips FIRST; bringing the consumer in line (stop consuming, hand back,
wait for what is in the pool) follows on the consumer's own thread, and only its end is acknowledged.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Generic, TypeVar

from sluicegate.schemas.beats import WorkerState
from sluicegate.schemas.holds.hold import Hold
from sluicegate.schemas.modes import Mode
from sluicegate.schemas.scopes import ScopeKind, Subject
from sluicegate.schemas.snapshots import NOTHING, Edition, Snapshot
from sluicegate.workers.cell import Cell, pack
from sluicegate.workers.log import about, logger

log = logger(__name__)

R = TypeVar("R")

_OF_SOME_TASKS = (ScopeKind.QUEUE, ScopeKind.TASK)


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """What is in force at the gate. `local_reason`: why the worker holds itself, None where it does not; `local_mode`:
    how, by the strongest of its own holds.

    `mode` is what holds the whole worker, by the holds `here`; `scoped` are the holds that only some of its tasks fall
    under; `ends_tasks` those of either kind whose deadline's step ends what still runs under them. `fingerprint` is
    that of all holds of the state, None before the first.
    """

    edition: Edition
    mode: Mode
    local_reason: str | None
    here: tuple[Hold, ...] = ()
    scoped: tuple[Hold, ...] = ()
    ends_tasks: tuple[Hold, ...] = ()
    fingerprint: str | None = None
    local_mode: Mode = Mode.RUN

    @property
    def is_open(self) -> bool:
        """May a start that no scoped hold matches happen? `is_held` judges one with its subject."""
        return self.mode is Mode.RUN and self.local_reason is None

    @property
    def is_free(self) -> bool:
        """Does nothing hold here at all, not even some tasks or queues?"""
        return self.is_open and not self.scoped

    def mode_for(self, subject: Subject) -> Mode:
        """The effective mode for one start."""
        return max((hold.mode for hold in self.scoped if hold.scope.matches(subject)), default=self.mode)

    def is_held(self, subject: Subject) -> bool:
        """Must this start not happen, for a hold of the whole worker or one of its own queue or task?"""
        return not self.is_open or self.mode_for(subject) is not Mode.RUN

    def is_task_held(self, subject: Subject) -> bool:
        """Is it held by its task's name alone, while others of its queue go on?"""
        kinds = {hold.scope.kind for hold in self.scoped if hold.scope.matches(subject)}
        return self.is_open and kinds == {ScopeKind.TASK}


@dataclass(frozen=True, slots=True, kw_only=True)
class Applied:
    """What was acknowledged last: the edition, whether it held, and when by this host's clock."""

    edition: Edition = NOTHING
    at: datetime | None = None
    standing: Standing | None = None


BOOTING = "waiting for a fresh signed state"


class Gate(Generic[R]):
    """The gate of one worker process. `R` is whatever a start needs (Celery's request).

    `subject` is what this worker is to a scope, and `subject_of` what one start is; it is asked only where some tasks
    are held and others are not. `wake` is called after every flip, from whichever thread made it: the consumer's thread
    must then do what `take_duty` names, and `acknowledge` it. `on_applied` is called when an acknowledgement has been
    made, from the consumer's thread. `on_scoped` is called under the lock, before a flip to or from a state in which
    some tasks are held. `is_own` tells the record of a hold that this worker placed on itself: that is in force here as
    a local hold or not at all, so that it ends when the worker says so, whoever else is away.
    `has_opened`: was it ever open, so that something may have run here?
    """

    def __init__(
        self,
        cell: Cell,
        subject: Subject,
        *,
        wake: Callable[[], None],
        on_applied: Callable[[], None],
        subject_of: Callable[[R], Subject] | None = None,
        on_scoped: Callable[[Edition, tuple[Hold, ...]], None] = lambda edition, holds: None,
        is_own: Callable[[Hold], bool] = lambda hold: False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.cell = cell
        self._is_own = is_own
        # What the cell's flags say too, which are for pool children: to read shared memory takes longer.
        self._is_any_held = True
        self.subject = subject
        self.subject_of: Callable[[R], Subject] = subject_of or (lambda request: subject)
        self._on_scoped = on_scoped
        self.standing = Standing(edition=NOTHING, mode=Mode.DRAIN, local_reason=BOOTING)
        self.applied = Applied()
        self._flipped_at = datetime.now(UTC)
        self.has_opened = False
        # Reentrant: what Celery does inside a start is Celery's, and may lead to another.
        self._lock = threading.RLock()
        self._acquire, self._release = self._lock.acquire, self._lock.release
        self._local: dict[str, tuple[str, Mode]] = {}
        self._was_closed = True
        self._wake = wake
        self._on_applied = on_applied
        self._logged: Standing | None = None
        self._clock = clock
        self._snapshot: Snapshot | None = None
        self._turns: dict[Hold, float] = {}
        self._reopened_at = 0.0

    def pass_through(self, start: Callable[[R], None], request: R) -> bool:
        """Start `request` if the gate is open; False where it is closed and nothing was done."""
        # Not `with`: it was seen to take more than twice as long as these two calls.
        self._acquire()
        try:
            if self._is_any_held and self.holds_back(request):
                return False
            start(request)
            return True
        finally:
            self._release()

    def let_through(self, start: Callable[[list[R]], None], requests: Sequence[R]) -> list[R]:
        """Start those of `requests` that may, together; those that are held come back, and nothing was done of them."""
        with self._lock:
            free, held = self.part(requests)
            if free:
                start(free)
            return held

    def part(self, requests: Sequence[R]) -> tuple[list[R], list[R]]:
        """Those that would be let through now, and those that are held; as `holds_back`."""
        free: list[R] = []
        held: list[R] = []
        for request in requests:
            (held if self.holds_back(request) else free).append(request)
        return free, held

    def note_begin(self, note: Callable[[], None], subject: Subject) -> bool:
        """As `pass_through`, for what is no task: call `note` if nothing holds `subject`."""
        with self._lock:
            if self.standing.is_held(subject):
                return False
            note()
            return True

    def holds_back(self, request: R) -> bool:
        """Would `request` not be let through now? Without the lock an answer holds for no time at all."""
        standing = self.standing
        return self._is_any_held and (not standing.is_open or standing.is_held(self.subject_of(request)))

    def put_in_force(self, snapshot: Snapshot) -> None:
        """Take a central state. Local holds stay: only the worker itself lifts them."""
        with self._lock:
            self._snapshot = snapshot
            self._flip(self._standing_by(snapshot))

    def _standing_by(self, snapshot: Snapshot) -> Standing:
        turns = self._note_turns(snapshot)
        in_force = [hold for hold in snapshot.holds.sorted() if hold.ramp is None or turns[hold] > self._clock()]
        here = [hold for hold in in_force if hold.scope.matches(self.subject) and not self._is_own(hold)]
        scoped = tuple(hold for hold in in_force if hold.scope.kind in _OF_SOME_TASKS)
        return Standing(
            edition=snapshot.edition,
            mode=max((hold.mode for hold in here), default=Mode.RUN),
            local_reason=self._local_reason,
            local_mode=self._local_mode,
            here=tuple(here),
            scoped=scoped,
            ends_tasks=tuple(hold for hold in (*here, *scoped) if hold.ends_tasks),
            fingerprint=snapshot.holds.fingerprint,
        )

    def _note_turns(self, snapshot: Snapshot) -> dict[Hold, float]:
        """When this worker leaves each hold that is reopened by a ramp, counted from when it first heard of that."""
        now, me = self._clock(), self.subject.worker or ""
        self._turns = {
            hold: self._turns.get(hold, now + hold.ramp.delay_s(me)) for hold in snapshot.holds.active if hold.ramp
        }
        return self._turns

    def reopens_in_s(self) -> float | None:
        """When the next turn of a ramp comes; None: no hold is being reopened here."""
        now = self._clock()
        with self._lock:
            return min((at - now for at in self._turns.values() if at > self._reopened_at), default=None)

    def take_turns(self) -> None:
        """Leave the holds whose ramp has come to this worker's turn."""
        with self._lock:
            now = self._clock()
            if self._snapshot is not None and any(self._reopened_at < at <= now for at in self._turns.values()):
                self._reopened_at = now
                self._flip(self._standing_by(self._snapshot))

    def hold_locally(self, reason: str | None, source: str = "touch", mode: Mode = Mode.DRAIN) -> None:
        """Place (a reason) or lift (None) a hold of the worker's own. It can only make the state stricter.

        Each `source` lifts what it placed and no other. What is placed while the worker boots counts from then on.
        """
        with self._lock:
            if reason is None:
                self._local.pop(source, None)
            else:
                self._local[source] = reason, mode
            now = self.standing
            local = self._local_reason, self._local_mode
            if now.local_reason != BOOTING and (now.local_reason, now.local_mode) != local:
                self._flip(replace(now, local_reason=local[0], local_mode=local[1]))

    @property
    def _local_reason(self) -> str | None:
        return "; ".join(reason for reason, _ in self._local.values()) or None

    @property
    def _local_mode(self) -> Mode:
        return max((mode for _, mode in self._local.values()), default=Mode.RUN)

    def _flip(self, standing: Standing) -> None:
        if standing.scoped or self.standing.scoped:
            # Before the cell says that there is something to look up.
            self._on_scoped(standing.edition, standing.scoped)
        # Before the flip: what starts by it starts after this.
        self._flipped_at = datetime.now(UTC)
        self.cell.store(
            pack(
                # What runs is asked to stop by this alone: that nothing starts is said by `is_local` too.
                max(standing.mode, standing.local_mode) if standing.local_mode is Mode.QUIESCE else standing.mode,
                standing.edition,
                is_local=standing.local_reason is not None,
                has_scoped=bool(standing.scoped),
            )
        )
        self._is_any_held = not standing.is_free
        self.standing = standing
        self.has_opened = self.has_opened or standing.is_open
        self._was_closed = self._was_closed or not standing.is_open
        self._wake()

    def take_duty(self) -> tuple[Standing, bool]:
        """For the consumer's thread: what is in force, and whether it was closed at any time since the last call.

        The second matters when a pause and its resume came between two looks: what was held back meanwhile
        still has to be handed back.
        """
        with self._lock:
            was_closed, self._was_closed = self._was_closed, not self.standing.is_open
            return self.standing, was_closed

    def acknowledge(self, standing: Standing) -> bool:
        """Say that `standing` is complete. False where another came into force meanwhile: nothing is said."""
        with self._lock:
            if self.standing is not standing:
                return False
            if self.applied.standing is standing:
                return True
            # A hold is in force once nothing can start any more; that there is none has been so since the flip, and
            # what started meanwhile (on RabbitMQ, while the consumer was being asked for) started rightly.
            at = self._flipped_at if standing.is_free else datetime.now(UTC)
            self.applied = Applied(edition=standing.edition, at=at, standing=standing)
        self._log_once(standing)
        self._on_applied()
        return True

    def _log_once(self, standing: Standing) -> None:
        """A pause is logged once per version and a resume once; an hour paused is one line (R-A11)."""
        if standing.local_reason == BOOTING:
            log.info("sluicegate: closed, %s", BOOTING)
            return
        before, self._logged = self._logged, standing
        version, scoped = standing.edition, standing.scoped
        if scoped and (before is None or before.scoped != scoped):
            said = "; ".join(f"{hold.scope} ({hold.mode.word}): {hold.reason}" for hold in scoped)
            log.warning("sluicegate: held at version %s: %s", version, said, extra=about(scoped, version))
        elif before is not None and before.scoped and not scoped:
            more = about(before.scoped, version)
            log.warning("sluicegate: nothing is held apart any more at version %s", version, extra=more)
        if standing.is_open:
            if before is None:
                log.info("sluicegate: running at version %s", version, extra=about((), version))
            elif not before.is_open:
                log.warning("sluicegate: resumed at version %s", version, extra=about(before.here, version))
        elif before is None or (before.edition, before.is_open) != (version, False):
            why = standing.local_reason or "; ".join(f"{hold.reason} (by {hold.actor})" for hold in standing.here)
            mode = standing.mode.word if standing.mode else "by this worker itself"
            more = about(standing.here, version)
            log.warning("sluicegate: paused (%s) at version %s: %s", mode, version, why, extra=more)

    @property
    def state(self) -> WorkerState:
        """What this worker is, for its heartbeat."""
        if self.standing.is_open:
            return WorkerState.RUNNING
        return WorkerState.PAUSED if self.applied.standing is self.standing else WorkerState.PAUSING
