"""The use cases: pause, resume, expire, read. One each, whoever asks: REST, commands, loops.

A change is decided by a pure transition, stored with its version and its audit event in one transaction, and
published after the commit. Postgres is the truth: an order that could not be published yet stands.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import Connection

from sluicegate.control.audit import events
from sluicegate.control.fleet import runtimes, sightings
from sluicegate.control.fleet.view import Fleet, Progress
from sluicegate.control.holds import drain_rows, hold_rows, namespaces
from sluicegate.control.holds.namespaces import Truth
from sluicegate.control.pausing import bodies, idempotency
from sluicegate.control.pausing.drains import Draining
from sluicegate.control.pausing.idempotency import Ask
from sluicegate.control.publishing.publisher import Publisher, is_restored
from sluicegate.control.store.database import CommitUnknown, Database
from sluicegate.schemas.api.bodies import PauseRequest
from sluicegate.schemas.api.orders import PAUSE, Order, instant_of, order_of
from sluicegate.schemas.errors import InvalidInput, NotFound, Refused, Unavailable
from sluicegate.schemas.holds.hold import Hold, HoldKey
from sluicegate.schemas.holds.preview import preview
from sluicegate.schemas.holds.ramps import Ramp, Rate
from sluicegate.schemas.holds.transitions import Change, escalate, expire, place, release, reopen
from sluicegate.schemas.modes import Mode
from sluicegate.schemas.progress import UNAVAILABLE, Metrics, present_in
from sluicegate.schemas.scopes import GLOBAL, Scope
from sluicegate.schemas.snapshots import Edition, Snapshot
from sluicegate.schemas.times import to_wire_or_none

MAX_LOOKS = 5
"""How often a resume looks at the fleet again because the state changed meanwhile."""


Judge = Callable[[Connection, Truth], tuple[Change, events.Event] | None]
"""What the clock does to a truth, with the event that says so; None: nothing is due."""


@dataclass(frozen=True, slots=True)
class _Refusal:
    """A refusal that is on record: raised after its transaction is committed."""

    error: Refused


class _Outdated(Exception):
    """The state changed between the look at the fleet and the lock."""


class _Restored(Exception):
    """What is published knows more than the database: the epoch must be bumped before anything else changes."""


class Pausing:
    """Pause, resume, expire and read one namespace. Thread-safe; several replicas may run at once."""

    def __init__(
        self, *, database: Database, publisher: Publisher, fleet: Fleet, draining: Draining, namespace: str
    ) -> None:
        self._database = database
        self._publisher = publisher
        self._fleet = fleet
        self._draining = draining
        self._namespace = namespace

    def read(self, scope: Scope = GLOBAL) -> dict[str, Any]:
        """`GET /api/system/worker-pause` (R-A6), with the metrics of `scope`. Raises Unavailable, NotMigrated."""
        progress, tail = self._look(scope)
        return {
            "system": bodies.system(progress.truth),
            "metrics": progress.metrics.to_wire(),
            "audit": {"latest": tail},
        }

    def workers(self) -> dict[str, Any]:
        """`GET /api/workers`. Raises Unavailable, NotMigrated."""
        progress, _ = self._look()
        return {"workers": [worker.to_wire() for worker in progress.workers]}

    def preview(self, scope: Scope) -> dict[str, Any]:
        """`GET /api/system/worker-pause/preview` (R-C6): what a hold on `scope` would touch. Changes nothing.

        Raises Unavailable (also with Redis away: there is nothing to tell then), NotMigrated.
        """
        with self._database.transaction() as connection:
            truth = namespaces.read(connection, self._namespace) or namespaces.lock(connection, self._namespace)
            remembered = sightings.read(connection, self._namespace)
            known = runtimes.read(connection, self._namespace)
        seen = self._fleet.look(truth, remembered)
        if not seen.is_heard:
            raise Unavailable("Redis cannot be read: what runs is not known")
        usual_s = {name: runtime.usual_s for name, runtime in known.items() if runtime.usual_s is not None}
        depths = self._fleet.depths(seen, scope)
        told = preview(seen.workers, scope, depths=depths, usual_s=usual_s, now=seen.at)
        return told | {"heldBy": bodies.at_scope(truth.holds, scope), "warnings": bodies.warnings(scope, seen.workers)}

    def tell(self, hold_id: UUID) -> dict[str, Any]:
        """`GET /api/holds/ID`: a hold, what ran and waited when it was placed, and what became of it (R-C2, R-C5).

        Raises NotFound, Unavailable, NotMigrated.
        """
        with self._database.transaction() as connection:
            hold = hold_rows.find(connection, self._namespace, hold_id)
            if hold is None:
                raise NotFound(f"no hold has the id {hold_id}")
            return {"hold": hold.to_wire()} | drain_rows.story(connection, self._namespace, hold_id)

    def change(self, request: PauseRequest, actor: str) -> dict[str, Any]:
        """`POST /api/system/worker-pause`: pauses or resumes (R-A4 to R-A8), and says what it did.

        Raises InvalidInput (nothing changed), Refused (on record), Unavailable (nothing stored, as far as
        can be found out), NotMigrated.
        """
        order = order_of(request)
        ask = Ask.of(actor, request.idempotency_key, order.to_wire())
        try:
            met, can_publish = self._publisher.look(), True
        except Unavailable:
            # Redis is away: the order is taken all the same, and the loop meets what is there before it publishes.
            met, can_publish = None, False
        done = self._carry_out(order, ask, met)
        edition = Edition(done["system"]["epoch"], done["system"]["version"])
        # With Redis away, another second of waiting would tell nothing new: the loop publishes it.
        published = can_publish and self._publisher.publish_now(edition)
        if order.action == PAUSE:
            self._note_what_runs()
        metrics, warnings = self._after(order)
        return {
            "outcome": done["outcome"],
            "system": done["system"],
            "metrics": metrics.to_wire(),
            "audit": done["audit"],
            "published": published,
            "remaining": done["remaining"],
            "warnings": warnings,
        }

    def expire_due(self) -> int:
        """Releases the holds whose time has run out, one a transaction; how many. Raises Unavailable.

        With several replicas, the row lock lets exactly one release each.
        """
        return self._while_due(_expired)

    def escalate_due(self) -> int:
        """Begins what follows each deadline that has come with work left; how many. As `expire_due`."""
        return self._while_due(_escalated)

    def _look(self, scope: Scope = GLOBAL) -> tuple[Progress, list[dict[str, Any]]]:
        with self._database.transaction() as connection:
            truth = namespaces.read(connection, self._namespace) or namespaces.lock(connection, self._namespace)
            remembered = sightings.read(connection, self._namespace)
            tail = events.latest(connection, self._namespace)
        return self._fleet.progress(truth, remembered, scope), tail

    def _note_what_runs(self) -> None:
        """The fleet at the moment of the pause (R-C2). After the publication: no look may delay the order."""
        # Where it cannot be had, the loop takes it as soon as it can, and the record says when that was.
        with suppress(Unavailable):
            self._draining.note()

    def _after(self, order: Order) -> tuple[Metrics, list[str]]:
        """The metrics of the order's scope, and what its giver should know about it."""
        try:
            progress, _ = self._look(order.scope)
        except Unavailable:
            # The order is stored: that must not be answered with an error because a figure cannot be had.
            return UNAVAILABLE, []
        if order.action != PAUSE:
            return progress.metrics, []
        return progress.metrics, bodies.warnings(order.scope, progress.workers, order.then)

    def _carry_out(self, order: Order, ask: Ask, met: Snapshot | None) -> dict[str, Any]:
        for look in range(MAX_LOOKS):
            # Only a resume asks whether work is left, and it must have asked about the state that it ends.
            progress = None if order.action == PAUSE else self._look(order.scope)[0]
            try:
                is_last = look == MAX_LOOKS - 1
                work = partial(self._do, order=order, ask=ask, met=met, progress=progress, is_last=is_last)
                done = self._once(ask, work)
            except _Outdated:
                continue
            except _Restored:
                assert met is not None
                # Where the epoch cannot be bumped, the order stands all the same: it is published when it can be.
                with suppress(Unavailable):
                    self._publisher.meet(met)
                met = None
                continue
            if isinstance(done, _Refusal):
                raise done.error
            return done
        raise Unavailable("the state changes all the time")

    def _once(self, ask: Ask, work: Callable[[Connection], dict[str, Any] | _Refusal]) -> dict[str, Any] | _Refusal:
        """Does `work` in a transaction; if the commit's answer was lost, the key tells what became of it."""
        try:
            with self._database.transaction() as connection:
                return work(connection)
        except CommitUnknown:
            with self._database.transaction() as connection:
                # The lock waits for a commit that is still under way on a connection we lost.
                namespaces.lock(connection, self._namespace)
                stored = idempotency.find(connection, self._namespace, ask)
            if stored is None:
                raise
            return stored

    def _do(
        self,
        connection: Connection,
        order: Order,
        ask: Ask,
        met: Snapshot | None,
        progress: Progress | None,
        is_last: bool,
    ) -> dict[str, Any] | _Refusal:
        truth = namespaces.lock(connection, self._namespace)
        if met is not None and is_restored(met, truth):
            raise _Restored
        stored = idempotency.find(connection, self._namespace, ask)
        if stored is not None:
            return stored
        if progress is None:
            change = self._placed(order, truth, ask.actor)
        else:
            if progress.truth.edition != truth.edition and not is_last:
                raise _Outdated
            refusal = _refusal(order, truth, progress)
            if refusal is not None:
                event = _event(order, truth, None, ask.actor, events.REFUSED, {"why": str(refusal), **refusal.details})
                events.record(connection, self._namespace, event)
                return _Refusal(refusal)
            key = HoldKey(scope=order.scope)
            ramp = None if order.rate is None or progress is None else _ramp(order.rate, progress, order.scope)
            if ramp is not None and ramp.span_s > 0:
                change = reopen(truth.holds, key, ramp, now=truth.now)
            else:
                change = release(truth.holds, key, actor=ask.actor, reason=order.reason, now=truth.now)
        outcome = events.NOOP if change.is_noop else events.APPLIED
        after = namespaces.store(connection, truth, change, _event(order, truth, change, ask.actor, outcome, {}))
        answer = {
            "outcome": outcome,
            "system": bodies.system(after),
            "audit": {"latest": events.latest(connection, self._namespace)},
            "remaining": [] if order.action == PAUSE else bodies.remaining_at(after.holds, order.scope),
        }
        idempotency.keep(connection, self._namespace, ask, answer, truth.now)
        return answer

    def _placed(self, order: Order, truth: Truth, actor: str) -> Change:
        # Judged here, not with the other fields: only the database's clock counts, and a repeated request
        # is answered as the first was even after its hold has expired.
        expires_at, deadline = instant_of(order.expires, truth.now), instant_of(order.deadline, truth.now)
        for field, at in (("expiresAt", expires_at), ("deadline", deadline)):
            if at is not None and at <= truth.now:
                raise InvalidInput(field, "must be in the future")
        if expires_at is not None and deadline is not None and expires_at <= deadline:
            raise InvalidInput("deadline", "must lie before the hold expires")
        wish = Hold(
            id=uuid4(),
            scope=order.scope,
            mode=order.mode or Mode.DRAIN,
            reason=order.reason,
            actor=actor,
            created_at=truth.now,
            expires_at=expires_at,
            deadline=deadline,
            then=order.then,
        )
        return place(truth.holds, wish)

    def _while_due(self, judge: Judge) -> int:
        count = 0
        while self._has_due(judge):
            edition = self._act(judge)
            if edition is None:
                break
            count += 1
            self._publisher.publish_now(edition)
        return count

    def _has_due(self, judge: Judge) -> bool:
        # Without the lock: nearly always nothing is due, and then nobody is to wait.
        with self._database.transaction() as connection:
            truth = namespaces.read(connection, self._namespace)
            return truth is not None and judge(connection, truth) is not None

    def _act(self, judge: Judge) -> Edition | None:
        with self._database.transaction() as connection:
            truth = namespaces.lock(connection, self._namespace)
            due = judge(connection, truth)
            if due is None:
                return None  # another replica was first
            change, event = due
            return namespaces.store(connection, truth, change, event).edition


