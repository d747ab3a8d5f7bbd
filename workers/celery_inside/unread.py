"""Messages of held tasks that Celery can make no request of, and would throw away: they stay the queue's.

A worker that does not know a task rejects its message for good, as it does one whose content it does not accept. While
the task is held nobody may, since it may be held for just that reason: until the last worker of the old code is gone.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

from sluicegate.workers.celery_inside.marks import UNREAD
from sluicegate.workers.gate import Gate


class Unread:
    """In the place of the request: what a way back and the core ask of one. `refuse` has Celery throw it away."""

    def __init__(self, message: Any, task: str, refuse: Callable[[], None]) -> None:
        self.message = message
        self.type = self.name = task
        self.id = (message.headers or {}).get("id")
        self.acknowledged = False
        self.refuse = refuse

    def send_event(self, kind: str, **_: Any) -> None:
        """Nobody who watches was told that it came."""


def keep_unread(consumer: Any, gate: Gate[Any], hold: Callable[[Any], None]) -> None:
    """Give `hold` what `consumer` would throw away while it is held; once for each of Celery's consumers.

    Celery looks these three up when a connection's handler of messages is made, and calls them for what it then throws
    away. `on_unknown_message` is not among them: what is no task's message at all is held by nothing.
    """
    if hasattr(consumer, UNREAD):
        return
    consumer.sluicegate_unread = True
    consumer.on_unknown_task = _unless_held(consumer.on_unknown_task, gate, hold)
    consumer.on_invalid_task = _unless_held(consumer.on_invalid_task, gate, hold)
    consumer.on_decode_error = _unless_held(consumer.on_decode_error, gate, hold)
    # kombu's consumer was made with the one from before; those of later connections are not.
    consumer.task_consumer.on_decode_error = consumer.on_decode_error


def _unless_held(refuse: Callable[..., None], gate: Gate[Any], hold: Callable[[Any], None]) -> Callable[..., None]:
    @wraps(refuse)
    def refuse_unless_held(*args: Any) -> None:
        message = next(arg for arg in args if hasattr(arg, "delivery_info"))
        unread = Unread(message, _task_of(message), lambda: refuse(*args))
        if gate.holds_back(unread):
            hold(unread)
        else:
            refuse(*args)

    return refuse_unless_held


def _task_of(message: Any) -> str:
    """Empty where it cannot be told: no hold of a task matches that, one of the queue or of the worker does."""
    try:
        headers = message.headers or {}
        # Protocol 1 has it in the body, which Celery has read by now, or could not.
        return str(headers.get("task") or message.payload["task"])
    except Exception:
        return ""
