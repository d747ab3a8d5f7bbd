"""The workers: the bodies of `GET /api/workers` and `POST /api/workers/{nodename}/forget`."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Annotated, Any, Self

from pydantic import Field, WithJsonSchema

from sluicegate.schemas.api.base import Answer, Asked, Instant
from sluicegate.schemas.api.resources import ResourcesBody
from sluicegate.schemas.beats import RunningTask
from sluicegate.schemas.health.local_holds import LocalHold
from sluicegate.schemas.progress import WorkerView, has_work_of, is_of
from sluicegate.schemas.scopes import Scope, Subject


class RunningBody(Answer):
    """A task that is running, or was, on a worker; `started_at` by the worker's own clock, None where unknown."""

    id: str
    name: str
    started_at: Instant | None
    waiting: bool = False
    queue: str | None = None

    @classmethod
    def of(cls, task: RunningTask) -> Self:
        """The task as its worker tells of it."""
        return cls(id=task.id, name=task.name, started_at=task.started_at, waiting=task.is_waiting, queue=task.queue)


class LocalHoldBody(Answer):
    """A hold that a worker placed on itself, as it tells of it now. `shadow`: its rule only warns."""

    rule: str
    cause: str
    scope: str
    mode: str
    reason: str
    since: Instant
    numbers: dict[str, int | float | str | None]
    shadow: bool

    @classmethod
    def of(cls, hold: LocalHold) -> Self:
        """As its worker tells of it."""
        return cls(
            rule=hold.rule,
            cause=str(hold.cause),
            scope=str(hold.scope),
            mode=hold.mode.word,
            reason=hold.reason,
            since=hold.since,
            numbers=hold.numbers,
            shadow=hold.is_shadow,
        )


class WorkerBody(Answer):
    """One element of `GET /api/workers`. A control plane before 0.2 leaves out some of what has a default.

    `ahead`: it stands by a state that the database knows nothing of, at the edition `stands_at`; it takes no order.
    `signed`: does its heartbeat stand on its own signature? Null: the control plane does not tell. `forged`: in its
    place stands one that is not its own; what is told here it said before. `displaced`: it fell silent, and a later
    life of its nodename could not show to be of its place.
    """

    nodename: str
    incarnation: str
    host: str
    pool: str
    state: str
    desired_version: int
    applied_version: int
    desired_epoch: int
    applied_epoch: int
    applied_at: Instant | None
    running: list[RunningBody]
    reserved: int
    queues: list[str]
    stale: bool
    refused: dict[str, int]
    labels: dict[str, str] = Field(default_factory=dict)
    not_enforced: list[str] = Field(default_factory=list)
    beside: list[str] = Field(default_factory=list)
    ahead: bool = False
    stands_at: str | None = None
    clock_ahead_s: float = 0.0
    namesakes: int = 0
    resources: ResourcesBody | None = None
    signed: bool | None = None
    forged: bool = False
    displaced: bool = False
    local_holds: list[LocalHoldBody] = Field(default_factory=list)
    last_seen_at: Instant
    lease_expires_at: Instant

    @classmethod
    def of(cls, worker: WorkerView) -> Self:
        """The worker as an operator sees it."""
        beat = worker.beat
        return cls(
            nodename=beat.nodename,
            incarnation=beat.incarnation,
            host=beat.host,
            pool=beat.pool,
            state=str(worker.state),
            desired_version=worker.desired.version,
            applied_version=beat.applied.version,
            desired_epoch=worker.desired.epoch,
            applied_epoch=beat.applied.epoch,
            applied_at=beat.applied_at,
            running=[RunningBody.of(task) for task in beat.running],
            reserved=beat.reserved,
            queues=list(beat.queues),
            stale=beat.is_stale,
            refused=dict(beat.refused),
            labels=dict(beat.labels),
            not_enforced=[str(scope) for scope in worker.not_enforced],
            beside=list(beat.beside),
            ahead=worker.is_ahead,
            stands_at=str(beat.stands_at) if worker.is_ahead else None,
            clock_ahead_s=worker.clock_ahead_s,
            namesakes=worker.namesakes,
            local_holds=[LocalHoldBody.of(hold) for hold in beat.local_holds or ()],
            resources=ResourcesBody.of(beat.resources, worker.sighting.seen_at),
            signed=worker.is_signed,
            forged=worker.is_forged,
            displaced=worker.is_displaced,
            last_seen_at=worker.sighting.seen_at,
            lease_expires_at=worker.lease_expires_at,
        )

    def within(self, scope: Scope) -> WorkerBody | None:
        """The same worker with only what of `scope` runs on it; None where no work of `scope` could."""
        subject = Subject(host=self.host, worker=self.nodename, labels=self.labels)
        if not has_work_of(scope, subject, self.queues, self.running):
            return None
        return self.model_copy(update={"running": [task for task in self.running if is_of(task, scope)]})

    def has_applied(self, epoch: int, version: int) -> bool:
        """Has it put exactly this edition into force?"""
        return (self.applied_epoch, self.applied_version) == (epoch, version) and not self.ahead


class WorkersAnswer(Answer):
    """`GET /api/workers`, by nodename; two where two workers have one name."""

    workers: list[WorkerBody]

    @classmethod
    def of(cls, workers: Iterable[WorkerView]) -> Self:
        """The workers in the order given."""
        return cls(workers=[WorkerBody.of(worker) for worker in workers])


class ForgetRequest(Asked):
    """`POST /api/workers/{nodename}/forget`. The reason is judged with the other rules, not by its type alone."""

    reason: Annotated[Any, WithJsonSchema({"type": "string"})] = None


class ForgetAnswer(Answer):
    """What was forgotten, and when it was last heard of."""

    nodename: str
    last_seen_at: Instant
    forgotten: bool

    @classmethod
    def of(cls, nodename: str, last_seen_at: datetime) -> Self:
        """Of a worker that has just been forgotten."""
        return cls(nodename=nodename, last_seen_at=last_seen_at, forgotten=True)
