"""What became of the tasks that ran when a hold was placed: followed from look to look. Pure.

    running ── its worker, in the same life, runs it no more ──▶ finished
       ├────── and says that it gave it back at a checkpoint ──▶ yielded
       ├────── and says that it ended it, for a deadline ──────▶ forced
       ├────── and says that it did not end well ──────────────▶ failed, retried, killed, overran, revoked
       ├────── and does not say how runs end ──────────────────▶ ended
       └────── its worker was replaced or forgotten before that was seen ──▶ lost

A fate never goes back to running: a look may be older than the one before it, and is then no evidence.
(Finished and ended may turn out to be one of the others.)
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Any, Self

from sluicegate.schemas.beats import Beat, End, EndedRun, RunningTask, WorkerState
from sluicegate.schemas.holds.hold import Hold
from sluicegate.schemas.modes import Mode
from sluicegate.schemas.progress import Metrics, WorkerView, is_of
from sluicegate.schemas.scopes import Scope
from sluicegate.schemas.times import from_wire_or_none


class Fate(StrEnum):
    """What became of a task that ran when its hold was placed. Only RUNNING is not final."""

    RUNNING = "running"
    FINISHED = "finished"
    """It ran to its end, and well."""
    FAILED = "failed"
    RETRIED = "retried"
    """It ended, and is sent or given out again."""
    KILLED = "killed"
    """Its pool child died."""
    OVERRAN = "overran"
    """A time limit ended it."""
    REVOKED = "revoked"
    ENDED = "ended"
    """It runs no more, and its worker does not tell how its runs end: one of an older version."""
    YIELDED = "yielded"
    FORCED = "forced"
    """Ended by a deadline's step: requeued or terminated."""
    LOST = "lost"


_MAY_TURN_OUT_OTHERWISE = (Fate.FINISHED, Fate.ENDED)
_BY_END = {str(end): Fate(str(end)) for end in End}


