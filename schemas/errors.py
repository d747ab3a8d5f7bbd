"""Every error sluicegate raises on purpose.

    SluicegateError
    ├── InvalidInput          a field of a request, a setting or a message is wrong       422, exit 2
    │   └── InvalidSetting    a SLUICEGATE_* setting cannot be used                            exit 2
    │       ├── MissingSetting    it is not set                                               exit 2
    │       └── InvalidSettings   several are wrong, told together                            exit 2
    ├── Refused               well formed, but not now: the state forbids it               409, exit 6
    ├── NotAuthenticated      no token, or one that nobody was given                       401, exit 7
    ├── NotAllowed            a real token without the right                               403, exit 7
    ├── NotFound              nothing has that name                                        404, exit 6
    ├── Unavailable           a part we stand on is away                                   503, exit 8
    │   ├── NotMigrated       the database has no tables, or older ones                    503, exit 8
    │   └── DatabaseTooNew    its tables are of a revision that this code cannot use       503, exit 8
    ├── AuditBroken           the chain of audit events does not verify                        exit 9
    └── SnapshotRefused       a state that a worker must not obey
        ├── MalformedSnapshot
        ├── BadSignature
        └── StaleSnapshot     older than what is in force

`code` is the word that JSON answers, logs and metrics use for the class; it never changes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar


class SluicegateError(Exception):
    """Base of all errors raised on purpose. `str(error)` is one line that an operator can act on."""

    code: ClassVar[str] = "error"
    http_status: ClassVar[int] = 500


class InvalidInput(SluicegateError):
    """A value that cannot be accepted; `field` names it as the caller spelled it (camelCase in JSON)."""

    code = "invalid_input"
    http_status = 422

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field
        self.message = message

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.field, self.message)


class InvalidSetting(InvalidInput):
    """A setting that is missing or out of range; `field` is the environment variable."""

    code = "invalid_setting"


class MissingSetting(InvalidSetting):
    """A setting without which nothing can be done is not there at all."""


class InvalidSettings(InvalidSetting):
    """Several settings are wrong, each told in `errors`; `field` is the first's."""

    def __init__(self, errors: tuple[InvalidSetting, ...]) -> None:
        first, *others = errors
        super().__init__(first.field, "; ".join([first.message, *map(str, others)]))
        self.errors = errors

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.errors,)


class Refused(SluicegateError):
    """The request is well formed, but the present state forbids it; `details` says what stands in the way."""

    code = "refused"
    http_status = 409

    def __init__(self, message: str, details: Mapping[str, Any] | None = None) -> None:
        super().__init__(message)
        self.details = dict(details or {})


class NotAuthenticated(SluicegateError):
    """No token came with the request, or it is unknown or revoked."""

    code = "not_authenticated"
    http_status = 401


class NotAllowed(SluicegateError):
    """The token is real, but lacks the right for this."""

    code = "not_allowed"
    http_status = 403


class NotFound(SluicegateError):
    """No hold, worker or token has the name that was asked for; nothing was changed."""

    code = "not_found"
    http_status = 404


class Unavailable(SluicegateError):
    """A part that the request needs (Postgres, Redis, the control plane) cannot be reached."""

    code = "unavailable"
    http_status = 503


class NotMigrated(Unavailable):
    """The database answers, but its tables are missing or older than this code: `sluicegate db upgrade` is due."""

    code = "not_migrated"


class DatabaseTooNew(Unavailable):
    """The database answers, but a later revision took away what this code needs: the code is to be upgraded."""

    code = "database_too_new"


class AuditBroken(SluicegateError):
    """The audit is not what was recorded. `position` and `event_id` say where, as far as there is an event."""

    code = "audit_broken"

    def __init__(self, message: str, position: int | None = None, event_id: int | None = None) -> None:
        super().__init__(message)
        self.position = position
        self.event_id = event_id

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (str(self), self.position, self.event_id)


class SnapshotRefused(SluicegateError):
    """A state that a worker must not obey; the state in force stays."""

    code = "snapshot_refused"


class MalformedSnapshot(SnapshotRefused):
    """Not an envelope of this protocol version, or its payload is not a snapshot of this namespace."""

    code = "malformed_snapshot"


class BadSignature(SnapshotRefused):
    """No trusted key made this signature over these bytes."""

    code = "bad_signature"


class StaleSnapshot(SnapshotRefused):
    """Validly signed, but older than what has been applied: a replay, or a replica that lags."""

    code = "stale_snapshot"
