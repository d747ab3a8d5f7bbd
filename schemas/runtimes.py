"""How long tasks take, as far as heartbeats have shown, and what that says of the time until a scope has drained. Pure.

Heartbeats come every two seconds: a shorter task is seldom seen, and an end is known to half a heartbeat.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol, TypeVar

from sluicegate.schemas.beats import Beat, RunningTask
from sluicegate.schemas.progress import WorkerView

RECENT = 32
"""So many of the last runs of a task count; how it behaved before its last release does not."""
WIDEST_GAP = timedelta(seconds=10)
"""Two heartbeats further apart say too little about what ended between them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Runtime:
    """The last runs of the tasks of one name, in seconds, oldest first; `count` of all that were seen to end."""

    name: str
    count: int = 0
    recent_s: tuple[float, ...] = ()

    @property
    def usual_s(self) -> float | None:
        """The longest of the recent ones: an estimate should rather be too long. None without any."""
        return max(self.recent_s, default=None)

    def with_runs(self, runs_s: Iterable[float]) -> Runtime:
        """What is known after more runs, in seconds and oldest first; the oldest beyond RECENT are let go of."""
        more = tuple(runs_s)
        return Runtime(name=self.name, count=self.count + len(more), recent_s=(*self.recent_s, *more)[-RECENT:])


class Run(Protocol):
    """A running task, whether a worker tells of it or the control plane."""

    @property
    def id(self) -> str:
        """What makes it the same one."""
        ...

    @property
    def started_at(self) -> datetime | None:
        """By its worker's clock; None where that is not known."""
        ...


R = TypeVar("R", bound=Run)


def ran_s(run: Run, at: datetime) -> float | None:
    """How long `run` had run at `at`, never below 0; None where its start is not known."""
    return None if run.started_at is None else max(0.0, (at - run.started_at).total_seconds())


def let_go(before: Iterable[R], after: Iterable[Run]) -> Iterator[R]:
    """Those of `before` that run no more."""
    still = {run.id for run in after}
    return (run for run in before if run.id not in still)


def ended(before: Beat, after: Beat) -> Iterator[tuple[str, float]]:
    """The name and the seconds of each run that came to its end between two beats of one life.

    Both ends of a run are by the worker's own clock. What stood at a checkpoint, yielded or did not end well tells
    nothing.
    """
    gap = after.sent_at - before.sent_at
    if before.incarnation != after.incarnation or not timedelta() < gap <= WIDEST_GAP:
        return
    otherwise = {one.task.id for one in after.yielded} | {one.task.id for one in after.forced}
    otherwise |= {one.task.id for one in after.ended or ()}
    for task in let_go(before.running, after.running):
        seconds = ran_s(task, before.sent_at + gap / 2)
        if seconds is not None and not task.is_waiting and task.id not in otherwise:
            yield task.name, seconds


def elapsed_s(task: RunningTask, worker: WorkerView, now: datetime) -> float | None:
    """How long `task` has run at `now` (the clock that sightings are by); None where its start is not known."""
    return ran_s(task, worker.beat.sent_at + (now - worker.sighting.seen_at))


def left_s(elapsed_s: float | None, usual_s: float | None) -> float | None:
    """The seconds that a task should still take that has run `elapsed_s`, where its name usually takes `usual_s`.

    None without evidence, and where it has outlasted all evidence.
    """
    if usual_s is None or elapsed_s is None or elapsed_s >= usual_s:
        return None
    return usual_s - elapsed_s


def longest_left_s(estimates_s: Iterable[float | None]) -> float | None:
    """The seconds until the last of several tasks should end; None without any, and unless each has an estimate."""
    longest = None
    for seconds in estimates_s:
        if seconds is None:
            return None
        longest = seconds if longest is None else max(longest, seconds)
    return longest
