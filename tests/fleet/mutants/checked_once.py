"""Checks where a task is handed to the pool, and not again where it really starts: it may lie there for long."""

from __future__ import annotations

from typing import Any

from sluicegate.workers.celery_inside.in_process import ThreadsPool, _Job
from tests.fleet.app import app


def on_apply(self: ThreadsPool, target: Any, args: Any = None, kwargs: Any = None, **options: Any) -> Any:
    job = _Job(options["accept_callback"].__self__)
    self._note_starts_of(job.request.task)
    return self._apply(target, args, kwargs, **options)


ThreadsPool._on_apply = on_apply  # type: ignore[method-assign, assignment]
__all__ = ["app"]
