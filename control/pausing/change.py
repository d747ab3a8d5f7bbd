"""Orders: pause and resume, one use case for whoever asks.

A change is decided by a pure transition, stored with its version and its audit event in one transaction, and
published after the commit. Postgres is the truth: an order that could not be published yet stands.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any
from uuid import uuid4

from sqlalchemy import Connection

from sluicegate.control.audit import events
from sluicegate.control.fleet.view import Progress
from sluicegate.control.holds import namespaces
from sluicegate.control.holds.namespaces import Truth
from sluicegate.control.pausing import idempotency
from sluicegate.control.pausing.drains import Draining
from sluicegate.control.pausing.glance import Glance
from sluicegate.control.pausing.idempotency import Ask, Effect
from sluicegate.control.pausing.read import Reading
from sluicegate.control.pausing.warnings import warnings
from sluicegate.control.publishing.publisher import Publisher, is_restored
from sluicegate.control.store.database import CommitUnknown, Database
from sluicegate.schemas.api.orders import PAUSE, Order, instant_of
from sluicegate.schemas.api.pausing import MetricsBody
from sluicegate.schemas.errors import InvalidInput, Refused, Unavailable
from sluicegate.schemas.holds.hold import Hold, HoldKey
from sluicegate.schemas.holds.ramps import Ramp, Rate
from sluicegate.schemas.holds.transitions import Change, place, release, reopen
from sluicegate.schemas.modes import Mode
from sluicegate.schemas.progress import UNAVAILABLE, Metrics, present_in
from sluicegate.schemas.scopes import Scope
from sluicegate.schemas.snapshots import MAX_ORDERED_BYTES, Edition, Snapshot, most_bytes
from sluicegate.schemas.times import to_wire_or_none

MAX_TRIES = 5
"""How often a resume looks at the fleet again because the state changed meanwhile."""

UNSEEN = "how far the fleet has got could not be found out in time: see the status"


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """What an order did, and how things stand now. `published`: is it in Redis, where workers see it?

    `metrics` are those of the order's scope; `warnings`: a line each, of what a pause will not do.
    """

    effect: Effect
    published: bool
    metrics: Metrics
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Try:
    """One try to carry an order out: what was seen before the lock is taken.

    `met`: what was published then; None for nothing of ours, and with Redis away. `progress`: how far the fleet had
    got; None for an order that asks nobody. `is_last`: it ends by what was seen, however the state has changed.
    """

    order: Order
    ask: Ask
    met: Snapshot | None
    progress: Progress | None
    is_last: bool


class _Again(Enum):
    """Why a try came to nothing, and the next one may not."""

    OUTDATED = auto()
    """The state changed between the look at the fleet and the lock."""
    RESTORED = auto()
    """What is published knows more than the database: the epoch must be bumped before anything else changes."""


class Orders:
    """Takes the orders of one namespace. Thread-safe; several replicas may run at once."""

    def __init__(
        self, *, database: Database, publisher: Publisher, reading: Reading, draining: Draining, namespace: str
    ) -> None:
        self._database = database
        self._publisher = publisher
        self._reading = reading
        self._draining = draining
        self._namespace = namespace
        self._glance: Glance[tuple[Metrics, tuple[str, ...]]] = Glance()

    def take(self, order: Order, *, actor: str, key: str | None = None) -> Done:
        """Pauses or resumes (R-A4 to R-A8), once for each idempotency `key`, and says what that did.

        Raises InvalidInput (nothing changed), Refused (on record), Unavailable (nothing stored, as far as
        can be found out), NotMigrated.
        """
        ask = Ask.of(actor, key, order.to_wire())
        try:
            met, can_publish = self._publisher.look(), True
        except Unavailable:
            # Redis is away: the order is taken all the same, and the loop meets what is there before it publishes.
            met, can_publish = None, False
        effect = self._carry_out(order, ask, met)
        # With Redis away, another second of waiting would tell nothing new: the loop publishes it.
        published = can_publish and self._publisher.publish_now(effect.after.edition)
        # After the publication, and for a while only: no look may delay the order, or its answer.
        metrics, told = self._glance.at(lambda: self._look_after(order)) or (UNAVAILABLE, (UNSEEN,))
        return Done(effect=effect, published=published, metrics=metrics, warnings=told)

    def close(self) -> None:
        """Before the connections are closed."""
        self._glance.close()

    def _look_after(self, order: Order) -> tuple[Metrics, tuple[str, ...]]:
        """The metrics of the order's scope, and what its giver should know about it. Raises Unavailable."""
        if order.action == PAUSE:
            # The fleet at the moment of the pause (R-C2). Where it cannot be had, the loop takes it as soon as it can,
            # and the record says when that was.
            with suppress(Unavailable):
                self._draining.note()
        progress = self._reading.state(order.scope).progress
        if order.action != PAUSE:
            return progress.metrics, ()
        unheard, unread = progress.metrics.strangers, progress.metrics.unread
        told = warnings(order.scope, progress.workers, order.then, strangers=unheard, unread=unread)
        return progress.metrics, tuple(told)

    def _carry_out(self, order: Order, ask: Ask, met: Snapshot | None) -> Effect:
        for number in range(1, MAX_TRIES + 1):
            progress = self._reading.state(order.scope).progress if _asks(order) else None
            came_to = self._once(_Try(order=order, ask=ask, met=met, progress=progress, is_last=number == MAX_TRIES))
            match came_to:
                case Effect():
                    return came_to
                case Refused():
                    raise came_to
                case _Again.RESTORED if met is not None:
                    # Where the epoch cannot be bumped, the order stands all the same: it is published when it can be.
                    with suppress(Unavailable):
                        self._publisher.meet(met)
                    met = None
                case _:
                    pass  # outdated: look again
        raise Unavailable("the state changes all the time")

    def _once(self, attempt: _Try) -> Effect | Refused | _Again:
        """Tries in a transaction; if the commit's answer was lost, the key tells what became of it."""
        try:
            with self._database.transaction() as connection:
                return self._try(connection, attempt)
        except CommitUnknown:
            with self._database.transaction() as connection:
                # The lock waits for a commit that is still under way on a connection we lost.
                namespaces.lock(connection, self._namespace)
                stored = idempotency.find(connection, self._namespace, attempt.ask)
            if stored is None:
                raise
            return stored

    def _try(self, connection: Connection, attempt: _Try) -> Effect | Refused | _Again:
        """A refusal is returned, not raised: it is on record once the transaction is committed."""
        truth = namespaces.lock(connection, self._namespace)
        if attempt.met is not None and is_restored(attempt.met, truth):
            return _Again.RESTORED
        stored = idempotency.find(connection, self._namespace, attempt.ask)
        if stored is not None:
            return stored
        seen = attempt.progress
        if seen is not None and seen.truth.edition != truth.edition and not attempt.is_last:
            return _Again.OUTDATED
        decided = _decided(attempt, truth)
        if isinstance(decided, Refused):
            event = _refused(attempt, truth, decided)
            events.record(connection, self._namespace, event)
            return decided
        return self._store(connection, attempt, truth, decided)

    def _store(self, connection: Connection, attempt: _Try, truth: Truth, change: Change) -> Effect:
        order, event = attempt.order, _carried_out(attempt, truth, change)
        after = namespaces.store(connection, truth, change, event)
        effect = Effect(
            outcome=event.outcome,
            after=after,
            latest=tuple(events.latest(connection, self._namespace)),
            # One that is being reopened does not remain.
            remaining=() if order.action == PAUSE else tuple(after.holds.staying().causes_at(order.scope)),
        )
        idempotency.keep(connection, self._namespace, attempt.ask, effect, truth.now)
        return effect


