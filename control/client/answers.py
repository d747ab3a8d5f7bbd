"""What the client hands back: typed bodies, beside the very JSON that the control plane sent.

A field that this client does not know is ignored, so that an older client can read a newer control plane.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic, TypeVar

from pydantic import Field

from sluicegate.schemas.api.bodies import Answer, Wire
from sluicegate.schemas.scopes import Scope, ScopeKind, Subject

B = TypeVar("B", bound=Wire)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply(Generic[B]):
    """One successful answer: `body` for code, `raw` for `--json` (nothing dropped, nothing respelled)."""

    body: B
    raw: dict[str, Any]


class RunningBody(Answer):
    """A task that is running on a worker; `started_at` by the worker's own clock, None where unknown."""

    id: str
    name: str
    started_at: datetime | None
    waiting: bool = False
    queue: str | None = None


class WorkerBody(Answer):
    """One element of `GET /api/workers` (`schemas.progress.WorkerView.to_wire`)."""

    nodename: str
    incarnation: str
    host: str
    pool: str
    state: str
    desired_version: int
    applied_version: int
    desired_epoch: int
    applied_epoch: int
    applied_at: datetime | None
    running: list[RunningBody]
    reserved: int
    queues: list[str]
    stale: bool
    refused: dict[str, int]
    last_seen_at: datetime
    lease_expires_at: datetime
    labels: dict[str, str] = Field(default_factory=dict)
    not_enforced: list[str] = Field(default_factory=list)
    clock_ahead_s: float = 0.0

    def within(self, scope: Scope) -> WorkerBody | None:
        """The same worker with only what of `scope` runs on it; None where no work of `scope` could."""
        running = [task for task in self.running if _is_of(task, scope)]
        match scope.kind:
            case ScopeKind.QUEUE:
                is_in = scope.name in self.queues or bool(running)
            case ScopeKind.TASK:
                is_in = True
            case _:
                is_in = scope.matches(Subject(host=self.host, worker=self.nodename, labels=self.labels))
        return self.model_copy(update={"running": running}) if is_in else None

    def has_applied(self, epoch: int, version: int) -> bool:
        """Has it put this edition, or a newer one, into force?"""
        return (self.applied_epoch, self.applied_version) >= (epoch, version)


def _is_of(task: RunningBody, scope: Scope) -> bool:
    match scope.kind:
        case ScopeKind.QUEUE:
            return task.queue in (None, scope.name)
        case ScopeKind.TASK:
            return task.name == scope.name
        case _:
            return True


class WorkersAnswer(Answer):
    """`GET /api/workers`: every worker, and when it was last heard of."""

    workers: list[WorkerBody]
