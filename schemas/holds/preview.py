"""What a hold would touch, if it were placed now (R-C6). Pure: it changes nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from sluicegate.schemas.beats import WorkerState
from sluicegate.schemas.progress import WorkerView, present_in
from sluicegate.schemas.runtimes import elapsed_s, left_s
from sluicegate.schemas.scopes import Scope


def preview(
    workers: Iterable[WorkerView],
    scope: Scope,
    *,
    depths: Mapping[str, int] | None,
    usual_s: Mapping[str, float],
    now: datetime,
) -> dict[str, Any]:
    """The workers, queues and running tasks in `scope`, and the seconds until it should have drained, as JSON.

    `etaSeconds` is null where a running task has no estimate (`withoutEstimate` names them), and where a worker is
    silent or does not enforce such a scope: that one would never drain. `depths` None: the broker could not be read.
    """
    inside = present_in(workers, scope)
    rows = []
    left: list[float | None] = []
    unknown: set[str] = set()
    for worker in inside:
        tasks = []
        for task in worker.tasks_in(scope):
            more = left_s(task, worker, usual_s, now)
            left.append(more)
            if more is None:
                unknown.add(task.name)
            tasks.append(
                task.to_wire()
                | {
                    "elapsedSeconds": _rounded(elapsed_s(task, worker, now)),
                    "usualSeconds": _rounded(usual_s.get(task.name)),
                }
            )
        rows.append(
            {
                "nodename": worker.beat.nodename,
                "state": str(worker.state),
                "enforces": worker.enforces(scope),
                "reserved": worker.beat.reserved,
                "running": tasks,
            }
        )
    is_sure = all(worker.state is not WorkerState.UNKNOWN and worker.enforces(scope) for worker in inside)
    estimates = [more for more in left if more is not None]
    return {
        "scope": str(scope),
        "running": len(left),
        "etaSeconds": _rounded(max(estimates, default=0.0)) if is_sure and len(estimates) == len(left) else None,
        "withoutEstimate": sorted(unknown),
        "queues": None if depths is None else [{"name": name, "ready": depths[name]} for name in sorted(depths)],
        "workers": rows,
    }


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 1)
