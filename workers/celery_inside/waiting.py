"""Requests that wait elsewhere than in the pool: in rate-limit buckets, and for their ETA."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from celery.worker import state as worker_state
from celery.worker.request import Request

from sluicegate.workers.celery_inside.requests import copied
from sluicegate.workers.ports import Wanted


def rate_limited(consumer: Any, is_wanted: Wanted) -> Iterator[Any]:
    """Take out the requests that wait in rate-limit buckets."""
    for bucket in consumer.task_buckets.values():
        if bucket is not None:
            for _ in range(len(bucket.contents)):
                entry = bucket.contents.popleft()
                if is_wanted(entry[0]):
                    yield entry[0]
                else:
                    bucket.contents.append(entry)


def waiting_for_eta(consumer: Any, is_wanted: Wanted) -> Iterator[Any]:
    """Take out the requests that wait for their ETA: they too outlive the visibility timeout in a long pause."""
    for ticket, request in eta_tickets(consumer.timer):
        if not is_wanted(request):
            continue
        consumer.timer.cancel(ticket)
        # The strategy raised the prefetch count for it, and lowers it when the ETA fires.
        consumer.qos.decrement_eventually()
        yield request


def eta_tickets(timer: Any) -> list[tuple[Any, Any]]:
    """What to cancel, and the request that it would start: `apply_eta_task` and `_limit_post_eta` take it first.

    The queue of gevent's timer holds the greenlet that would call the entry, and that is what must be cancelled. Where
    there is no event loop, the timer is a thread around the one that has the queue.
    """
    found = []
    for scheduled in list(timer.schedule._queue):
        entry = scheduled.entry
        if not entry.canceled and entry.args and isinstance(entry.args[0], Request):
            found.append((scheduled if hasattr(scheduled, "kill") else entry, entry.args[0]))
    return found


def count_reserved(worker: Any) -> int:
    """How many messages are in hand and not started, ETA ones included; from any thread."""
    reserved = set(copied(worker_state.reserved_requests)) - set(copied(worker_state.active_requests))
    return len(reserved.union(request for _, request in eta_tickets(worker.timer)))
