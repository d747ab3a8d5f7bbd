"""The gate: nothing starts but through it, and what it says is what the worker acknowledges.

Two threads meet here. The follower's thread puts a state into force; the consumer's thread starts tasks. Check
and start are one critical section with the flip: without the lock 3 tasks started after the acknowledgement in
2,701 pauses, with it none. The gate flips FIRST; bringing the consumer in line (stop consuming, hand back,
wait for what is in the pool) follows on the consumer's own thread, and only its end is acknowledged.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Generic, TypeVar

from sluicegate.schemas.beats import WorkerState
from sluicegate.schemas.modes import Mode
from sluicegate.schemas.scopes import Claim
from sluicegate.schemas.snapshots import NOTHING, Edition, Snapshot
from sluicegate.workers.cell import HOLDING, Cell, pack

log = logging.getLogger(__name__)

R = TypeVar("R")


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """What is in force at the gate. `local_reason`: why the worker holds itself, None where it does not."""

    edition: Edition
    mode: Mode
    local_reason: str | None
    words: str = ""

    @property
    def is_open(self) -> bool:
        """May something start?"""
        return self.mode is Mode.RUN and self.local_reason is None


@dataclass(frozen=True, slots=True, kw_only=True)
class Applied:
    """What was acknowledged last: the edition, whether it held, and when by this host's clock."""

    edition: Edition = NOTHING
    at: datetime | None = None
    standing: Standing | None = None


BOOTING = "waiting for a fresh signed state"


class Gate(Generic[R]):
    """The gate of one worker process. `R` is whatever a start needs (Celery's request).

    `claim` is what this worker is to a scope. `wake` is called after every flip, from whichever thread made it:
    the consumer's thread must then do what `take_duty` names, and `acknowledge` it. `on_applied` is called when an
    acknowledgement has been made, from the consumer's thread.
    """

    def __init__(self, cell: Cell, claim: Claim, *, wake: Callable[[], None], on_applied: Callable[[], None]) -> None:
        self.cell = cell
        self._words = cell.words
        self.claim = claim
        self.standing = Standing(edition=NOTHING, mode=Mode.DRAIN, local_reason=BOOTING)
        self.applied = Applied()
        # Reentrant: Celery releases a slot inside a start when the task was revoked, and that starts the next.
        self._lock = threading.RLock()
        self._was_closed = True
        self._wake = wake
        self._on_applied = on_applied
        self._logged: Standing | None = None

    def pass_through(self, start: Callable[[R], None], request: R) -> bool:
        """Start `request` if the gate is open; False where it is closed and nothing was done."""
        with self._lock:
            if self._words[0] & HOLDING:
                return False
            start(request)
            return True

    def put_in_force(self, snapshot: Snapshot) -> None:
        """Take a central state. A local hold stays: only the worker itself lifts it."""
        mode = snapshot.holds.mode_for(self.claim)
        holds = [hold for hold in snapshot.holds.sorted() if hold.scope.matches(self.claim)]
        words = "; ".join(f"{hold.reason} (by {hold.actor})" for hold in holds)
        with self._lock:
            local = self.standing.local_reason
            self._flip(
                Standing(
                    edition=snapshot.edition,
                    mode=mode,
                    local_reason=None if local == BOOTING else local,
                    words=words,
                ),
                has_scoped=snapshot.holds.has_scoped,
            )

    def hold_locally(self, reason: str | None) -> None:
        """Place (a reason) or lift (None) the worker's own hold. It can only make the state stricter."""
        with self._lock:
            now = self.standing
            if now.local_reason in (reason, BOOTING):
                return
            self._flip(
                Standing(edition=now.edition, mode=now.mode, local_reason=reason, words=now.words),
                has_scoped=self.cell.has_scoped,
            )

    def _flip(self, standing: Standing, *, has_scoped: bool) -> None:
        self.cell.store(
            pack(
                standing.mode,
                standing.edition,
                is_local=standing.local_reason is not None,
                has_scoped=has_scoped,
            )
        )
        self.standing = standing
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
            self.applied = Applied(edition=standing.edition, at=datetime.now(UTC), standing=standing)
        self._log_once(standing)
        self._on_applied()
        return True

    def _log_once(self, standing: Standing) -> None:
        """A pause is logged once per version and a resume once; an hour paused is one line (R-A11)."""
        if standing.local_reason == BOOTING:
            log.info("sluicegate: closed, %s", BOOTING)
            return
        before, self._logged = self._logged, standing
        if standing.is_open:
            if before is None:
                log.info("sluicegate: running at version %s", standing.edition)
            elif not before.is_open:
                log.warning("sluicegate: resumed at version %s", standing.edition)
        elif before is None or (before.edition, before.is_open) != (standing.edition, False):
            why = standing.local_reason or standing.words
            mode = standing.mode.word if standing.mode else "by this worker itself"
            log.warning("sluicegate: paused (%s) at version %s: %s", mode, standing.edition, why)

    @property
    def state(self) -> WorkerState:
        """What this worker is, for its heartbeat."""
        if self.standing.is_open:
            return WorkerState.RUNNING
        return WorkerState.PAUSED if self.applied.standing is self.standing else WorkerState.PAUSING
