"""What `pause --dry-run` shows: what a hold would touch, and how long it should take. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from sluicegate.control.cli.spans import spell
from sluicegate.schemas.api.pausing import PreviewAnswer

WORKER_HEAD = ("WORKER", "STATE", "RUNNING", "RESERVED")
TASK_HEAD = ("WORKER", "TASK", "ID", "QUEUE", "RUNS FOR", "USUALLY")


def lines(seen: PreviewAnswer) -> Iterator[str]:
    """What would happen, line by line."""
    touched = f"{len(seen.workers)} worker{'' if len(seen.workers) == 1 else 's'}"
    yield f"nothing was changed; a hold on {seen.scope} would stop {touched}; running {seen.running}"
    if seen.held_by:
        yield f"held already by: {', '.join(seen.held_by)}"
    if seen.queues is None:
        yield "the broker could not be read: what waits is not known"
    else:
        waits = ", ".join(f"{queue.name} {queue.ready}" for queue in seen.queues)
        yield f"waiting would stay: {waits or 'nothing'}"
        if aside := ", ".join(f"{queue.name} {queue.set_aside}" for queue in seen.queues if queue.set_aside):
            yield f"set aside already: {aside}"
    yield f"drained: {_estimate(seen)}"
    for warning in seen.warnings:
        yield f"warning: {warning}"


def worker_rows(seen: PreviewAnswer) -> list[Sequence[object]]:
    """The rows under WORKER_HEAD: each worker that the hold would touch."""
    return [(worker.nodename, worker.state, len(worker.running), worker.reserved) for worker in seen.workers]


def task_rows(seen: PreviewAnswer) -> list[Sequence[object]]:
    """The rows under TASK_HEAD; the longest first."""
    tasks = [(worker.nodename, task) for worker in seen.workers for task in worker.running]
    tasks.sort(key=lambda pair: pair[1].elapsed_seconds or 0.0, reverse=True)
    return [
        (nodename, task.name, task.id, task.queue or "-", _span(task.elapsed_seconds), _span(task.usual_seconds))
        for nodename, task in tasks
    ]


def _estimate(seen: PreviewAnswer) -> str:
    if seen.eta_seconds is not None:
        return f"in about {spell(seen.eta_seconds)}" if seen.running else "at once"
    if seen.without_estimate:
        return f"no estimate: nothing seen so far tells how long these take: {', '.join(seen.without_estimate)}"
    return "no estimate: a worker is silent, takes no order, or does not enforce such a hold"


def _span(seconds: float | None) -> str:
    return "-" if seconds is None else spell(seconds)
