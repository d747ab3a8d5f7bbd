"""Celery's requests: what each is to a scope, which queue it came from, and Celery's books of them."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import celery
from celery.worker import state as worker_state

from sluicegate.schemas.beats import RunningTask
from sluicegate.schemas.scopes import Subject
from sluicegate.workers.celery_inside.marks import ARRIVAL, QUEUE
from sluicegate.workers.celery_inside.redis_debts import (
    Arrival,
)
from sluicegate.workers.cursor_seals import MAX_TAG_CHARS, Origin
from sluicegate.workers.log import logger

log = logger(__name__)
SCHEDULED: Any = getattr(worker_state, "scheduled_requests", None)
"""Requests that wait for their ETA; Celery keeps this set since 5.7."""


def subject_of(request: Any, worker: Subject) -> Subject:
    """What starting this request is to a scope, on a worker that is `worker`."""
    return replace(worker, queue=queue_of(request), task=request.type)


def queue_of(request: Any) -> str | None:
    """The queue that it came from; None where that is not known."""
    return queue_of_message(request.message)


def queue_of_message(message: Any) -> str | None:
    """The queue that this message was fetched from, as `queue_of` tells it of a request."""
    arrival: Arrival | None = getattr(message, ARRIVAL, None)
    return None if arrival is None else arrival.queue


def tell_queue(request: Any) -> None:
    """Let the task know its queue, wherever it runs: its checkpoints ask for it by `queue_told`."""
    message = request.message
    queue = queue_of_message(message)
    if queue is not None and queue != _default_queue(message.delivery_info or {}):
        request.request_dict[QUEUE] = queue


def queue_told(context: Any) -> str | None:
    """The queue of a running task, by its `task.request`; None where it is not known."""
    return _default_queue(context.delivery_info or {}) or getattr(context, QUEUE, None)


def origin_told(context: Any) -> Origin:
    """Which message a running task is a run of, by its `task.request`.

    On Redis its delivery tag is made when it is sent, and stays however often it is handed back or given out again.
    AMQP counts deliveries, which is no name of a message.
    """
    tag = (getattr(context, "properties", None) or {}).get("delivery_tag")
    retries = context.retries
    return Origin(
        tag=tag[:MAX_TAG_CHARS] if isinstance(tag, str) else None,
        retries=retries if type(retries) is int else 0,
        is_redelivered=bool((context.delivery_info or {}).get("redelivered")),
    )


def current_task() -> Any:
    """The task that the worker runs here; None outside, and for one that is called directly or eagerly."""
    task: Any = celery.current_task
    if not task:
        return None
    request = task.request
    return None if request.called_directly or request.is_eager or request.id is None else task


def _default_queue(delivery_info: Any) -> str | None:
    """What comes over the default exchange, as tasks do where nothing else was set up, says its queue by itself.

    To say it once more would cost each of them some microseconds, in the worker and in the child. AMQP 0-9-1, 3.1.3.1:
    the default exchange has no name, and the routing key is the queue's.
    """
    return None if delivery_info.get("exchange") else delivery_info.get("routing_key")


def forget(request: Any) -> None:
    """Take a request that is not to start out of Celery's books."""
    worker_state.requests.pop(request.id, None)
    worker_state.reserved_requests.discard(request)
    if SCHEDULED is not None:
        SCHEDULED.discard(request)


def running_requests() -> list[Any]:
    """The requests that the pool has accepted and not finished; from any thread."""
    return copied(worker_state.active_requests)


def count_accepted() -> int:
    """How many tasks the pools of this process have ever accepted; from any thread."""
    return int(worker_state.all_total_count[0])


def running_task(request: Any, *, is_waiting: bool) -> RunningTask:
    """What is said of a running request."""
    started_at = datetime.fromtimestamp(request.time_start, UTC) if request.time_start else None
    return RunningTask(
        id=request.id, name=request.name, queue=queue_of(request), started_at=started_at, is_waiting=is_waiting
    )


def copied(weak: Any) -> list[Any]:
    """A copy of a set that another thread changes meanwhile: the copy fails then, and is made again."""
    for _ in range(100):
        try:
            return list(weak)
        except RuntimeError:
            continue
    return []


def tell_rejected(request: Any) -> None:
    """For who watches. It goes to the broker, which may be away: the task's way back does not depend on it."""
    try:
        request.send_event("task-rejected", requeue=True)
    except Exception as error:
        log.debug("sluicegate: the event of %s could not be sent (%s)", request.id, error)
