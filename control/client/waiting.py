"""`--wait`, judged: a pure function of the successive answers of the control plane. No clock, no I/O.

    WAITING ── every worker acknowledged, nothing runs ──▶ DRAINED
       ├────── of a quiesce: what still runs waits at a checkpoint ──▶ QUIESCED
       ├────── as either, but nobody was there to acknowledge it ──▶ NOBODY
       ├────── as either, but somebody consumes who is not heard ──▶ UNHEARD
       ├────── a worker fell silent, was replaced or left with tasks running ──▶ LOST
       ├────── the fleet is no longer held ──▶ LIFTED
       └────── `timeout_s` is over ──▶ TIMED_OUT

A loss outranks drained: a new incarnation that has nothing to do does not bring back what its predecessor
had in hand. Silence counts only while the control plane itself hears (its metrics are available), and for
`SILENCE_S` on end: after an outage of Redis every worker looks silent until its next heartbeat.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

from sluicegate.schemas.api.pausing import MetricsBody
from sluicegate.schemas.api.workers import RunningBody, WorkerBody
from sluicegate.schemas.beats import WorkerState
from sluicegate.schemas.lives import clashes
from sluicegate.schemas.progress import UNAVAILABLE
from sluicegate.schemas.runtimes import left_s, let_go, longest_left_s, ran_s
from sluicegate.schemas.snapshots import Edition

SILENCE_S = 5.0
_Life = tuple[str, str]
"""Nodename and incarnation: two workers may have one nodename for a while."""


class Outcome(StrEnum):
    """How a wait stands; every one but WAITING ends it. The word is what `--json` says."""

    WAITING = "waiting"
    DRAINED = "drained"
    QUIESCED = "quiesced"
    NOBODY = "nobody"
    UNHEARD = "unheard"
    LOST = "lost"
    LIFTED = "lifted"
    TIMED_OUT = "timeout"


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """One pair of answers. `at_s` counts from the start of the wait; `edition` is what is now ordered.

    `is_quiesce`: is a quiesce in force in the scope now? A drain becomes one when its deadline comes.
    """

    at_s: float
    edition: Edition
    is_paused: bool
    metrics: MetricsBody
    workers: Sequence[WorkerBody]
    is_quiesce: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Unfinished:
    """A task that holds the wait up. `for_s` None: its start is not known."""

    nodename: str
    id: str
    name: str
    for_s: float | None
    waits: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """A worker that was lost with work on it, and how that showed."""

    nodename: str
    how: str
    tasks: tuple[RunningBody, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What one look says. `eta_s` None: there is no evidence to estimate from."""

    outcome: Outcome
    look: Look
    unacknowledged: tuple[WorkerBody, ...]
    unfinished: tuple[Unfinished, ...]
    losses: tuple[Loss, ...]
    eta_s: float | None

    @property
    def clashes(self) -> list[str]:
        """A line for each nodename that several workers have: until that is over, nothing is drained."""
        return clashes((worker.nodename, worker.namesakes) for worker in self.look.workers)

    @property
    def reserved(self) -> int:
        """Tasks that workers hold and have not started."""
        return sum(worker.reserved for worker in _present(self.look.workers))


@dataclass(frozen=True, slots=True, kw_only=True)
class Watch:
    """What a wait remembers between looks.

    `silent_since`: when a worker with work on it first looked silent, in `Look.at_s`. `durations_s`: the
    longest that a task of a name was seen to take. `has_met`: was anybody in the scope at any look? `allows_empty`: it
    need not be so, nor need everybody who consumes be heard.
    """

    target: Edition
    timeout_s: float | None
    is_quiesce: bool = False
    allows_empty: bool = False
    has_met: bool = False
    seen: Mapping[_Life, WorkerBody] = field(default_factory=dict)
    silent_since: Mapping[_Life, float] = field(default_factory=dict)
    durations_s: Mapping[str, float] = field(default_factory=dict)


def judge(watch: Watch, look: Look) -> tuple[Watch, Verdict]:
    """What `look` says after all that `watch` saw, and what to remember for the next one."""
    # One that said goodbye is listed for a while: it was there, and left in order.
    watch = replace(watch, has_met=watch.has_met or bool(look.workers))
    durations = _learn(watch, look)
    silent_since = _silences(watch, look)
    losses = tuple(_losses(watch, look, silent_since))
    verdict = Verdict(
        outcome=_outcome(watch, look, losses),
        look=look,
        unacknowledged=tuple(
            worker
            for worker in _present(look.workers)
            if worker.state == WorkerState.UNKNOWN or worker.forged or not worker.has_applied(*look.edition)
        ),
        unfinished=tuple(_unfinished(look)),
        losses=losses,
        eta_s=_estimate(look, durations),
    )
    seen = {_life(worker): worker for worker in look.workers}
    return replace(watch, seen=seen, silent_since=silent_since, durations_s=durations), verdict


