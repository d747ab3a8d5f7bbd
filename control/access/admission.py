"""Who may do what: from a request's token to its caller, and a record of those who were turned away (S8)."""

from __future__ import annotations

from sluicegate.control.access import tokens
from sluicegate.control.access.denials import Attempt, Denials
from sluicegate.control.access.limits import RateLimit
from sluicegate.control.access.tokens import ANONYMOUS, Caller, Right
from sluicegate.control.store.database import Database
from sluicegate.schemas.errors import NotAllowed, NotAuthenticated


class TooManyAttempts(NotAuthenticated):
    """One client showed too many wrong tokens."""

    http_status = 429


class Access:
    """Turns tokens into callers. Thread-safe."""

    def __init__(self, database: Database, namespace: str) -> None:
        self._database = database
        self._failures = RateLimit(burst=20, per_minute=20)
        self.denials = Denials(database, namespace)

    def authenticate(self, header: str | None, attempt: Attempt) -> Caller:
        """The owner of the token in an `Authorization` header.

        Raises NotAuthenticated, TooManyAttempts (both on record, or counted), Unavailable, NotMigrated.
        """
        scheme, _, secret = (header or "").partition(" ")
        if header is None or scheme.lower() != "bearer" or not secret.strip():
            self.denials.note(ANONYMOUS, attempt, "no token")
            raise NotAuthenticated("no token: send `Authorization: Bearer TOKEN` (commands: SLUICEGATE_TOKEN)")
        digest = tokens.digest_of(secret.strip())
        with self._database.transaction() as connection:
            caller = tokens.find(connection, digest)
        if caller is None:
            self.denials.note(ANONYMOUS, attempt, "unknown token")
            # A real token is always listened to: a flood from behind one address must not keep operators from
            # pausing. Guessing 256 bits needs no limit; what it costs us does.
            if not self._failures.take(attempt.client):
                raise TooManyAttempts("too many wrong tokens from this address: wait a minute")
            raise NotAuthenticated("this token is unknown or was revoked")
        return caller

    def authorise(self, caller: Caller, needed: Right, attempt: Attempt) -> None:
        """Raises NotAllowed (on record, or counted) where the caller's right is less than `needed`."""
        if caller.right < needed:
            self.denials.note(caller.name, attempt, f"needs {needed.word}, has {caller.right.word}")
            raise NotAllowed(f"this needs the right {needed.word}; {caller.name!r} has {caller.right.word}")
