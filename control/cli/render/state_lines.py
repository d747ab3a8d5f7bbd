"""The state of a fleet in words: what `pause`, `resume`, `status`, `holds` and `workers` print. Pure."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime

from sluicegate.control.cli.spans import spell
from sluicegate.schemas.api.epoch import EpochAnswer
from sluicegate.schemas.api.holds import HoldBody
from sluicegate.schemas.api.own_holds import ClearAnswer
from sluicegate.schemas.api.pausing import ChangeAnswer, MetricsBody, SystemBody
from sluicegate.schemas.api.workers import WorkerBody
from sluicegate.schemas.beats import WorkerState
from sluicegate.schemas.lives import clashes
from sluicegate.schemas.modes import Mode
from sluicegate.schemas.progress import UNAVAILABLE
from sluicegate.schemas.scopes import GLOBAL, Scope

WORKER_HEAD = ("WORKER", "STATE", "APPLIED", "DESIRED", "RUNNING", "RESERVED", "POOL", "LAST SEEN")
NOT_PUBLISHED = "stored, but not yet published: workers will see it as soon as the control plane reaches Redis"
SHOWN_STRANGERS = 5
CLOCK_OFF_BY_S = 30.0
"""More than a heartbeat is ever under way."""
HOLD_HEAD = ("SCOPE", "CAUSE", "MODE", "BY", "SINCE", "EXPIRES", "REASON")
_LAGGARDS_FIRST = (WorkerState.UNKNOWN, WorkerState.PAUSING, WorkerState.RUNNING, WorkerState.PAUSED)


def stamp(time: datetime | None) -> str:
    """A time as tables show it: UTC, to the second; `-` for none."""
    return "-" if time is None else time.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def headline(system: SystemBody) -> str:
    """The one line that says whether the fleet is held, by whom and why."""
    version = f"version {system.version}"
    if not system.workers_paused:
        scoped = f", with {_count(len(system.holds), 'scoped hold')}" if system.holds else ""
        return f"RUNNING{scoped} — {version}"
    if (ramp := _ramp_of(system, GLOBAL)) is not None:
        return f"REOPENING {ramp} — {version}"
    held = f"PAUSED {system.mode} — {version}"
    if system.requested_by_user_id is None:
        causes = ", ".join(sorted({hold.cause for hold in system.holds if hold.scope == "global"}))
        return f"{held} — by {causes}"
    return f"{held} — by {system.requested_by_user_id} since {stamp(system.requested_at)}: {system.reason}"


def scope_line(system: SystemBody, scope: Scope) -> str:
    """The same of one scope: the strongest of the holds at exactly this scope."""
    here = [hold for hold in system.holds if hold.scope == str(scope)]
    if scope == GLOBAL or not here:
        held = "" if scope == GLOBAL else f"{scope} is not held by itself; "
        return held + headline(system)
    hold = next((hold for hold in here if hold.cause == "manual"), here[0])
    mode = max(Mode.of_hold(hold.mode) for hold in here).word
    since = f"by {hold.actor} since {stamp(hold.created_at)}: {hold.reason}"
    if (ramp := _ramp_of(system, scope)) is not None:
        return f"REOPENING {scope} {ramp} — version {system.version}"
    return f"HELD {scope} {mode} — version {system.version} — {since}"


def _ramp_of(system: SystemBody, scope: Scope) -> str | None:
    """How a scope is reopened, where nothing else holds it."""
    here = [hold for hold in system.holds if hold.scope == str(scope)]
    if len(here) != 1 or here[0].ramp is None:
        return None
    return f"{here[0].ramp.rate} until {stamp(here[0].expires_at)}"


def measures(metrics: MetricsBody, *, is_paused: bool) -> str:
    """The figures of R-C4 as one line; whether the fleet is drained is a question only while it is held."""
    if metrics.metrics_source == UNAVAILABLE.source:
        return f"metrics unavailable (last known: running {metrics.running}): not drained as far as is known"
    word = "" if not is_paused else "drained: " if metrics.is_drained else "not drained: "
    if word == "drained: " and (metrics.workers == 0 or metrics.strangers):
        # What nobody said is not called drained.
        word = "nobody is there: " if not metrics.strangers else "drained as far as is heard: "
    if is_paused and metrics.is_quiesced and not metrics.is_drained:
        word = "quiesced: "
    waiting = f" ({metrics.waiting} at a checkpoint)" if metrics.waiting else ""
    return (
        f"{word}running {metrics.running}{waiting}, stale {metrics.stale_running}, "
        f"queued {metrics.queued}{_set_aside(metrics)} ({metrics.metrics_source}){_unread(metrics)}{_word(metrics)}"
    )


def _word(metrics: MetricsBody) -> str:
    """Where it is not all of them: who signs nothing can be spoken for by others."""
    forged = f"; the heartbeats of {metrics.forged} are forged" if metrics.forged else ""
    return (f"; {metrics.unsigned} of {metrics.workers} unsigned" if metrics.unsigned else "") + forged


def _unread(metrics: MetricsBody) -> str:
    return f"; {metrics.unread} heartbeats too many or too large to be read" if metrics.unread else ""


def _set_aside(metrics: MetricsBody) -> str:
    """Where there is something: who holds no task need not read of it."""
    by_queue = metrics.set_aside_by_queue or {}
    where = ", ".join(f"{queue} {number}" for queue, number in sorted(by_queue.items()))
    return f", set aside {metrics.set_aside} ({where})" if where else ""


def unheard(metrics: MetricsBody) -> Iterator[str]:
    """Who consumes and sends no heartbeat."""
    for nodename in metrics.strangers[:SHOWN_STRANGERS]:
        yield f"warning: {nodename} consumes here, and no heartbeat comes from there: it obeys nothing that is ordered"
    if (more := len(metrics.strangers) - SHOWN_STRANGERS) > 0:
        yield f"warning: and {more} more"


def outcome(answer: ChangeAnswer, scope: Scope) -> Iterator[str]:
    """What a pause or a resume of `scope` did, line by line."""
    yield scope_line(answer.system, scope) + (" (unchanged: it was so before)" if answer.outcome == "noop" else "")
    for hold in answer.system.holds:
        if hold.scope == str(scope) and hold.cause == "manual" and hold.deadline and not hold.escalated_at:
            yield f"deadline {stamp(hold.deadline)}: then {hold.then}, if work is left"
    if answer.remaining:
        yield f"still held by: {', '.join(answer.remaining)}"
    for warning in answer.warnings:
        yield f"warning: {warning}"
    if not answer.published:
        yield NOT_PUBLISHED


def raised(answer: EpochAnswer) -> Iterator[str]:
    """What raising the epoch did, and what workers take now."""
    edition = f"{answer.system.epoch}.{answer.system.version}"
    was = " (unchanged: it was above it before)" if answer.outcome == "noop" else ""
    yield f"edition {edition}, above {answer.above}{was}"
    yield headline(answer.system)
    if not answer.published:
        yield NOT_PUBLISHED


def hold_rows(holds: Iterable[HoldBody]) -> list[Sequence[object]]:
    """The rows under HOLD_HEAD: each active hold, in the order of the answer."""
    return [
        (
            hold.scope,
            f"{hold.cause}:{hold.source}" if hold.source else hold.cause,
            hold.mode,
            hold.actor,
            stamp(hold.created_at),
            stamp(hold.expires_at),
            hold.reason,
        )
        for hold in holds
    ]


def worker_rows(workers: Iterable[WorkerBody]) -> list[Sequence[object]]:
    """The rows under WORKER_HEAD; those that hold a pause up come first."""
    return [
        (
            worker.nodename,
            worker.state + (" (ahead)" if worker.ahead else " (stale)" if worker.stale else ""),
            worker.applied_version or "-",
            worker.desired_version,
            len(worker.running),
            worker.reserved,
            worker.pool or "-",
            stamp(worker.last_seen_at),
        )
        for worker in sorted(workers, key=_urgency)
    ]


def idle(workers: Iterable[WorkerBody]) -> Iterator[str]:
    """Why each worker holds itself, and what must change: a line for each rule."""
    for worker in workers:
        if worker.state != WorkerState.GONE:
            for hold in worker.local_holds:
                verb = "would hold" if hold.shadow else "holds"
                whom = "itself" if hold.scope == f"worker:{worker.nodename}" else hold.scope
                yield f"{worker.nodename} {verb} {whom} ({hold.rule}): {hold.reason}"


def cleared(answer: ClearAnswer) -> Iterator[str]:
    """What a worker was told to let go of."""
    for hold in answer.cleared:
        yield f"cleared {hold.source} of {answer.nodename}: it lets go of {hold.scope} when it hears of it"
    if not answer.cleared:
        yield f"{answer.nodename} holds itself for nothing of that"
    if not answer.published:
        yield NOT_PUBLISHED


def agreement(workers: Sequence[WorkerBody]) -> str:
    """How many workers have put the desired version into force."""
    present = [worker for worker in workers if worker.state != WorkerState.GONE]
    if not present:
        return "workers: none is there"
    agreed = sum(_agrees(worker) for worker in present)
    return f"workers: {agreed} of {len(present)} have applied version {present[0].desired_version}"


def warnings(workers: Iterable[WorkerBody]) -> Iterator[str]:
    """What an operator should look at, a line each."""
    workers = list(workers)
    for line in clashes((worker.nodename, worker.namesakes) for worker in workers):
        yield f"warning: {line}"
    for worker in workers:
        if worker.state == WorkerState.UNKNOWN:
            yield (
                f"warning: {worker.nodename} has been silent since {stamp(worker.last_seen_at)}: it may be running "
                f"anything (`sluicegate workers forget {typed(worker.nodename)}` once it is known to be dead)"
            )
        if worker.displaced:
            yield (
                f"warning: another life of {worker.nodename} has begun since, and cannot show that it took that one's "
                f"place: it has not the same SLUICEGATE_STATE_DIR, or somebody forges it (docs/security.md)"
            )
        if worker.forged:
            yield (
                f"ALARM: what stands in the place of {worker.nodename}'s heartbeat is not its own: somebody who can "
                f"write to this Redis forges it (docs/security.md)"
            )
        if worker.ahead:
            yield (
                f"ALARM: {worker.nodename} stands at {worker.stands_at}, and {worker.desired_epoch}."
                f"{worker.desired_version} is ordered: it takes no order. The database was restored or lost, or "
                f"somebody forges heartbeats (docs/recovery.md; `sluicegate epoch raise`)"
            )
        elif worker.stale and worker.state not in (WorkerState.UNKNOWN, WorkerState.GONE):
            yield f"warning: {worker.nodename} sees no fresh state: it goes by version {worker.applied_version}"
        if abs(worker.clock_ahead_s) > CLOCK_OFF_BY_S and worker.state not in (WorkerState.UNKNOWN, WorkerState.GONE):
            way = "ahead" if worker.clock_ahead_s > 0 else "behind"
            yield (
                f"warning: {worker.nodename} has a clock that is {spell(abs(worker.clock_ahead_s))} {way}: Celery "
                f"goes by it for countdowns and for the visibility timeout"
            )
        if worker.not_enforced:
            yield f"warning: {worker.nodename} does not enforce: {', '.join(worker.not_enforced)}"
        if worker.beside and worker.state != WorkerState.GONE:
            yield f"warning: {worker.nodename} handles messages beside the gate: {', '.join(worker.beside)}"
        if worker.refused:
            refused = ", ".join(f"{code} {count}" for code, count in sorted(worker.refused.items()))
            yield f"warning: {worker.nodename} refused states it must not obey: {refused}"


def typed(name: str) -> str:
    """`name` as one argument of a shell's command line; one with control characters as bash, ksh and zsh have it."""
    if name.isprintable():
        word = shlex.quote(name)
    else:
        escaped = "".join(one if one.isprintable() and one not in "\\'" else _escaped(one) for one in name)
        word = f"$'{escaped}'"
    # What begins with a dash would be taken for an option.
    return f"-- {word}" if name.startswith("-") else word


def _escaped(one: str) -> str:
    return "".join(f"\\x{byte:02x}" for byte in one.encode(errors="replace"))


def _agrees(worker: WorkerBody) -> bool:
    is_known = worker.state != WorkerState.UNKNOWN
    return is_known and worker.has_applied(worker.desired_epoch, worker.desired_version)


def _urgency(worker: WorkerBody) -> tuple[bool, int, str]:
    ranks = {str(state): rank for rank, state in enumerate(_LAGGARDS_FIRST)}
    return _agrees(worker), ranks.get(worker.state, len(ranks)), worker.nodename


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