class Ending(StrEnum):
    """How the following of one version of a hold ended."""

    DRAINED = "drained"
    QUIESCED = "quiesced"
    """As drained, but for tasks that wait at a checkpoint."""
    RELEASED = "released"
    """The hold was, before its scope had drained."""
    ALTERED = "altered"
    """The hold has another mode, reason or time since: the next version goes on from here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Followed:
    """One task in one life of its worker, and its fate. `how`: of a lost one, what showed it; of a forced
    one, `requeued` or `terminated`; of a killed one, and of others that do, whether it comes again.
    """

    nodename: str
    incarnation: str
    task: RunningTask
    fate: Fate = Fate.RUNNING
    how: str | None = None

    @property
    def key(self) -> tuple[str, str, str]:
        """What makes it the same run."""
        return self.nodename, self.incarnation, self.task.id

    @property
    def is_waiting(self) -> bool:
        """Does it stand at a checkpoint?"""
        return self.fate is Fate.RUNNING and self.task.is_waiting

    def to_wire(self) -> dict[str, Any]:
        """As it is stored with its drain, and as `GET /api/holds/ID` has it; camelCase keys."""
        return {
            "nodename": self.nodename,
            "incarnation": self.incarnation,
            **self.task.to_wire(),
            "fate": str(self.fate),
            "how": self.how,
        }

    @classmethod
    def from_wire(cls, data: Mapping[str, Any]) -> Self:
        """The inverse of `to_wire`; raises KeyError, TypeError or ValueError for what it did not write."""
        return cls(
            nodename=data["nodename"],
            incarnation=data["incarnation"],
            task=RunningTask(
                id=data["id"],
                name=data["name"],
                started_at=from_wire_or_none(data["startedAt"], "startedAt"),
                is_waiting=data["waiting"],
                queue=data["queue"],
            ),
            fate=Fate(data["fate"]),
            how=data["how"],
        )


def follow(
    known: Sequence[Followed],
    workers: Iterable[WorkerView],
    scope: Scope,
    *,
    begun_at: datetime,
    forgotten: Collection[str] = (),
) -> tuple[Followed, ...]:
    """`known` after one more look at the fleet, and what it sees running of `scope` for the first time.

    What yielded or was forced since `begun_at` counts also where it was never seen running: between two heartbeats a
    task can begin and stop at its checkpoint. (By the worker's clock: what yielded to a hold before is that one's.)
    `forgotten`: the incarnations that an operator gave up. What runs on a worker that does not enforce such a scope is
    not followed: it may start more at any time, and the scope is never drained.
    """
    lives = {(worker.beat.nodename, worker.beat.incarnation): worker for worker in workers}
    # An illegible worker has not been replaced: nothing is known of its life.
    heard = {nodename for nodename, incarnation in lives if incarnation}
    after = [
        _followed(one, lives.get((one.nodename, one.incarnation)), one.nodename in heard, one.incarnation in forgotten)
        for one in known
    ]
    seen = {one.key for one in known}
    for worker in lives.values():
        # One that said goodbye runs nothing; what it once ran ended before.
        if worker.state is WorkerState.GONE or not worker.is_in(scope) or not worker.enforces(scope):
            continue
        beat = worker.beat
        found: list[tuple[RunningTask, Fate, str | None]] = [
            *((task, Fate.RUNNING, None) for task in worker.tasks_in(scope)),
            *((one.task, Fate.FORCED, one.how) for one in beat.forced if one.at >= begun_at),
            *((one.task, Fate.YIELDED, None) for one in beat.yielded if one.at >= begun_at),
        ]
        for task, fate, how in found:
            new = Followed(nodename=beat.nodename, incarnation=beat.incarnation, task=task, fate=fate, how=how)
            if is_of(task, scope) and new.key not in seen:
                seen.add(new.key)
                after.append(new)
    return tuple(after)


def _followed(one: Followed, worker: WorkerView | None, is_other_heard: bool, is_forgotten: bool) -> Followed:
    """`worker`: the same life of its worker, where that counts; `is_other_heard`: does any life of its nodename?"""
    if one.fate in _MAY_TURN_OUT_OTHERWISE and worker is not None:
        # Its worker let it go a moment before it said why.
        left = _left(one, worker.beat)
        return one if left.fate in _MAY_TURN_OUT_OTHERWISE else left
    if one.fate is not Fate.RUNNING:
        return one
    if is_forgotten:
        return replace(one, fate=Fate.LOST, how="its worker was forgotten")
    if worker is None and is_other_heard:
        return replace(one, fate=Fate.LOST, how="its worker was replaced by a new incarnation")
    if worker is None:
        # Not heard of at this look (a wiped Redis, for one), or illegible: no evidence of anything.
        return one
    beat = worker.beat
    now = next((task for task in beat.running if task.id == one.task.id), None)
    if now is not None:
        return replace(one, task=replace(one.task, is_waiting=now.is_waiting))
    return _left(one, beat)


def _left(one: Followed, beat: Beat) -> Followed:
    """`one`, which its worker runs no more, by what that says of it."""
    for forced in beat.forced:
        if _is_this_run(forced.task.id, forced.at, one):
            return replace(one, fate=Fate.FORCED, how=forced.how)
    if any(_is_this_run(other.task.id, other.at, one) for other in beat.yielded):
        return replace(one, fate=Fate.YIELDED)
    if beat.ended is None:
        return replace(one, fate=Fate.ENDED)
    for ended in beat.ended:
        if _is_this_run(ended.task.id, ended.at, one):
            # A later version may know more ways to end.
            return replace(one, fate=_BY_END.get(ended.end, Fate.ENDED), how=_how(ended))
    return replace(one, fate=Fate.FINISHED)


def _how(ended: EndedRun) -> str | None:
    if ended.end != End.KILLED:
        # That it comes again goes without saying of one that was retried.
        return "comes again" if ended.comes_again and ended.end != End.RETRIED else None
    return "comes again" if ended.comes_again else "does not come again"


def _is_this_run(task_id: str, at: datetime, one: Followed) -> bool:
    """A worker may still tell of an earlier run of the same task."""
    return task_id == one.task.id and (one.task.started_at is None or at >= one.task.started_at)


def ending_of(hold: Hold, metrics: Metrics) -> Ending | None:
    """Has this hold come to its end in its scope? None: not yet. One that ends tasks ends those at checkpoints too."""
    if metrics.is_drained:
        return Ending.DRAINED
    is_enough = hold.mode is Mode.QUIESCE and not hold.ends_tasks
    return Ending.QUIESCED if is_enough and metrics.is_quiesced else None


def conclude(known: Iterable[Followed]) -> tuple[Followed, ...]:
    """`known` at the end: what nobody saw end, and nobody runs, is lost; what waits at a checkpoint stays."""
    return tuple(
        replace(one, fate=Fate.LOST, how="its worker was not heard of again")
        if one.fate is Fate.RUNNING and not one.is_waiting
        else one
        for one in known
    )
