"""The holds that a worker places on itself: by which rule, why, and what must change. Values alone."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from sluicegate.schemas.holds.hold import Cause
from sluicegate.schemas.modes import Mode
from sluicegate.schemas.scopes import Scope


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalHold:
    """A worker's own hold. `rule` is its source, such as `gpu.lost`; `cause` is health or capacity.

    `scope` is `worker:` with the worker's own nodename, or `host:` with its own host: nothing else may be held by one
    worker. `reason` says in words what was read and what must change. `numbers`: what the rule was judged by, each
    with its unit in its camelCase name.
    """

    rule: str
    cause: Cause
    scope: Scope
    reason: str
    since: datetime
    mode: Mode = Mode.DRAIN
    numbers: dict[str, int | float | str | None] = field(default_factory=dict)
