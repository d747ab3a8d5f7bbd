"""What a hold would touch, if it were placed now (R-C6). Pure: it changes nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

from sluicegate.schemas.beats import RunningTask, WorkerState
from sluicegate.schemas.progress import WorkerView, present_in
from sluicegate.schemas.runtimes import elapsed_s, left_s, longest_left_s
from sluicegate.schemas.scopes import Scope


@dataclass(frozen=True, slots=True, kw_only=True)
class Touched:
    """A running task of the scope, in seconds: how long it has run, what its name usually takes, what is left.

    Each is None where it is not known; `left_s` also where the task has outlasted what is usual.
    """

    task: RunningTask
    elapsed_s: float | None
    usual_s: float | None
    left_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TouchedWorker:
    """A worker where work of the scope could run, and what does."""

    worker: WorkerView
    is_enforcing: bool
    running: tuple[Touched, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Preview:
    """What a hold on `scope` would touch. `depths` None: the broker could not be read.

    `set_aside`: what is set aside of each queue already, by holds on tasks; None where that is not known.
    """

    scope: Scope
    depths: Mapping[str, int] | None
    workers: tuple[TouchedWorker, ...]
    set_aside: Mapping[str, int] | None = None

    @property
    def running(self) -> tuple[Touched, ...]:
        """Every task that would be waited for."""
        return tuple(task for worker in self.workers for task in worker.running)

    @property
    def eta_s(self) -> float | None:
        """The seconds until the scope should have drained.

        None where a running task has no estimate, and where a worker is silent, takes no order or does not enforce such
        a scope: that one would never drain.
        """
        if any(
            not one.is_enforcing or one.worker.state is WorkerState.UNKNOWN or one.worker.is_ahead
            for one in self.workers
        ):
            return None
        return longest_left_s(task.left_s for task in self.running) if self.running else 0.0

    @property
    def without_estimate(self) -> list[str]:
        """The names of the running tasks that have no estimate."""
        return sorted({one.task.name for one in self.running if one.left_s is None})


def preview(
    workers: Iterable[WorkerView],
    scope: Scope,
    *,
    depths: Mapping[str, int] | None,
    usual_s: Mapping[str, float],
    now: datetime,
    set_aside: Mapping[str, int] | None = None,
) -> Preview:
    """The workers, queues and running tasks in `scope`. `usual_s`: what tasks take, by name, in seconds."""

    def touched(task: RunningTask, worker: WorkerView) -> Touched:
        elapsed, usual = elapsed_s(task, worker, now), usual_s.get(task.name)
        return Touched(task=task, elapsed_s=elapsed, usual_s=usual, left_s=left_s(elapsed, usual))

    return Preview(
        scope=scope,
        depths=depths,
        set_aside=set_aside,
        workers=tuple(
            TouchedWorker(
                worker=worker,
                is_enforcing=worker.enforces(scope),
                running=tuple(touched(task, worker) for task in worker.tasks_in(scope)),
            )
            for worker in present_in(workers, scope)
        ),
    )
