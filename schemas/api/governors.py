"""Governors: the bodies of `/api/governors`."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, WithJsonSchema

from sluicegate.schemas.api.base import Answer, Asked, Instant

_Text = Annotated[Any, WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "null"}]})]
_Object = Annotated[Any, WithJsonSchema({"type": "object"})]
_Figure = Annotated[Any, WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "number"}]})]
_Seconds = Annotated[Any, WithJsonSchema({"anyOf": [{"type": "number"}, {"type": "null"}]})]


class GovernorRequest(Asked):
    """`PUT /api/governors/{kind}/{name}`: what it is to say (`spec`), and why. `dryRun` judges, and stores nothing."""

    spec: _Object = None
    reason: _Text = None
    dry_run: bool = False


class ReasonRequest(Asked):
    """`DELETE /api/governors/{kind}/{name}`, and of its override: why."""

    reason: _Text = None


class OverrideRequest(Asked):
    """`POST /api/governors/{kind}/{name}/override`: go on past it, for so many seconds at most."""

    reason: _Text = None
    for_s: _Seconds = None


class AdjustRequest(Asked):
    """`POST /api/governors/budget/{name}/adjust`: `amount` is added to what today has cost; it may be negative."""

    amount: _Figure = None
    reason: _Text = None
    key: _Text = None


class RehearseRequest(Asked):
    """`POST /api/governors/{kind}/test`: what a governor that says `spec` would decide `at`, for `reading`."""

    spec: _Object = None
    at: _Text = None
    reading: _Object = None


class OverrideBody(Answer):
    """Somebody goes on past a governor."""

    by: str
    reason: str
    at: Instant
    until: Instant


class GovernorBody(Answer):
    """One governor. `decision`: the leader's last, of `judgedAt`; null before the first. `isHolding`: by a hold now."""

    kind: str
    name: str
    version: int
    spec: dict[str, Any]
    managed_by: str | None
    updated_at: Instant
    updated_by: str
    is_holding: bool
    hold_ids: list[str]
    override: OverrideBody | None
    decision: dict[str, Any] | None
    judged_at: Instant | None


class CapacityBody(Answer):
    """What of the budgets is in force (R-E7): the one that is nearest to its threshold. Null where there is none."""

    is_paused_by_capacity: bool = False
    capacity_percentage: float | None = None
    capacity_threshold: float | None = None
    last_capacity_check: Instant | None = None


class GovernorsAnswer(CapacityBody):
    """`GET /api/governors`, by kind and name."""

    governors: list[GovernorBody] = Field(default_factory=list)


class GovernorAnswer(Answer):
    """What a change did. `outcome`: `applied`, or `noop` where it says that already; `dryRun` has stored nothing."""

    outcome: str
    governor: GovernorBody
    dry_run: bool = False


class DeletedAnswer(Answer):
    """A governor that is no more; its hold is released at the leader's next round."""

    kind: str
    name: str
    version: int


class AdjustAnswer(Answer):
    """`outcome`: `noop` where an adjustment with this key is there already."""

    outcome: str
    budget: str
    amount: str


class RehearseAnswer(Answer):
    """What would be decided."""

    should_pause: bool | None
    reason: str
    mode: str
    next_at: Instant | None
    alarm: str | None
    decision: dict[str, Any]
