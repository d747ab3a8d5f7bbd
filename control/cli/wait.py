"""The loop of `--wait`: looks, shows, and ends with what `control.client.waiting` judges."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from sluicegate.control.cli.render.state_lines import typed
from sluicegate.control.cli.render.terminal import Progress
from sluicegate.control.cli.spans import spell
from sluicegate.control.client import Client
from sluicegate.control.client.waiting import Look, Outcome, Unfinished, Verdict, Watch, judge
from sluicegate.schemas.beats import WorkerState
from sluicegate.schemas.errors import SluicegateError, Unavailable
from sluicegate.schemas.exits import Exit
from sluicegate.schemas.modes import Mode
from sluicegate.schemas.scopes import GLOBAL, Scope
from sluicegate.schemas.snapshots import Edition

INTERVAL_S = 0.25
PATIENCE_S = 30.0
"""A control plane that restarts meanwhile is waited for; after this long it counts as unreachable."""
_NAMED = 3
_EXITS = {
    Outcome.DRAINED: Exit.OK,
    Outcome.QUIESCED: Exit.OK,
    Outcome.NOBODY: Exit.NOBODY,
    Outcome.UNHEARD: Exit.NOBODY,
    Outcome.LOST: Exit.WORKER_LOST,
    Outcome.LIFTED: Exit.NOT_DRAINED,
    Outcome.TIMED_OUT: Exit.NOT_DRAINED,
}


def wait(
    client: Client,
    target: Edition,
    timeout_s: float | None,
    progress: Progress,
    *,
    scope: Scope = GLOBAL,
    is_quiesce: bool = False,
    allows_empty: bool = False,
    durations_s: Mapping[str, float] | None = None,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Verdict:
    """Look until `scope` has drained (or quiesced), or cannot any more.

    `durations_s`: what tasks are known to take at most, by name, to estimate from until this wait has seen more.
    Raises Unavailable after PATIENCE_S without answers.
    """
    watch = Watch(
        target=target,
        timeout_s=timeout_s,
        is_quiesce=is_quiesce,
        allows_empty=allows_empty,
        durations_s=durations_s or {},
    )
    start = answered = clock()
    while True:
        try:
            look = _look(client, scope, lambda: clock() - start)
        except Unavailable as error:
            silent_s = clock() - answered
            is_over = timeout_s is not None and clock() - start >= timeout_s
            if silent_s >= PATIENCE_S or is_over:
                raise Unavailable(f"{error} (for {spell(silent_s)} of this wait; the pause stands)") from None
            progress.show(f"waiting: {error}", "unreachable")
        else:
            answered = clock()
            watch, verdict = judge(watch, look)
            if verdict.outcome is not Outcome.WAITING:
                return verdict
            progress.show(describe(verdict), _without_clock(verdict))
        sleep(INTERVAL_S if timeout_s is None else max(0.0, min(INTERVAL_S, start + timeout_s - clock())))


def known_durations(client: Client, scope: Scope) -> dict[str, float]:
    """What the control plane has seen the tasks take that run now; nothing where it cannot tell (an older one)."""
    try:
        told = client.preview(str(scope)).body
    except SluicegateError:
        # An estimate is a courtesy: the wait goes on without.
        return {}
    tasks = [task for worker in told.workers for task in worker.running]
    return {task.name: task.usual_seconds for task in tasks if task.usual_seconds is not None}


def exit_of(verdict: Verdict) -> Exit:
    """The exit code that a wait ends with."""
    return _EXITS[verdict.outcome]


def describe(verdict: Verdict) -> str:
    """The line of progress."""
    parts = [f"draining {spell(verdict.look.at_s)}: {_figures(verdict)}"]
    if verdict.unacknowledged:
        parts.append(f"yet to acknowledge: {_names([w.nodename for w in verdict.unacknowledged])}")
    if verdict.unfinished:
        parts.append(f"longest: {_task(_by_age(verdict)[0])}")
        eta = "no estimate yet" if verdict.eta_s is None else f"about {spell(verdict.eta_s)} left"
        parts.append(eta)
    parts += verdict.clashes
    return "; ".join(parts)


def conclude(verdict: Verdict) -> Iterator[str]:
    """What to say at the end, line by line."""
    at = spell(verdict.look.at_s)
    match verdict.outcome:
        case Outcome.DRAINED:
            count = sum(worker.state != WorkerState.GONE for worker in verdict.look.workers)
            agreed = f"all {count} workers have acknowledged{_word(verdict)}" if count else "no worker is there"
            yield f"drained after {at}: nothing runs, {agreed}"
        case Outcome.QUIESCED:
            yield f"quiesced after {at}: nothing runs but what waits at a checkpoint ({verdict.look.metrics.running})"
        case Outcome.NOBODY:
            yield "not drained: no worker is there that could have acknowledged it (--allow-empty, if that is right)"
            yield "the pause stands"
        case Outcome.UNHEARD:
            named = _names(list(verdict.look.metrics.strangers))
            yield f"not drained: {named} may start what it likes: it consumes, and no heartbeat comes from there"
            yield "the pause stands"
        case Outcome.LIFTED:
            yield f"not drained: the pause was lifted meanwhile (version {verdict.look.edition.version})"
        case Outcome.LOST:
            for loss in verdict.losses:
                tasks = _names([f"{task.name}[{task.id}]" for task in loss.tasks])
                yield f"lost: {loss.nodename} {loss.how} with work on it: {tasks}"
            yield "the pause stands"
        case _:
            yield f"not drained after {at}: {_figures(verdict)}"
            for worker in verdict.unacknowledged:
                ahead = ", ahead of what is ordered: docs/recovery.md" if worker.ahead else ""
                ahead += ", forged: docs/security.md" if worker.forged else ""
                if worker.displaced:
                    ahead += f", not shown to be replaced: `sluicegate workers forget {typed(worker.nodename)}`"
                state = f"{worker.nodename} ({worker.state}, applied {worker.applied_version}{ahead})"
                yield f"  yet to acknowledge: {state}"
            for line in verdict.clashes:
                yield f"  {line}"
            for task in _by_age(verdict):
                yield f"  still running: {_task(task)}"
            yield "the pause stands"


def _word(verdict: Verdict) -> str:
    """On whose word it stands; nothing where an older control plane does not tell."""
    unsigned = verdict.look.metrics.unsigned
    return "" if unsigned is None else f" ({unsigned} of them unsigned)" if unsigned else " (signed)"


def to_json(verdict: Verdict) -> dict[str, Any]:
    """The `wait` object of `--json`."""
    return {
        "outcome": str(verdict.outcome),
        "seconds": round(verdict.look.at_s, 3),
        "metrics": verdict.look.metrics.model_dump(mode="json", by_alias=True),
        "strangers": list(verdict.look.metrics.strangers),
        "unacknowledged": [worker.nodename for worker in verdict.unacknowledged],
        "running": [
            {
                "nodename": task.nodename,
                "id": task.id,
                "name": task.name,
                "seconds": None if task.for_s is None else round(task.for_s, 3),
                "waiting": task.waits,
            }
            for task in _by_age(verdict)
        ],
        "lost": [
            {
                "nodename": loss.nodename,
                "how": loss.how,
                "tasks": [{"id": task.id, "name": task.name} for task in loss.tasks],
            }
            for loss in verdict.losses
        ],
    }


def _look(client: Client, scope: Scope, at_s: Callable[[], float]) -> Look:
    # The workers first: metrics that say "drained" are then never older than the list beside them.
    workers = [inside for worker in client.workers().body.workers if (inside := worker.within(scope))]
    answer = client.read(str(scope)).body
    return Look(
        at_s=at_s(),
        edition=Edition(answer.system.epoch, answer.system.version),
        is_paused=any(hold.scope == str(scope) for hold in answer.system.holds),
        is_quiesce=any((hold.scope, hold.mode) == (str(scope), Mode.QUIESCE.word) for hold in answer.system.holds),
        metrics=answer.metrics,
        workers=workers,
    )


def _figures(verdict: Verdict) -> str:
    metrics = verdict.look.metrics
    queued = "unknown" if metrics.queued is None else metrics.queued
    aside = f", set aside {metrics.set_aside}" if metrics.set_aside else ""
    return (
        f"running {metrics.running}, reserved {verdict.reserved}, stale {metrics.stale_running}, queued {queued}{aside}"
    )


def _without_clock(verdict: Verdict) -> object:
    metrics = verdict.look.metrics
    return (
        metrics.running,
        metrics.stale_running,
        metrics.queued,
        metrics.set_aside,
        verdict.reserved,
        tuple(worker.nodename for worker in verdict.unacknowledged),
        tuple(verdict.clashes),
    )


def _by_age(verdict: Verdict) -> list[Unfinished]:
    return sorted(verdict.unfinished, key=lambda task: task.for_s or 0.0, reverse=True)


def _task(task: Unfinished) -> str:
    age = "" if task.for_s is None else f" for {spell(task.for_s)}"
    return f"{task.name}[{task.id}] on {task.nodename}{age}{', waits at a checkpoint' if task.waits else ''}"


def _names(names: list[str]) -> str:
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")