def _outcome(watch: Watch, look: Look, losses: Sequence[Loss]) -> Outcome:
    if losses:
        return Outcome.LOST
    # An answer older than the order (a control plane that lags) says nothing about it yet.
    if look.edition >= watch.target:
        if not look.is_paused:
            return Outcome.LIFTED
        if look.metrics.is_drained:
            return _quiet(watch, look, Outcome.DRAINED)
        if watch.is_quiesce and look.is_quiesce and look.metrics.is_quiesced:
            return _quiet(watch, look, Outcome.QUIESCED)
    return Outcome.TIMED_OUT if _is_over(watch, look) else Outcome.WAITING


def _quiet(watch: Watch, look: Look, outcome: Outcome) -> Outcome:
    """`outcome`, where somebody said so, and everybody who consumes is heard."""
    if watch.allows_empty:
        return outcome
    if look.metrics.strangers:
        return Outcome.UNHEARD
    return outcome if watch.has_met else Outcome.NOBODY


def _is_over(watch: Watch, look: Look) -> bool:
    return watch.timeout_s is not None and look.at_s >= watch.timeout_s


def _life(worker: WorkerBody) -> _Life:
    return worker.nodename, worker.incarnation


def _silences(watch: Watch, look: Look) -> dict[_Life, float]:
    if look.metrics.metrics_source == UNAVAILABLE.source:
        return {}
    return {
        _life(worker): watch.silent_since.get(_life(worker), look.at_s)
        for worker in look.workers
        if worker.running and worker.state == WorkerState.UNKNOWN
    }


def _losses(watch: Watch, look: Look, silent_since: Mapping[_Life, float]) -> Iterator[Loss]:
    there = {_life(worker) for worker in look.workers}
    names = {worker.nodename for worker in look.workers}
    for life, before in watch.seen.items():
        # A life that still counts is listed beside the new one.
        if life not in there and before.nodename in names and _had_work(before):
            how = "was replaced by a new incarnation"
            yield Loss(nodename=before.nodename, how=how, tasks=tuple(before.running))
    for worker in look.workers:
        life = _life(worker)
        if life in silent_since and (look.at_s - silent_since[life] >= SILENCE_S or _is_over(watch, look)):
            yield Loss(nodename=worker.nodename, how="fell silent", tasks=tuple(worker.running))
        elif worker.running and worker.state == WorkerState.GONE:
            yield Loss(nodename=worker.nodename, how="said goodbye", tasks=tuple(worker.running))


def _had_work(worker: WorkerBody) -> bool:
    # One that said goodbye before was judged then; its successor is a new start, not a loss.
    return bool(worker.running) and worker.state != WorkerState.GONE


def _present(workers: Sequence[WorkerBody]) -> list[WorkerBody]:
    return [worker for worker in workers if worker.state != WorkerState.GONE]


def _unfinished(look: Look) -> Iterator[Unfinished]:
    for worker in _present(look.workers):
        for task in worker.running:
            yield Unfinished(
                nodename=worker.nodename,
                id=task.id,
                name=task.name,
                # When it was last seen, by two clocks: a small error.
                for_s=ran_s(task, worker.last_seen_at),
                waits=task.waiting,
            )


def _learn(watch: Watch, look: Look) -> dict[str, float]:
    """The durations known after `look`: tasks that a living worker no longer runs have finished."""
    known = dict(watch.durations_s)
    for worker in look.workers:
        before = watch.seen.get(_life(worker))
        if before is None or worker.state == WorkerState.UNKNOWN:
            continue
        for task in let_go(before.running, worker.running):
            took = ran_s(task, before.last_seen_at)
            if took is not None:
                known[task.name] = max(known.get(task.name, 0.0), took)
    return known


def _estimate(look: Look, durations_s: Mapping[str, float]) -> float | None:
    """Seconds until the last running task should end (`schemas.runtimes`); None unless every one has evidence.

    Evidence is a task of the same name that was seen to finish, during this wait or before it.
    """
    return longest_left_s(left_s(task.for_s, durations_s.get(task.name)) for task in _unfinished(look))
