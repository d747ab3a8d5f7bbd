"""What whoever holds a scope should know about it. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from sluicegate.schemas.holds.hold import CAN_END, ENDS
from sluicegate.schemas.lives import clashes
from sluicegate.schemas.progress import WorkerView, present_in
from sluicegate.schemas.scopes import GLOBAL, Scope


def warnings(scope: Scope, workers: Iterable[WorkerView], then: str | None = None) -> list[str]:
    """A line each: that the hold holds nothing now, where it does not; who shares a name or does not obey; what cannot
    be ended.
    """
    present = present_in(workers, GLOBAL)
    inside = present_in(present, scope)
    if present and not inside:
        return [f"no worker is in {scope} now; one that comes will obey"]
    deaf = [worker.beat.nodename for worker in inside if not worker.enforces(scope)]
    told = clashes((worker.beat.nodename, worker.namesakes) for worker in inside)
    told += [
        f"{worker.beat.nodename} stands at {worker.beat.stands_at}, ahead of {worker.desired}: it takes no order until "
        "the epoch is raised above it (docs/recovery.md)"
        for worker in inside
        if worker.is_ahead
    ]
    told += [f"{nodename} does not enforce {scope.kind} holds: it goes on" for nodename in deaf]
    told += [
        f"{worker.beat.nodename} handles messages beside the gate: {', '.join(worker.beat.beside)} goes on"
        for worker in inside
        if worker.beat.beside
    ]
    if then in ENDS:
        unable = [worker.beat for worker in inside if then not in CAN_END.get(worker.beat.pool, ())]
        told += [f"{beat.nodename} ({beat.pool}) cannot {then} a running task: it is asked to stop" for beat in unable]
    return told