def _expired(connection: Connection, truth: Truth) -> tuple[Change, events.Event] | None:
    change = expire(truth.holds, now=truth.now)
    if change.hold is None:
        return None
    if change.hold.ramp is not None:
        return change, _by_the_clock("ramp_completed", truth, change, {"ramp": change.hold.ramp.rate})
    return change, _by_the_clock("hold_expired", truth, change, {"expiresAt": to_wire_or_none(change.hold.expires_at)})


def _escalated(connection: Connection, truth: Truth) -> tuple[Change, events.Event] | None:
    if not any(hold.is_overdue(truth.now) for hold in truth.holds.active):
        return None
    change = escalate(truth.holds, now=truth.now, drained=drain_rows.drained(connection, truth.namespace))
    if change.hold is None:
        return None
    details = {
        "deadline": to_wire_or_none(change.hold.deadline),
        "then": change.hold.then,
        # What it does to each of these: asks it to stop at its next checkpoint, and then what `then` says. The
        # receipt tells what came of it.
        "running": drain_rows.running(connection, change.hold.id),
    }
    return change, _by_the_clock("hold_escalated", truth, change, details)


def _by_the_clock(action: str, truth: Truth, change: Change, details: dict[str, Any]) -> events.Event:
    """What goes on record about a change that nobody asked for at this moment."""
    hold = change.hold
    return events.Event(
        action=action,
        outcome=events.APPLIED,
        actor=events.SYSTEM,
        at=truth.now,
        edition=Edition(truth.epoch, change.holds.version),
        version=change.holds.version,
        reason=None if hold is None else hold.reason,
        details=details | {"change": str(change.kind)},
        **events.about(hold),
    )