def _asks(order: Order) -> bool:
    """Must it know how far the fleet has got? A resume asks whether work is left, about the state that it ends.

    One that is forced does not, but for a ramp, which gives each worker its turn.
    """
    return order.action != PAUSE and (not order.is_forced or order.rate is not None)


def _decided(attempt: _Try, truth: Truth) -> Change | Refused:
    """What the order does to `truth`; raises InvalidInput where it comes too late to mean anything."""
    order, actor = attempt.order, attempt.ask.actor
    if order.action == PAUSE:
        change = _placed(order, truth, actor)
    else:
        refusal = _refusal(order, truth, attempt.progress)
        if refusal is not None:
            return refusal
        change = _resumed(order, truth, attempt.progress, actor)
    return _too_large(truth, change) or change


def _too_large(truth: Truth, change: Change) -> Refused | None:
    """Why a state that grew by this change could not be told to workers; None where it can, or did not grow."""
    hold = change.hold
    if change.is_noop or hold is None or hold.released_at is not None:
        return None
    size = most_bytes(truth.namespace, change.holds)
    if size <= MAX_ORDERED_BYTES or size <= most_bytes(truth.namespace, truth.holds):
        return None
    message = (
        f"the state would have {size} bytes with {len(change.holds.active)} holds, at most {MAX_ORDERED_BYTES} are"
        " published: release holds, say less in their reasons, or resume without a ramp"
    )
    return Refused(message, {"stateBytes": size, "mostBytes": MAX_ORDERED_BYTES})


