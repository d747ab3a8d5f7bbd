"""Celery's books, as the core asks for them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sluicegate.schemas.beats import RunningTask
from sluicegate.workers.celery_inside import requests, waiting
from sluicegate.workers.celery_inside.batches import Batch, count_gathered
from sluicegate.workers.celery_inside.self_check import steps_beside
from sluicegate.workers.celery_inside.unread import Unread


class CeleryBooks:
    """Those of one worker process. Celery keeps most of them in module globals (`celery.worker.state`)."""

    def __init__(self, worker: Any) -> None:
        self._worker = worker
        self._beside: tuple[str, ...] | None = None

    def running(self) -> list[Any]:
        """Of the pool's own book."""
        return requests.running_requests()

    def running_task(self, request: Any, *, is_waiting: bool) -> RunningTask:
        """With the queue, where it is known."""
        return requests.running_task(request, is_waiting=is_waiting)

    def parts(self, request: Any) -> Iterable[Any]:
        """Of a batch, its messages' own."""
        return request.requests if isinstance(request, Batch) else (request,)

    def forget(self, request: Any) -> None:
        """In each book that may have it."""
        requests.forget(request)

    def start(self, request: Any) -> None:
        """By what Celery calls for every request that came, or for every message that it can make none of."""
        if isinstance(request, Unread):
            request.refuse()
        else:
            self._worker.process_task(request)

    def count_reserved(self) -> int:
        """What is reserved and not active, what waits on the timer, and what is gathered for a batch."""
        return waiting.count_reserved(self._worker) + count_gathered(self._worker.app)

    def count_begun(self) -> int:
        """As `inspect stats` has them."""
        return requests.count_accepted()

    def queues(self) -> tuple[str, ...]:
        """As the app has them: those of a held queue too."""
        return tuple(self._worker.app.amqp.queues.consume_from)

    def beside(self) -> tuple[str, ...]:
        """As the app was at the first heartbeat."""
        if self._beside is None:
            self._beside = steps_beside(self._worker.app)
        return self._beside

    def concurrency(self) -> int:
        """As the worker was started."""
        return int(self._worker.concurrency)