def _ramp(rate: Rate, progress: Progress, scope: Scope) -> Ramp:
    """Raises InvalidInput where it would take too long."""
    return rate.ramp([worker.beat.nodename for worker in present_in(progress.workers, scope)])


def _refusal(order: Order, truth: Truth, progress: Progress) -> Refused | None:
    """Why this resume may not be done now; None where it may (R-A7)."""
    manual = truth.holds.find(HoldKey(scope=order.scope))
    others = bodies.at_scope(truth.holds, order.scope)
    if manual is None:
        if not others:
            return None  # nothing holds: resuming it is no mistake, and changes nothing
        message = f"no manual hold to resume; still held by: {', '.join(others)}"
        return Refused(message, {"remaining": others})
    is_reopening = manual.ramp is not None
    if manual.mode is not Mode.DRAIN or is_reopening or order.is_forced or _is_drained(progress, truth):
        return None
    remaining = [cause for cause in others if cause != str(manual.cause)]
    details = {"metrics": progress.metrics.to_wire(), "remaining": remaining}
    return Refused("not drained yet: wait, or resume with forceResume", details)


def _is_drained(progress: Progress, truth: Truth) -> bool:
    return progress.truth.edition == truth.edition and progress.metrics.is_drained


def _event(
    order: Order, truth: Truth, change: Change | None, actor: str, outcome: str, details: dict[str, Any]
) -> events.Event:
    """What goes on record about `order`; `change` None for one that was refused."""
    is_applied = outcome == events.APPLIED
    version = change.holds.version if change is not None and is_applied else None
    hold = change.hold if change is not None else None
    known = events.about(hold) or {"scope": str(order.scope), "cause": "manual", "source": ""}
    known.setdefault("mode", None if order.mode is None else order.mode.word)
    extra: dict[str, Any] = {} if change is None else {"change": str(change.kind)}
    if order.action != PAUSE:
        extra["forceResume"] = order.is_forced
    if hold is not None and hold.ramp is not None:
        extra |= {"ramp": hold.ramp.rate, "reopenedAt": to_wire_or_none(hold.expires_at)}
    if (expires_at := instant_of(order.expires, truth.now)) is not None:
        extra["expiresAt"] = to_wire_or_none(expires_at)
    if (deadline := instant_of(order.deadline, truth.now)) is not None:
        extra |= {"deadline": to_wire_or_none(deadline), "then": order.then}
    return events.Event(
        action=order.action,
        outcome=outcome,
        actor=actor,
        at=truth.now,
        edition=truth.edition if version is None else Edition(truth.epoch, version),
        version=version,
        reason=order.reason,
        details=extra | details,
        **known,
    )
