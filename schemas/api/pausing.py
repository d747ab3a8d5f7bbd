"""Pause and resume: the bodies of `/api/system/worker-pause` and of its preview."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Annotated, Any, Literal, Self

from pydantic import Field, WithJsonSchema

from sluicegate.schemas.api.audit import AuditTail
from sluicegate.schemas.api.base import Answer, Asked, Instant
from sluicegate.schemas.api.holds import HoldBody, QueueBody
from sluicegate.schemas.api.workers import RunningBody
from sluicegate.schemas.holds.hold import Cause, HoldKey, Holds
from sluicegate.schemas.holds.preview import Preview, Touched, TouchedWorker
from sluicegate.schemas.progress import Metrics
from sluicegate.schemas.scopes import GLOBAL

# What the type alone would judge is judged by `orders.order_of`, in one order and with one kind of message.
_Text = Annotated[Any, WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "null"}]})]
_Seconds = Annotated[Any, WithJsonSchema({"anyOf": [{"type": "number"}, {"type": "null"}]})]


class PauseRequest(Asked):
    """`POST /api/system/worker-pause`. Only `action` and `reason` (and `mode` for a pause) are needed."""

    action: Literal["pause", "resume"]
    mode: _Text = None
    reason: _Text = None
    force_resume: bool = False
    scope: _Text = "global"
    expires_at: _Text = None
    expires_in_s: _Seconds = None
    deadline: _Text = None
    deadline_in_s: _Seconds = None
    then: _Text = None
    ramp: _Text = None
    idempotency_key: str | None = None


class SystemBody(Answer):
    """The `system` block: what is ordered. The manual fields speak of the manual global hold alone."""

    workers_paused: bool
    mode: str
    reason: str | None
    version: int
    epoch: int
    requested_by_user_id: str | None
    requested_at: Instant | None
    updated_at: Instant
    holds: list[HoldBody]

    @classmethod
    def of(cls, holds: Holds, *, epoch: int, updated_at: datetime) -> Self:
        """What is ordered by `holds`, in the life `epoch` of the database."""
        manual = holds.find(HoldKey(scope=GLOBAL, cause=Cause.MANUAL))
        return cls(
            workers_paused=bool(holds.causes_at(GLOBAL)),
            mode=holds.global_mode.word,
            reason=manual.reason if manual else None,
            version=holds.version,
            epoch=epoch,
            requested_by_user_id=manual.actor if manual else None,
            requested_at=manual.created_at if manual else None,
            updated_at=updated_at,
            holds=[HoldBody.of(hold) for hold in holds.sorted()],
        )


class MetricsBody(Answer):
    """The `metrics` block. `queued` is null and `isDrained` false where they cannot be had.

    `waiting`: of those running, how many wait at a checkpoint; `is_quiesced`: nothing runs but those. `ahead`: how many
    workers stand by a state that the database knows nothing of. `workers`: how many are present (null: an older control
    plane); `strangers`: who consumes here and sends no heartbeat, so that nothing else here knows of them. `set_aside`:
    how many wait beside their queues while their tasks are held, in all and of each queue that has any; null where that
    is not known (RabbitMQ: they are among what its workers have `reserved`). `unread`: how many
    heartbeats were too many or too large to be read. `unsigned`: how many of the workers do not sign their heartbeats
    (null: not told); `forged`: in the place of how many stands a heartbeat that is not theirs.

    The last four are of the budgets (`schemas.api.governors.CapacityBody`), in what `GET` answers alone.
    """

    queued: int | None
    running: int
    stale_running: int
    waiting: int = 0
    is_drained: bool
    is_quiesced: bool = False
    ahead: int = 0
    workers: int | None = None
    strangers: list[str] = Field(default_factory=list)
    metrics_source: str
    set_aside: int | None = None
    set_aside_by_queue: dict[str, int] | None = None
    unread: int = 0
    unsigned: int | None = None
    forged: int = 0
    is_paused_by_capacity: bool = False
    capacity_percentage: float | None = None
    capacity_threshold: float | None = None
    last_capacity_check: Instant | None = None

    @classmethod
    def of(cls, metrics: Metrics) -> Self:
        """The figures of one scope."""
        aside = metrics.set_aside
        return cls(
            queued=metrics.queued,
            running=metrics.running,
            stale_running=metrics.stale_running,
            waiting=metrics.waiting,
            is_drained=metrics.is_drained,
            is_quiesced=metrics.is_quiesced,
            ahead=metrics.ahead,
            workers=metrics.workers,
            strangers=list(metrics.strangers),
            metrics_source=metrics.source,
            set_aside=None if aside is None else sum(aside.values()),
            set_aside_by_queue=None if aside is None else {name: aside[name] for name in sorted(aside) if aside[name]},
            unread=metrics.unread,
            unsigned=metrics.unsigned,
            forged=metrics.forged,
        )


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
    warnings: list[str] = Field(default_factory=list)


class TouchedTask(RunningBody):
    """A running task that a hold would touch. `usual_seconds`: the longest recent run of its name, null without any."""

    elapsed_seconds: float | None
    usual_seconds: float | None

    @classmethod
    def of_touched(cls, one: Touched) -> Self:
        """The task, with its times to a tenth of a second."""
        return cls(
            **dict(RunningBody.of(one.task)),
            elapsed_seconds=_rounded(one.elapsed_s),
            usual_seconds=_rounded(one.usual_s),
        )


class TouchedWorkerBody(Answer):
    """A worker that a hold would touch."""

    nodename: str
    state: str
    enforces: bool
    reserved: int
    running: list[TouchedTask]

    @classmethod
    def of(cls, one: TouchedWorker) -> Self:
        """The worker, and what of the scope runs there."""
        return cls(
            nodename=one.worker.beat.nodename,
            state=str(one.worker.state),
            enforces=one.is_enforcing,
            reserved=one.worker.beat.reserved,
            running=[TouchedTask.of_touched(task) for task in one.running],
        )


class PreviewAnswer(Answer):
    """`GET /api/system/worker-pause/preview` (`schemas.holds.preview`). `held_by`: what holds this scope already."""

    scope: str
    running: int
    eta_seconds: float | None
    without_estimate: list[str]
    queues: list[QueueBody] | None
    workers: list[TouchedWorkerBody]
    held_by: list[str]
    warnings: list[str]

    @classmethod
    def of(cls, seen: Preview, *, held_by: Iterable[str], warnings: Iterable[str]) -> Self:
        """The preview of a scope, beside what holds it already and what whoever holds it should know."""
        return cls(
            scope=str(seen.scope),
            running=len(seen.running),
            eta_seconds=_rounded(seen.eta_s),
            without_estimate=seen.without_estimate,
            queues=QueueBody.all_of(seen.depths, seen.set_aside),
            workers=[TouchedWorkerBody.of(one) for one in seen.workers],
            held_by=list(held_by),
            warnings=list(warnings),
        )


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 1)
