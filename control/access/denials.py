"""Who was turned away, on record: each by itself within limits, and the others by their number."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic
from typing import Any

from sluicegate.control.access.limits import RateLimit
from sluicegate.control.access.tokens import ANONYMOUS
from sluicegate.control.audit import events
from sluicegate.control.holds.namespaces import clock, read
from sluicegate.control.store.database import Database
from sluicegate.schemas.errors import Unavailable
from sluicegate.schemas.snapshots import NOTHING

COUNTED_EVERY_S = 10.0
"""How often a flood's number goes on record while it lasts; the first time at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """What somebody tried: the verb for the audit, on what, the client's address, what to add to the details.

    `scope` is None for what concerns no scope, or none that could be understood.
    """

    action: str
    client: str
    scope: str | None
    details: dict[str, Any]


class Denials:
    """Records denials. Thread-safe.

    Nobody's denials keep another's off the record: each owner of a token has limits of its own, strangers have them
    by address and together, and what is tried has its own, so that fifteen wrong reads do not hide a wrong order.
    """

    def __init__(self, database: Database, namespace: str, now: Callable[[], float] = monotonic) -> None:
        self._database = database
        self._namespace = namespace
        self._now = now
        self._by_address = RateLimit(burst=10, per_minute=10, clock=now)
        self._of_strangers = RateLimit(burst=60, per_minute=60, clock=now)
        # Two of them, so that no flood of addresses drives the owners of tokens out of what is remembered.
        self._by_actor_and_address = RateLimit(burst=10, per_minute=10, clock=now)
        self._by_actor = RateLimit(burst=30, per_minute=30, clock=now)
        self._lock = threading.Lock()
        self._unrecorded: Counter[str] = Counter()
        self._counted_at: float | None = None

    def note(self, actor: str, attempt: Attempt, why: str) -> None:
        """Puts a denial on record, or counts it. Never raises for a database that is away: it is counted then."""
        if not self._is_within_limits(actor, attempt):
            self._count(Counter({attempt.action: 1}))
            return
        unrecorded = self._take()
        details = attempt.details | {"why": why, "client": attempt.client}
        if unrecorded:
            details |= _number(unrecorded, "unrecordedBefore")
        try:
            self._record(attempt.action, actor, attempt.scope, details)
        except Unavailable:
            # Turned away all the same; without a database there is nothing to record it in.
            self._count(unrecorded + Counter({attempt.action: 1}))

    def tell_counts(self, *, at_once: bool = False) -> None:
        """Puts the number of those that were only counted on record, now and then. Raises Unavailable."""
        now = self._now()
        if not at_once and self._counted_at is not None and now - self._counted_at < COUNTED_EVERY_S:
            return
        unrecorded = self._take()
        if not unrecorded:
            return
        try:
            self._record("denials_counted", events.SYSTEM, None, _number(unrecorded, "unrecorded"))
        except Unavailable:
            self._count(unrecorded)
            raise
        self._counted_at = now

    def _is_within_limits(self, actor: str, attempt: Attempt) -> bool:
        place = f"{attempt.action} {attempt.client}"
        if actor == ANONYMOUS:
            return self._by_address.take(place) and self._of_strangers.take(attempt.action)
        return self._by_actor_and_address.take(f"{actor}\x00{place}") and self._by_actor.take(
            f"{actor}\x00{attempt.action}"
        )

    def _take(self) -> Counter[str]:
        with self._lock:
            unrecorded, self._unrecorded = self._unrecorded, Counter()
        return unrecorded

    def _count(self, more: Counter[str]) -> None:
        with self._lock:
            self._unrecorded += more

    def _record(self, action: str, actor: str, scope: str | None, details: dict[str, Any]) -> None:
        with self._database.transaction() as connection:
            truth = read(connection, self._namespace)
            event = events.Event(
                action=action,
                outcome=events.DENIED,
                actor=actor,
                at=clock(connection),
                edition=truth.edition if truth else NOTHING,
                scope=scope,
                details=details,
            )
            events.record(connection, self._namespace, event)


def _number(unrecorded: Counter[str], name: str) -> dict[str, Any]:
    return {name: unrecorded.total(), f"{name}ByAction": dict(sorted(unrecorded.items()))}
