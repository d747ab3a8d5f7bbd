"""One hold in words: what ran and waited when it was placed, and what became of it. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from sluicegate.control.cli.render.state_lines import stamp
from sluicegate.control.cli.spans import spell
from sluicegate.schemas.api.holds import AtPauseBody, CountsBody, DrainBody, FollowedBody, HoldAnswer, HoldBody

THEN_HEAD = ("WORKER", "STATE", "RUNNING", "RESERVED", "SEEN")
TASK_HEAD = ("WORKER", "TASK", "ID", "QUEUE", "STARTED", "FATE")


def headline(hold: HoldBody) -> str:
    """What holds, since when, by whom and why; and who released it."""
    line = f"{hold.scope} {hold.mode} ({hold.cause}) — by {hold.actor} since {stamp(hold.created_at)}: {hold.reason}"
    if hold.released_at is None:
        return line
    return f"{line}; released by {hold.released_by} at {stamp(hold.released_at)}: {hold.released_reason}"


def queues(then: AtPauseBody) -> str:
    """`at TIME there waited: celery 3, mail 1`; another line where the broker could not be read."""
    if then.queues is None:
        return f"at {stamp(then.at)} the broker could not be read: what waited is not known"
    waited = ", ".join(f"{queue.name} {queue.ready}" for queue in then.queues)
    return f"at {stamp(then.at)} there waited: {waited or 'nothing'}"


def then_rows(then: AtPauseBody) -> list[Sequence[object]]:
    """The rows under THEN_HEAD: each worker as it stood when the hold was placed."""
    return [
        (worker.nodename, worker.state, len(worker.running), worker.reserved, stamp(worker.seen_at))
        for worker in then.workers
    ]


def task_rows(tasks: Sequence[FollowedBody]) -> list[Sequence[object]]:
    """The rows under TASK_HEAD; those that still run come first."""
    return [
        (
            task.nodename,
            task.name,
            task.id,
            task.queue or "-",
            stamp(task.started_at),
            "waiting at a checkpoint" if task.waiting and task.fate == "running" else _fate(task),
        )
        for task in sorted(tasks, key=lambda task: (task.fate != "running", task.nodename, task.name, task.id))
    ]


def endings(answer: HoldAnswer) -> Iterator[str]:
    """How each version of the hold ended, a line each."""
    for drain in answer.drains:
        yield f"version {drain.version}: {_ending(drain)}"


def _ending(drain: DrainBody) -> str:
    if drain.ending is None:
        return "under way"
    if drain.receipt is None:
        return f"{drain.ending} before it had drained"
    counted = {name: getattr(drain.receipt, name) for name in CountsBody.model_fields}
    # The usual end and the worst one are said in any case, the others where there were some.
    counts = ", ".join(f"{name} {count}" for name, count in counted.items() if count or name in ("finished", "lost"))
    told = f"{drain.ending} after {spell(drain.receipt.seconds)}: {counts}"
    if drain.receipt.is_empty:
        told += "; nobody was there to acknowledge it"
    if drain.receipt.signed is not None and not drain.receipt.is_empty:
        told += f"; on the word of {on_whose_word(drain.receipt.signed, drain.receipt.unsigned or 0)}"
    if drain.receipt.strangers:
        told += f"; not heard, and consuming there: {', '.join(drain.receipt.strangers)}"
    return told


def on_whose_word(signed: int, unsigned: int) -> str:
    """`3 workers, signed`, or of how many it is not."""
    number = signed + unsigned
    workers = f"{number} worker{'' if number == 1 else 's'}"
    return f"{workers}, {f'{unsigned} of them unsigned' if unsigned else 'signed'}"


def _fate(task: FollowedBody) -> str:
    return task.fate if task.how is None else f"{task.fate}: {task.how}"
