"""Seeing a start: the note right before a task's own code, and whether a thread has entered it."""

from __future__ import annotations

import dis
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache, wraps
from types import CodeType, FrameType
from typing import Any

from celery.app import trace
from celery.worker.consumer import consumer

from sluicegate.workers.celery_inside.marks import NOTED

_TRACER = "build_tracer.<locals>.trace_task"
_WHO_BUILD: tuple[Any, ...] = (trace, consumer)
"""The modules in which `build_tracer` is looked up; the consumer's has it by import."""
_ABSENT = object()


def _tell_nobody(task_id: str) -> None: ...


_note: Callable[[str], None] = _tell_nobody


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
        if _is_tracer(frame):
            # A task may apply another within itself: the outermost decides.
            is_inside = called is not None and called.f_code.co_name != "before_start"
        called, frame = frame, frame.f_back
    return is_inside and top.f_lasti > _resume_at(top.f_code)


def _is_tracer(frame: FrameType) -> bool:
    """By its name and its module: others wrap the tracer, and put functions of their own in the place of its maker."""
    return frame.f_code.co_qualname == _TRACER and frame.f_globals is vars(trace)


@lru_cache(maxsize=4096)
def _resume_at(code: CodeType) -> int:
    """Where a function's first instruction stands (dis: RESUME), in bytes."""
    return next((step.offset for step in dis.get_instructions(code) if step.opname == "RESUME"), -1)


def tell_starts(note: Callable[[str], None]) -> None:
    """Have `note` called in this process with a task's id, right before its own code; needs `note_in_tracers`."""
    global _note
    _note = note


def note_in_tracers() -> None:
    """Have every tracer that is built from now on, here and in children of this process, note when its task begins.

    As the libraries do that replace `build_tracer`: around what stands there. So theirs stays in force whoever came
    first, and Celery builds its tracers when it does without us.
    """
    for module in _WHO_BUILD:
        module.build_tracer = _noting(module.build_tracer)


@contextmanager
def tracers_as_they_were() -> Iterator[None]:
    """What `note_in_tracers` does within this block is undone, unless somebody has wrapped it meanwhile."""
    before = [(module, module.build_tracer) for module in _WHO_BUILD]
    try:
        yield
    finally:
        for module, build in before:
            if getattr(module.build_tracer, "__wrapped__", None) is build:
                module.build_tracer = build


def _noting(build: Callable[..., Any]) -> Callable[..., Any]:
    if hasattr(build, NOTED):
        return build

    @wraps(build)
    def build_tracer(name: str, task: Any, *args: Any, **options: Any) -> Any:
        # An eager run is no start, and a second worker of this process may have come here by another way already.
        if options.get("eager") or hasattr(task.before_start, NOTED):
            return build(name, task, *args, **options)
        with _before_start_notes(task):
            return build(name, task, *args, **options)

    build_tracer.sluicegate_noted = True  # type: ignore[attr-defined]
    return build_tracer


@contextmanager
def _before_start_notes(task: Any) -> Iterator[None]:
    """Within this block a tracer is built: it asks for `before_start` once, and finds ours.

    `before_start` is the last thing that Celery calls before the task's own code, after every receiver of
    `task_prerun` and after the STARTED state has been stored: seen later than that, a start is a start. Ours calls
    the one that Celery would have, whatever it is: static, of the instance, or put on Celery's own class.
    """
    own = task.before_start if trace.task_has_custom(task, "before_start") else None

    def before_start(task_id: str, args: Any, kwargs: Any) -> None:
        _note(task_id)
        if own is not None:
            own(task_id, args, kwargs)

    before_start.sluicegate_noted = True  # type: ignore[attr-defined]
    # On the class too: there Celery looks whether a task has one at all.
    places = (type(task), task)
    before = [(place, vars(place).get("before_start", _ABSENT)) for place in places]
    for place in places:
        place.before_start = before_start
    try:
        yield
    finally:
        for place, theirs in reversed(before):
            # Who builds may have put another there.
            if vars(place).get("before_start") is not before_start:
                continue
            del place.before_start
            if theirs is not _ABSENT:
                place.before_start = theirs
