"""How a run ended that did not end well: heard where Celery decides it, in the request's own callbacks.

A run that ends well comes to none of these, and costs nothing. What Celery makes of the others (is the message given
back, is the task sent again) it announces by events, whether anybody watches them or not.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from billiard.einfo import ExceptionWithTraceback  # type: ignore[attr-defined]
from celery.exceptions import (
    Ignore,
    Reject,
    Retry,
    SoftTimeLimitExceeded,
    Terminated,
    TimeLimitExceeded,
    WorkerLostError,
)
from celery.utils.imports import symbol_by_name

from sluicegate.schemas.beats import End
from sluicegate.workers.run_ends import RunEnds


def tell_ends(app: Any, ends: RunEnds) -> None:
    """Have each task's requests tell `ends` of runs that do not end well; before the consumer makes its strategies."""
    made: dict[type, type] = {}
    for task in app.tasks.values():
        base = symbol_by_name(task.Request)
        if base not in made:
            made[base] = telling(base, ends)
        task.Request = made[base]


def telling(base: Any, ends: RunEnds) -> type:
    """A class of requests that tell `ends`."""

    class TellingRequest(base):  # type: ignore[misc]
        def on_failure(self, exc_info: Any, *args: Any, **kwargs: Any) -> Any:
            raised = exc_info.exception
            raised = raised.exc if isinstance(raised, ExceptionWithTraceback) else raised
            return _heard(self, raised, partial(super().on_failure, exc_info, *args, **kwargs), ends)

        def on_timeout(self, soft: bool, timeout: float) -> Any:
            act = partial(super().on_timeout, soft, timeout)
            # A soft one only warns the task, whose run ends by itself.
            return act() if soft else _heard(self, TimeLimitExceeded(timeout), act, ends)

        def terminate(self, *args: Any, **kwargs: Any) -> Any:
            return _heard(self, None, partial(super().terminate, *args, **kwargs), ends)

        def cancel(self, *args: Any, **kwargs: Any) -> Any:
            return _heard(self, None, partial(super().cancel, *args, **kwargs), ends)

    return TellingRequest


def _heard(request: Any, raised: BaseException | None, act: Callable[[], Any], ends: RunEnds) -> Any:
    """Let Celery act on a request, and tell what it made of it."""
    announced: dict[str, dict[str, Any]] = {}
    send_event = request.send_event
    is_heard = "send_event" in vars(request)

    def hear(kind: str, **fields: Any) -> None:
        announced[kind] = fields
        send_event(kind, **fields)

    ends.begin(request)
    request.send_event = hear
    try:
        return act()
    finally:
        if is_heard:
            # One of these calls another: a task that was accepted is terminated, for one.
            request.send_event = send_event
        else:
            del request.send_event
        ends.close(request, *end_of(raised, announced, is_acknowledged=request.acknowledged))


def end_of(
    raised: BaseException | None, announced: dict[str, dict[str, Any]], *, is_acknowledged: bool
) -> tuple[End | None, bool | None]:
    """How a run ended, and does it come again: by what it raised (None: that was not heard), and what was announced."""
    is_requeued = bool(announced.get("task-rejected", {}).get("requeue"))
    if "task-revoked" in announced:
        return End.REVOKED, None
    if "task-cancelled" in announced:
        return End.KILLED, not is_acknowledged
    if raised is None or isinstance(raised, Ignore) or "task-succeeded" in announced:
        return None, None
    if isinstance(raised, Retry):
        return End.RETRIED, True
    if isinstance(raised, Reject):
        return (End.RETRIED, True) if is_requeued else (End.FAILED, False)
    if isinstance(raised, TimeLimitExceeded | SoftTimeLimitExceeded):
        return End.OVERRAN, is_requeued
    if isinstance(raised, WorkerLostError | Terminated | SystemExit | KeyboardInterrupt):
        return End.KILLED, is_requeued or "task-retried" in announced or not is_acknowledged
    return End.FAILED, is_requeued
