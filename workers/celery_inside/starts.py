"""Seeing a start: the note right before a task's own code, and whether a thread has entered it."""

from __future__ import annotations

import dis
from collections.abc import Callable
from functools import lru_cache
from types import CodeType, FrameType
from typing import Any

from celery import Task
from celery.app.trace import build_tracer

from sluicegate.workers.celery_inside.marks import NOTED

_TRACE = next(code for code in build_tracer.__code__.co_consts if getattr(code, "co_name", "") == "trace_task")


def has_entered(top: FrameType | None) -> bool:
    """Does this thread's stack show that the task's own code has begun? `top` is the innermost frame.

    What Celery's tracer calls after `before_start` is the task. CPython hands the interpreter to another thread
    where a function begins, before its first instruction: a stack that ends there shows no start yet, also where
    something of Celery's own stands in between (autoretry). False where it cannot be told.
    """
    if top is None:
        return False
    is_inside = False
    called: FrameType | None = None
    frame: FrameType | None = top
    while frame is not None:
        if frame.f_code is _TRACE:
            # A task may apply another within itself: the outermost decides.
            is_inside = called is not None and called.f_code.co_name != "before_start"
        called, frame = frame, frame.f_back
    return is_inside and top.f_lasti > _resume_at(top.f_code)


@lru_cache(maxsize=4096)
def _resume_at(code: CodeType) -> int:
    """Where a function's first instruction stands (dis: RESUME), in bytes."""
    return next((step.offset for step in dis.get_instructions(code) if step.opname == "RESUME"), -1)


def note_begin_of(task_class: Any, note: Callable[[str], None]) -> None:
    """Have `note` called with the task's id when a task of this class begins; once, where tasks share the class.

    `before_start` is the last thing that Celery calls before the task's own code, after every receiver of
    `task_prerun` and after the STARTED state has been stored: seen later than that, a start is a start.
    """
    original = task_class.before_start
    if hasattr(original, NOTED):
        return

    def before_start(task: Any, task_id: str, args: Any, kwargs: Any) -> None:
        note(task_id)
        # Celery's own does nothing, and most tasks have no other.
        if original is not Task.before_start:
            original(task, task_id, args, kwargs)

    before_start.sluicegate_noted = True  # type: ignore[attr-defined]
    task_class.before_start = before_start
