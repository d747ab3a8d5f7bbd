"""Checks where a task is handed to the pool, and not again where it really starts: it may lie there for long."""

from __future__ import annotations

from typing import Any

from sluicegate.workers.celery_inside.in_process import ThreadsPool
from tests.fleet.app import app


def on_apply(self: ThreadsPool, target: Any, args: Any = None, kwargs: Any = None, **options: Any) -> Any:
    return self._apply(target, args, kwargs, **options)


ThreadsPool._on_apply = on_apply  # type: ignore[method-assign, assignment]
__all__ = ["app"]
