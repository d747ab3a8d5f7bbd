"""The scope of a hold when it was placed: who was running what, and what was waiting. Values alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Self

from sluicegate.schemas.beats import RunningTask
from sluicegate.schemas.progress import UNAVAILABLE, WorkerView, present_in
from sluicegate.schemas.scopes import Scope
from sluicegate.schemas.times import from_wire, from_wire_or_none, to_wire, to_wire_or_none


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerAtPause:
    """What one worker had in hand, by its heartbeat of `seen_at`; `applied_at` by its own clock."""

    nodename: str
    incarnation: str
    state: str
    seen_at: datetime
    applied_at: datetime | None
    reserved: int
    running: tuple[RunningTask, ...]

    def to_wire(self) -> dict[str, Any]:
        """As JSON, with camelCase keys."""
        return {
            "nodename": self.nodename,
            "incarnation": self.incarnation,
            "state": self.state,
            "seenAt": to_wire(self.seen_at),
            "appliedAt": to_wire_or_none(self.applied_at),
            "reserved": self.reserved,
            "running": [task.to_wire() for task in self.running],
        }

    @classmethod
    def from_wire(cls, data: Mapping[str, Any]) -> Self:
        """The inverse of `to_wire`."""
        return cls(
            nodename=data["nodename"],
            incarnation=data["incarnation"],
            state=data["state"],
            seen_at=from_wire(data["seenAt"], "seenAt"),
            applied_at=from_wire_or_none(data.get("appliedAt"), "appliedAt"),
            reserved=data["reserved"],
            running=tuple(RunningTask.from_wire(task) for task in data["running"]),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class AtPause:
    """The fleet at `at`. `depths`: what was ready in each queue; None where the broker could not be read."""

    at: datetime
    source: str
    depths: Mapping[str, int] | None
    workers: tuple[WorkerAtPause, ...]

    def to_wire(self) -> dict[str, Any]:
        """As the database keeps it, with camelCase keys."""
        depths = self.depths
        return {
            "at": to_wire(self.at),
            "source": self.source,
            "queues": None if depths is None else [{"name": name, "ready": depths[name]} for name in sorted(depths)],
            "workers": [worker.to_wire() for worker in self.workers],
        }

    @classmethod
    def from_wire(cls, data: Mapping[str, Any]) -> Self:
        """The inverse of `to_wire`."""
        queues = data["queues"]
        return cls(
            at=from_wire(data["at"], "at"),
            source=data["source"],
            depths=None if queues is None else {queue["name"]: queue["ready"] for queue in queues},
            workers=tuple(WorkerAtPause.from_wire(worker) for worker in data["workers"]),
        )


def fleet_at_pause(
    workers: Iterable[WorkerView], scope: Scope, depths: Mapping[str, int] | None, *, source: str, now: datetime
) -> AtPause:
    """Who was running what, and what was waiting, in `scope` at `now` (R-C2).

    Each worker goes by its last heartbeat, whose age `seen_at` tells. `depths` None: the broker could not be read.
    """
    return AtPause(
        at=now,
        source=UNAVAILABLE.source if depths is None else source,
        depths=depths,
        workers=tuple(
            WorkerAtPause(
                nodename=worker.beat.nodename,
                incarnation=worker.beat.incarnation,
                state=str(worker.state),
                seen_at=worker.sighting.seen_at,
                applied_at=worker.beat.applied_at,
                reserved=worker.beat.reserved,
                running=worker.tasks_in(scope),
            )
            for worker in present_in(workers, scope)
        ),
    )
