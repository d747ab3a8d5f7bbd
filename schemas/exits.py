"""Exit codes of every sluicegate verb (R-C1). Scripts depend on them: a number never changes its meaning."""

from __future__ import annotations

from enum import IntEnum


class Exit(IntEnum):
    """What a verb's exit code says. Each member's docstring is its line in the documentation."""

    OK = 0
    """Done; with `--wait`: drained."""
    USAGE = 2
    """Bad usage or bad input; nothing was changed."""
    NOT_DRAINED = 3
    """`--wait` ended by timeout or deadline with work left."""
    WORKER_LOST = 4
    """`--wait` ended because a worker was lost with work on it."""
    NOT_PUBLISHED = 5
    """Stored, but not yet published to the workers; the control plane keeps trying."""
    REFUSED = 6
    """Refused by the control plane (409, 422, 404); nothing was changed."""
    NOT_ALLOWED = 7
    """No token, an unknown token, or one without the right (401, 403)."""
    UNREACHABLE = 8
    """The control plane, or what it stands on, cannot be reached."""
    AUDIT_BROKEN = 9
    """`audit verify`: the audit is not what was recorded; the line names the first event that is not."""
    NOBODY = 10
    """`--wait` found nobody who could acknowledge, or somebody consuming who is not heard; the pause stands."""
