"""The worker's own holds: in force at its gate, kept over a restart, told in its heartbeats.

Who judges (the rules of health and capacity) calls `inherit` when the worker is put together, and then for each
judgement `inherited`, `cleared` and `take`. Three things come from elsewhere, and are told to the judge:

- what an earlier life of this worker left: from its file, and from the record where the file is lost. It holds until
  the judge has been told of it, and by then it is the judge's to release.
- what an operator cleared (`sluicegate health clear`): it is let go of here, once, and what was seen before counts no
  more.

The record of an own hold in a signed state is no hold of its own here (`Gate`'s `is_own`): a worker that has released
itself starts, also while the control plane, which must take the record away, is down.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from sluicegate.schemas.health.local_holds import (
    MAX_LOCAL_HOLDS,
    OWN_CAUSES,
    LocalHold,
    in_own_scope,
    is_cleared,
    is_own,
)
from sluicegate.schemas.holds.hold import Cause, Hold, HoldKey
from sluicegate.schemas.scopes import Subject
from sluicegate.schemas.snapshots import Snapshot
from sluicegate.workers.gate import Gate
from sluicegate.workers.log import logger
from sluicegate.workers.own_holds_file import Cleared, Left, OwnHoldsFile

log = logger(__name__)


class OwnHolds:
    """All methods may be called from any thread. `on_change`: there is something new to tell."""

    def __init__(
        self,
        gate: Gate[Any],
        file: OwnHoldsFile,
        *,
        on_change: Callable[[], None] = lambda: None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._gate = gate
        self._subject: Subject = gate.subject
        self._file = file
        self._on_change = on_change
        self._now = now
        # Outside of the gate's own lock, which is taken within this one.
        self._lock = threading.RLock()
        self._is_judged = False
        self._held: dict[HoldKey, LocalHold] = {}
        self._shadows: tuple[LocalHold, ...] = ()
        self._untold: dict[HoldKey, LocalHold] = {}
        # All that this life has held, so that a record which comes late is not taken for an earlier life's.
        self._known: set[HoldKey] = set()
        self._cleared: dict[HoldKey, Cleared] = {}
        # Since when what was cleared had been held. By being the same, not by being earlier: a clock may be set back.
        self._let_go: dict[HoldKey, datetime] = {}

    def inherit(self) -> None:
        """Somebody judges from now on: what an earlier life left in its file is in force at once.

        Where this is never called (no probe, or its kill switch), the worker holds itself by nothing, and tells so:
        what is on record is released.
        """
        with self._lock:
            self._is_judged = True
            left = self._file.load()
            self._cleared = dict(left.cleared)
            for hold in in_own_scope(left.holds, self._subject):
                self._take_over(hold)

    def inherited(self) -> tuple[LocalHold, ...]:
        """What an earlier life left and the judge was not told of yet. Each is told once, and then the judge's.

        To be asked right before a judgement: what has not been told stays in force, whatever is taken.
        """
        with self._lock:
            found, self._untold = tuple(self._untold.values()), {}
            return found

    @property
    def cleared(self) -> Mapping[str, datetime]:
        """When an operator last cleared each rule, by this host's clock: what was seen before counts no more for it.

        The judge begins anew with a rule whose time here has changed: a wish that goes on from the hold that was
        cleared, by its `since`, is not taken.
        """
        with self._lock:
            at: dict[str, datetime] = {}
            for key, one in self._cleared.items():
                at[key.source] = max(one.at, at.get(key.source, one.at))
            return at

    def take(self, holds: Iterable[LocalHold]) -> None:
        """All that the rules want to be held now: the new ones are in force at the gate when this returns.

        What was held before and is not among them is released; a rule that only warns (`is_shadow`) is told and holds
        nothing. Raises ValueError for a scope that is not this worker's own nodename or host, or another's cause.
        """
        wanted = list(holds)
        if len(in_own_scope(wanted, self._subject)) != len(wanted) or any(h.cause not in OWN_CAUSES for h in wanted):
            raise ValueError("a worker holds itself and its own host alone, for health or capacity")
        with self._lock:
            held = {hold.key: hold for hold in wanted if not hold.is_shadow and not self._is_stale(hold)}
            shadows = tuple(hold for hold in wanted if hold.is_shadow)
            is_told_anew = [one.key for one in shadows] != [one.key for one in self._shadows]
            self._shadows = shadows
            is_changed = self._put_in_force(self._untold | held)
        if is_changed or is_told_anew:
            self._on_change()

    def held(self) -> tuple[LocalHold, ...]:
        """What is in force by this worker's own rules, in the newest words."""
        with self._lock:
            return tuple(self._held.values())

    def told(self) -> tuple[LocalHold, ...]:
        """What the next heartbeat says: all that is held, then what only would be, as many as are taken of it."""
        with self._lock:
            return (*self._held.values(), *self._shadows)[:MAX_LOCAL_HOLDS]

    def see(self, snapshot: Snapshot) -> None:
        """Put a central state into force; of the records of own holds in it, learn what an earlier life left and what
        was cleared. For the follower's thread.
        """
        with self._lock:
            records = [hold for hold in snapshot.holds.sorted() if is_own(hold, self._subject)]
            cleared = [hold for hold in records if is_cleared(hold)]
            if self._is_judged:
                # Before the gate is asked: there is no moment in which neither the record nor this holds.
                for hold in records:
                    if hold not in cleared and hold.key not in self._known:
                        self._take_over(_as_local(hold))
            self._gate.put_in_force(snapshot)
            if self._is_judged:
                self._clear(cleared)

    def _take_over(self, hold: LocalHold) -> None:
        log.warning("sluicegate: an earlier life of this worker held itself (%s): %s", hold.rule, hold.reason)
        self._untold[hold.key] = hold
        self._put_in_force(self._held | {hold.key: hold})

    def _clear(self, records: Iterable[Hold]) -> None:
        new = [hold for hold in records if not self._has_seen(hold)]
        for hold in new:
            log.warning("sluicegate: cleared by an operator (%s): %s", hold.source, hold.reason)
            self._cleared[hold.key] = Cleared(mark=_mark(hold), at=self._now())
            self._known.add(hold.key)
            self._untold.pop(hold.key, None)
            if hold.key in self._held:
                self._let_go[hold.key] = self._held[hold.key].since
        if new:
            gone = {hold.key for hold in new}
            if not self._put_in_force({key: hold for key, hold in self._held.items() if key not in gone}):
                self._save()
            self._on_change()

    def _has_seen(self, hold: Hold) -> bool:
        before = self._cleared.get(hold.key)
        return before is not None and before.mark == _mark(hold)

    def _is_stale(self, hold: LocalHold) -> bool:
        """Does it go on from a hold that an operator cleared while it was judged?"""
        return self._let_go.get(hold.key) == hold.since

    def _put_in_force(self, wanted: dict[HoldKey, LocalHold]) -> bool:
        """Is it another set of holds than before? What only says it in other words does not reach the gate."""
        before, self._held = self._held, wanted
        self._known |= wanted.keys()
        # What comes before what goes: the gate does not open in between.
        new = [hold for key, hold in wanted.items() if key not in before or before[key].mode is not hold.mode]
        for hold in new:
            self._gate.hold_locally(hold.reason, source=_source(hold.key), mode=hold.mode)
            log.warning("sluicegate: this worker holds itself (%s, %s): %s", hold.rule, hold.mode.word, hold.reason)
        gone = [hold for key, hold in before.items() if key not in wanted]
        for hold in gone:
            self._gate.hold_locally(None, source=_source(hold.key))
            log.warning("sluicegate: this worker holds itself no more for %s", hold.rule)
        if new or gone:
            self._save()
        return bool(new or gone)

    def _save(self) -> None:
        self._file.save(Left(holds=tuple(self._held.values()), cleared=self._cleared))


def _source(key: HoldKey) -> str:
    return f"{key.scope} {key.cause} {key.source}"


def _mark(hold: Hold) -> str:
    """What tells one clearing of a record from the next."""
    return f"{hold.id} {hold.expires_at}"


def _as_local(hold: Hold) -> LocalHold:
    return LocalHold(
        rule=hold.source,
        cause=Cause(hold.cause),
        scope=hold.scope,
        reason=hold.reason,
        since=hold.created_at,
        mode=hold.mode,
    )
