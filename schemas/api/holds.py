"""Holds: the bodies of one hold, of what ran when it was placed, and of what became of that."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

from pydantic import Field

from sluicegate.schemas.api.base import Answer, Instant
from sluicegate.schemas.api.workers import RunningBody
from sluicegate.schemas.holds.at_pause import AtPause, WorkerAtPause
from sluicegate.schemas.holds.drains import Followed
from sluicegate.schemas.holds.hold import Hold
from sluicegate.schemas.holds.ramps import Ramp
from sluicegate.schemas.holds.receipts import Receipt


class RampBody(Answer):
    """How a hold is reopened: in this `order` of workers, all of them within `span_s` seconds."""

    rate: str
    span_s: float
    order: list[str]

    @classmethod
    def of(cls, ramp: Ramp) -> Self:
        """The ramp that a hold carries."""
        return cls(rate=ramp.rate, span_s=ramp.span_s, order=list(ramp.order))


class HoldBody(Answer):
    """A hold, in force or released."""

    id: str
    scope: str
    cause: str
    source: str
    mode: str
    reason: str
    actor: str
    created_at: Instant
    expires_at: Instant | None
    deadline: Instant | None
    then: str | None
    escalated_at: Instant | None = None
    ramp: RampBody | None = None
    released_at: Instant | None
    released_by: str | None
    released_reason: str | None

    @classmethod
    def of(cls, hold: Hold) -> Self:
        """The hold as it is now."""
        return cls(
            id=str(hold.id),
            scope=str(hold.scope),
            cause=str(hold.cause),
            source=hold.source,
            mode=hold.mode.word,
            reason=hold.reason,
            actor=hold.actor,
            created_at=hold.created_at,
            expires_at=hold.expires_at,
            deadline=hold.deadline,
            then=None if hold.then is None else str(hold.then),
            escalated_at=hold.escalated_at,
            ramp=None if hold.ramp is None else RampBody.of(hold.ramp),
            released_at=hold.released_at,
            released_by=hold.released_by,
            released_reason=hold.released_reason,
        )


class FollowedBody(RunningBody):
    """A task that ran when a hold was placed, and its fate (`schemas.holds.drains.Followed`)."""

    nodename: str
    incarnation: str
    fate: str
    how: str | None

    @classmethod
    def of_followed(cls, one: Followed) -> Self:
        """The run as it has been followed so far."""
        return cls(
            **dict(RunningBody.of(one.task)),
            nodename=one.nodename,
            incarnation=one.incarnation,
            fate=str(one.fate),
            how=one.how,
        )


class QueueBody(Answer):
    """How many messages were ready in a queue, and how many were set aside of it: null where that is not known."""

    name: str
    ready: int
    set_aside: int | None = None

    @classmethod
    def all_of(cls, depths: Mapping[str, int] | None, set_aside: Mapping[str, int] | None = None) -> list[Self] | None:
        """One of each queue, by name; None where the broker could not be read."""
        if depths is None:
            return None
        aside = set_aside or {}
        return [cls(name=name, ready=depths[name], set_aside=aside.get(name)) for name in sorted(depths)]


class WorkerAtPauseBody(Answer):
    """What one worker had in hand when a hold was placed, by its heartbeat of `seen_at`."""

    nodename: str
    incarnation: str
    state: str
    seen_at: Instant
    applied_at: Instant | None = None
    reserved: int
    running: list[RunningBody]

    @classmethod
    def of(cls, worker: WorkerAtPause) -> Self:
        """The worker as it was."""
        return cls(
            nodename=worker.nodename,
            incarnation=worker.incarnation,
            state=worker.state,
            seen_at=worker.seen_at,
            applied_at=worker.applied_at,
            reserved=worker.reserved,
            running=[RunningBody.of(task) for task in worker.running],
        )


class AtPauseBody(Answer):
    """The scope of a hold when it was placed. `queues` is null where the broker could not be read."""

    at: Instant
    source: str
    queues: list[QueueBody] | None
    workers: list[WorkerAtPauseBody]

    @classmethod
    def of(cls, seen: AtPause) -> Self:
        """The fleet as it was."""
        return cls(
            at=seen.at,
            source=seen.source,
            queues=QueueBody.all_of(seen.depths),
            workers=[WorkerAtPauseBody.of(worker) for worker in seen.workers],
        )


class EndedTaskBody(Answer):
    """A task that was lost, forced or killed, and how."""

    id: str
    name: str
    how: str | None


class CountsBody(Answer):
    """How many tasks came to which end."""

    finished: int = 0
    failed: int = 0
    retried: int = 0
    killed: int = 0
    overran: int = 0
    revoked: int = 0
    ended: int = 0
    yielded: int = 0
    waiting: int = 0
    forced: int = 0
    lost: int = 0


class WorkerReceiptBody(CountsBody):
    """What became of one worker's tasks."""

    nodename: str
    lost_tasks: list[EndedTaskBody] = Field(default_factory=list)
    forced_tasks: list[EndedTaskBody] = Field(default_factory=list)
    killed_tasks: list[EndedTaskBody] = Field(default_factory=list)


class ReceiptBody(CountsBody):
    """The drain receipt, as the audit has it too (`schemas.holds.receipts`).

    `is_empty`: nobody was in its scope. `strangers`: who consumed there and sent no heartbeat.
    `signed`, `unsigned`: on the word of how many workers it stands; null in an older one.
    """

    hold_version: int
    ending: str
    seconds: float
    workers: list[WorkerReceiptBody] = Field(default_factory=list)
    is_empty: bool = False
    strangers: list[str] = Field(default_factory=list)
    signed: int | None = None
    unsigned: int | None = None

    @classmethod
    def of(cls, receipt: Receipt) -> Self:
        """The receipt, which is spelled here as it is stored."""
        return cls.model_validate(receipt.to_wire())


class DrainBody(Answer):
    """How one version of a hold got on; `receipt` once it has drained."""

    version: int
    begun_at: Instant
    ended_at: Instant | None
    ending: str | None
    receipt: ReceiptBody | None


class HoldAnswer(Answer):
    """`GET /api/holds/{id}`. `at_pause` is null until the fleet could be looked at."""

    hold: HoldBody
    at_pause: AtPauseBody | None
    tasks: list[FollowedBody]
    drains: list[DrainBody]
