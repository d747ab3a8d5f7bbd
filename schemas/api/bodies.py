"""The REST bodies, as pydantic models: camelCase on the wire, snake_case in code."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel


class Wire(BaseModel):
    """Base of every body. A request with an unknown field is refused: a misspelt one is never silently ignored."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="forbid")


class Answer(Wire):
    """Base of what the control plane answers. A reader ignores a field it does not know: answers may grow."""

    model_config = ConfigDict(extra="ignore")


class PauseRequest(Wire):
    """`POST /api/system/worker-pause`. Only `action` and `reason` (and `mode` for a pause) are needed."""

    action: Literal["pause", "resume"]
    mode: Any = None
    reason: Any = None
    force_resume: bool = False
    scope: Any = "global"
    expires_at: Any = None
    expires_in_s: Any = None
    deadline: Any = None
    deadline_in_s: Any = None
    then: Any = None
    ramp: Any = None
    idempotency_key: str | None = None


class ForgetRequest(Wire):
    """`POST /api/workers/{nodename}/forget`."""

    reason: Any = None


class HoldBody(Answer):
    """A hold as JSON has it (see `schemas.holds.Hold.to_wire`)."""

    id: str
    scope: str
    cause: str
    source: str
    mode: str
    reason: str
    actor: str
    created_at: datetime
    expires_at: datetime | None
    deadline: datetime | None
    then: str | None
    escalated_at: datetime | None = None
    ramp: dict[str, Any] | None = None
    released_at: datetime | None
    released_by: str | None
    released_reason: str | None


class SystemBody(Answer):
    """The `system` block of R-A6: what is ordered. The manual fields speak of the manual global hold alone."""

    workers_paused: bool
    mode: str
    reason: str | None
    version: int
    epoch: int
    requested_by_user_id: str | None
    requested_at: datetime | None
    updated_at: datetime
    holds: list[HoldBody]


class MetricsBody(Answer):
    """The `metrics` block of R-A6 and R-C4. `queued` is null and `isDrained` false where they cannot be had.

    `waiting`: of those running, how many wait at a checkpoint; `is_quiesced`: nothing runs but those.
    """

    queued: int | None
    running: int
    stale_running: int
    is_drained: bool
    metrics_source: str
    waiting: int = 0
    is_quiesced: bool = False


class LatestEvent(Answer):
    """One of the newest five audit events."""

    id: int
    action: str
    mode: str | None
    reason: str | None
    actor_user_id: str
    created_at: datetime


class AuditTail(Answer):
    """The `audit` block of R-A6."""

    latest: list[LatestEvent]


class PauseAnswer(Answer):
    """`GET /api/system/worker-pause`."""

    system: SystemBody
    metrics: MetricsBody
    audit: AuditTail


class ChangeAnswer(PauseAnswer):
    """`POST /api/system/worker-pause`: the state after it, and what this request did.

    `outcome`: `applied` or `noop`. `published`: is it in Redis, where workers see it? `remaining`: the causes
    of the holds at this scope that still stand after a resume. `warnings`: a line each, of what a pause will not do.
    """

    outcome: Literal["applied", "noop"]
    published: bool
    remaining: list[str]
    warnings: list[str] = []


class FollowedBody(Answer):
    """A task that ran when a hold was placed, and its fate (`schemas.holds.drains.Followed`)."""

    nodename: str
    incarnation: str
    id: str
    name: str
    queue: str | None
    started_at: datetime | None
    waiting: bool
    fate: str
    how: str | None


class QueueBody(Answer):
    """How many messages were ready in a queue."""

    name: str
    ready: int


class RanBody(Answer):
    """A task that a worker ran when a hold was placed."""

    id: str
    name: str
    queue: str | None
    started_at: datetime | None
    waiting: bool


class ThenBody(Answer):
    """What one worker had in hand when a hold was placed, by its heartbeat of `seen_at`."""

    nodename: str
    incarnation: str
    state: str
    seen_at: datetime
    reserved: int
    running: list[RanBody]


class MomentBody(Answer):
    """The scope of a hold when it was placed (R-C2). `queues` is null where the broker could not be read."""

    at: datetime
    source: str
    queues: list[QueueBody] | None
    workers: list[ThenBody]


class DrainBody(Answer):
    """How one version of a hold got on; `receipt` (R-C5) once it has drained."""

    version: int
    begun_at: datetime
    ended_at: datetime | None
    ending: str | None
    receipt: dict[str, Any] | None


class HoldAnswer(Answer):
    """`GET /api/holds/{id}`. `at_pause` is null until the fleet could be looked at."""

    hold: HoldBody
    at_pause: MomentBody | None
    tasks: list[FollowedBody]
    drains: list[DrainBody]


class TouchedTask(RanBody):
    """A running task that a hold would touch. `usual_seconds`: the longest recent run of its name, null without any."""

    elapsed_seconds: float | None
    usual_seconds: float | None


class TouchedWorker(Answer):
    """A worker that a hold would touch."""

    nodename: str
    state: str
    enforces: bool
    reserved: int
    running: list[TouchedTask]


class PreviewAnswer(Answer):
    """`GET /api/system/worker-pause/preview` (`schemas.holds.preview`). `held_by`: what holds this scope already."""

    scope: str
    running: int
    eta_seconds: float | None
    without_estimate: list[str]
    queues: list[QueueBody] | None
    workers: list[TouchedWorker]
    held_by: list[str]
    warnings: list[str]


class Event(Answer):
    """One audit event. `version` is null for an event that changed no state (noop, refused, denied)."""

    id: int
    action: str
    outcome: str
    epoch: int
    version: int | None
    scope: str | None
    cause: str | None
    source: str | None
    mode: str | None
    reason: str | None
    actor: str
    hold_id: str | None
    details: dict[str, Any]
    created_at: datetime


class AuditAnswer(Answer):
    """`GET /api/audit`: newest first; `total` counts all that match, whatever the limit."""

    events: list[Event]
    total: int
    limit: int
    offset: int


class ErrorDetail(Answer):
    """What went wrong: `code` is a class of `schemas.errors`, `field` what to correct, where there is one."""

    code: str
    message: str
    field: str | None = None


class ErrorBody(BaseModel):
    """Every answer that is not a success; a 409 also carries what stands in the way (`metrics`, `remaining`)."""

    error: ErrorDetail
    model_config = ConfigDict(extra="allow")
