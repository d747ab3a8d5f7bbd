"""The roll call: which workers answer Celery's own question what they consume, and which of them nobody hears. Pure.

A worker that cannot beat, or that is of another namespace, takes no order from here and starts what it likes. Celery
still answers for it, as it does for a worker without this package.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from sluicegate.schemas.names import host_of
from sluicegate.schemas.progress import WorkerView, has_work_of
from sluicegate.schemas.scopes import Scope, Subject

Answers = Mapping[str, frozenset[str]]
"""The queues that each worker consumes which answered, by nodename."""

MAX_ANSWERS = 10_000
MAX_NAME_CHARS = 255


def answer_of(reply: object) -> Answers:
    """What one reply to Celery's `active_queues` says, which is `{nodename: [{"name": queue, …}, …]}`.

    Anyone on the broker may write one: what is no such reply says nothing.
    """
    if not isinstance(reply, dict):
        return {}
    return {
        nodename: frozenset(_names(queue.get("name") for queue in queues if isinstance(queue, dict)))
        for nodename, queues in reply.items()
        if list(_names([nodename])) and isinstance(queues, list)
    }


def _names(said: Iterable[object]) -> Iterator[str]:
    """What of it can be a name: a line that an operator reads is made of it."""
    for text in said:
        if isinstance(text, str) and text.isprintable() and 0 < len(text) <= MAX_NAME_CHARS:
            yield text


def strangers(answers: Answers, workers: Iterable[WorkerView], scope: Scope) -> tuple[str, ...]:
    """Who answered, consumes what is in `scope`, and is none of `workers`, by nodename.

    `workers` are all that are listed, those that left lately too: an answer may be some seconds old. Two fleets may
    share a broker. So where workers are known, only who consumes one of their queues is a stranger to them.
    """
    listed = list(workers)
    known = {worker.beat.nodename for worker in listed}
    ours = {queue for worker in listed for queue in worker.beat.queues}
    return tuple(
        sorted(
            nodename
            for nodename, queues in answers.items()
            if nodename not in known and queues and (not ours or queues & ours) and _is_in(scope, nodename, queues)
        )
    )


def _is_in(scope: Scope, nodename: str, queues: frozenset[str]) -> bool:
    # Its labels are not known: it is in no scope of labels, as far as can be told.
    subject = Subject(host=host_of(nodename), worker=nodename, labels={})
    return has_work_of(scope, subject, queues, ())
