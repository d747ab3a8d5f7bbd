"""Who may do what: from a request's token to its caller, and a record of those who were turned away (S8)."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any

from sluicegate.control.access import tokens
from sluicegate.control.access.limits import RateLimit
from sluicegate.control.access.tokens import ANONYMOUS, Caller, Right
from sluicegate.control.audit import events
from sluicegate.control.holds.namespaces import clock, read
from sluicegate.control.store.database import Database
from sluicegate.schemas.errors import NotAllowed, NotAuthenticated, Unavailable
from sluicegate.schemas.snapshots import NOTHING

EVERYBODY = ""


class TooManyAttempts(NotAuthenticated):
    """One client showed too many wrong tokens; they are not put on record any more."""

    http_status = 429


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """What somebody tried: the verb for the audit, on what, the client's address, what to add to the details.

    `scope` is None for what concerns no scope, or none that could be understood.
    """

    action: str
    client: str
    scope: str | None
    details: dict[str, Any]


class Access:
    """Turns tokens into callers. Thread-safe."""

    def __init__(self, database: Database, namespace: str) -> None:
        self._database = database
        self._namespace = namespace
        self._failures = RateLimit(burst=20, per_minute=20)
        # A flood of denials must not fill the audit: the rest is counted, and the count is recorded.
        self._records = RateLimit(burst=10, per_minute=10)
        self._records_of_all = RateLimit(burst=60, per_minute=60)
        self._lock = threading.Lock()
        self._unrecorded = 0

    def authenticate(self, header: str | None, attempt: Attempt) -> Caller:
        """The owner of the token in an `Authorization` header.

        Raises NotAuthenticated (on record), TooManyAttempts (counted), Unavailable, NotMigrated.
        """
        scheme, _, secret = (header or "").partition(" ")
        if header is None or scheme.lower() != "bearer" or not secret.strip():
            self._turn_away(ANONYMOUS, attempt, "no token")
            raise NotAuthenticated("no token: send `Authorization: Bearer TOKEN` (commands: SLUICEGATE_TOKEN)")
        digest = tokens.digest_of(secret.strip())
        with self._database.transaction() as connection:
            caller = tokens.find(connection, digest)
        if caller is None:
            # A real token is always listened to: a flood from behind one address must not keep operators from
            # pausing. Guessing 256 bits needs no limit; what it costs us does.
            if not self._failures.take(attempt.client):
                self._count()
                raise TooManyAttempts("too many wrong tokens from this address: wait a minute")
            self._turn_away(ANONYMOUS, attempt, "unknown token")
            raise NotAuthenticated("this token is unknown or was revoked")
        return caller

    def authorise(self, caller: Caller, needed: Right, attempt: Attempt) -> None:
        """Raises NotAllowed (on record) where the caller's right is less than `needed`."""
        if caller.right < needed:
            self._turn_away(caller.name, attempt, f"needs {needed.word}, has {caller.right.word}")
            raise NotAllowed(f"this needs the right {needed.word}; {caller.name!r} has {caller.right.word}")

    def _turn_away(self, actor: str, attempt: Attempt, why: str) -> None:
        if not (self._records.take(attempt.client) and self._records_of_all.take(EVERYBODY)):
            self._count()
            return
        with self._lock:
            unrecorded, self._unrecorded = self._unrecorded, 0
        details = attempt.details | {"why": why, "client": attempt.client}
        if unrecorded:
            details["unrecordedBefore"] = unrecorded
        try:
            self._record(actor, attempt, details)
        except Unavailable:
            # Turned away all the same; without a database there is nothing to record it in.
            self._count(1 + unrecorded)

    def _count(self, more: int = 1) -> None:
        with self._lock:
            self._unrecorded += more

    def _record(self, actor: str, attempt: Attempt, details: dict[str, Any]) -> None:
        with self._database.transaction() as connection:
            truth = read(connection, self._namespace)
            event = events.Event(
                action=attempt.action,
                outcome=events.DENIED,
                actor=actor,
                at=clock(connection),
                edition=truth.edition if truth else NOTHING,
                scope=attempt.scope,
                details=details,
            )
            events.record(connection, self._namespace, event)
