"""How long tasks take, as far as heartbeats have shown, and what that says of the time until a scope has drained. Pure.

Heartbeats come every two seconds: a shorter task is seldom seen, and an end is known to half a heartbeat.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

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


def ended(before: Beat, after: Beat) -> Iterator[tuple[str, float]]:
    """The name and the seconds of each run that came to its end between two beats of one life.

    Both ends of a run are by the worker's own clock. What stood at a checkpoint or yielded tells nothing.
    """
    gap = after.sent_at - before.sent_at
    if before.incarnation != after.incarnation or not timedelta() < gap <= WIDEST_GAP:
        return
    left = (
        {task.id for task in after.running}
        | {one.task.id for one in after.yielded}
        | {one.task.id for one in after.forced}
    )
    end = before.sent_at + gap / 2
    for task in before.running:
        if task.id not in left and not task.is_waiting and task.started_at is not None:
            yield task.name, max(0.0, (end - task.started_at).total_seconds())


def elapsed_s(task: RunningTask, worker: WorkerView, now: datetime) -> float | None:
    """How long `task` has run at `now` (the clock that sightings are by); None where its start is not known."""
    if task.started_at is None:
        return None
    said = worker.beat.sent_at - task.started_at
    return max(0.0, (said + (now - worker.sighting.seen_at)).total_seconds())


def left_s(elapsed_s: float | None, usual_s: float | None) -> float | None:
    """The seconds that a task should still take that has run `elapsed_s`, where its name usually takes `usual_s`.

    None without evidence, and where it has outlasted all evidence.
    """
    if usual_s is None or elapsed_s is None or elapsed_s >= usual_s:
        return None
    return usual_s - elapsed_s


def longest_left_s(left_s: Iterable[float | None]) -> float | None:
    """The seconds until the last of several tasks should end; None without any, and unless each has an estimate."""
    known = list(left_s)
    estimates = [seconds for seconds in known if seconds is not None]
    return max(estimates) if estimates and len(estimates) == len(known) else None