def _placed(order: Order, truth: Truth, actor: str) -> Change:
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


def _resumed(order: Order, truth: Truth, progress: Progress | None, actor: str) -> Change:
    key = HoldKey(scope=order.scope)
    ramp = None if order.rate is None or progress is None else _ramp(order.rate, progress, order.scope)
    if ramp is not None and ramp.span_s > 0:
        return reopen(truth.holds, key, ramp, now=truth.now)
    return release(truth.holds, key, actor=actor, reason=order.reason, now=truth.now)


def _ramp(rate: Rate, progress: Progress, scope: Scope) -> Ramp:
    """Raises InvalidInput where it would take too long."""
    return rate.ramp(sorted({worker.beat.nodename for worker in present_in(progress.workers, scope)}))


def _refusal(order: Order, truth: Truth, progress: Progress | None) -> Refused | None:
    """Why this resume may not be done now; None where it may (R-A7)."""
    manual = truth.holds.find(HoldKey(scope=order.scope))
    others = truth.holds.causes_at(order.scope)
    if manual is None:
        if not others:
            return None  # nothing holds: resuming it is no mistake, and changes nothing
        message = f"no manual hold to resume; still held by: {', '.join(others)}"
        return Refused(message, {"remaining": others})
    is_reopening = manual.ramp is not None
    if manual.mode is not Mode.DRAIN or is_reopening or order.is_forced or progress is None:
        return None
    if _is_drained(progress, truth):
        return None
    remaining = [cause for cause in others if cause != str(manual.cause)]
    details = {"metrics": MetricsBody.of(progress.metrics).to_json(), "remaining": remaining}
    return Refused("not drained yet: wait, or resume with forceResume", details)


def _is_drained(progress: Progress, truth: Truth) -> bool:
    return progress.truth.edition == truth.edition and progress.metrics.is_drained


def _refused(attempt: _Try, truth: Truth, refusal: Refused) -> events.Event:
    """What goes on record about an order that may not be carried out now."""
    order = attempt.order
    return events.Event(
        action=order.action,
        outcome=events.REFUSED,
        actor=attempt.ask.actor,
        at=truth.now,
        edition=truth.edition,
        reason=order.reason,
        details=_particulars(order, truth, None) | {"why": str(refusal), **refusal.details},
        **_subject(order, None),
    )


def _carried_out(attempt: _Try, truth: Truth, change: Change) -> events.Event:
    """What goes on record about an order that did `change`."""
    order = attempt.order
    version = None if change.is_noop else change.holds.version
    return events.Event(
        action=order.action,
        outcome=events.NOOP if change.is_noop else events.APPLIED,
        actor=attempt.ask.actor,
        at=truth.now,
        edition=truth.edition if version is None else Edition(truth.epoch, version),
        version=version,
        reason=order.reason,
        details={"change": str(change.kind)} | _particulars(order, truth, change.hold),
        **_subject(order, change.hold),
    )


def _subject(order: Order, hold: Hold | None) -> dict[str, Any]:
    """The event's columns that say what it is about: the hold, or the order where there is none."""
    known = events.about(hold) or {"scope": str(order.scope), "cause": "manual", "source": ""}
    known.setdefault("mode", None if order.mode is None else order.mode.word)
    return known


def _particulars(order: Order, truth: Truth, hold: Hold | None) -> dict[str, Any]:
    """The details of an order's event, as JSON: its force, its ramp, its times."""
    told: dict[str, Any] = {}
    if order.action != PAUSE:
        told["forceResume"] = order.is_forced
    if hold is not None and hold.ramp is not None:
        told |= {"ramp": hold.ramp.rate, "reopenedAt": to_wire_or_none(hold.expires_at)}
    if (expires_at := instant_of(order.expires, truth.now)) is not None:
        told["expiresAt"] = to_wire_or_none(expires_at)
    if (deadline := instant_of(order.deadline, truth.now)) is not None:
        told |= {"deadline": to_wire_or_none(deadline), "then": order.then}
    return told
