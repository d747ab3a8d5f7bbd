"""`on_idle`: what a user wants done when a worker has had nothing to do for a while, or lets go of its GPUs."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar, overload

from sluicegate.schemas.errors import InvalidInput
from sluicegate.workers.log import logger

log = logger(__name__)

Callback = TypeVar("Callback", bound=Callable[[], object])
DEFAULT_AFTER_S = 60.0


@dataclass(slots=True, eq=False)
class _Hook:
    callback: Callable[[], object]
    after_s: float
    is_called: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)


_hooks: list[_Hook] = []


@overload
def on_idle(callback: Callback, *, after_s: float = ...) -> Callback: ...
@overload
def on_idle(callback: None = ..., *, after_s: float = ...) -> Callable[[Callback], Callback]: ...
def on_idle(
    callback: Callback | None = None, *, after_s: float = DEFAULT_AFTER_S
) -> Callback | Callable[[Callback], Callback]:
    """Have `callback()` called when this worker has been idle for `after_s` seconds; also as a decorator.

    Idle is a worker that runs nothing. It is called once each time, in the worker's main process, in a thread of its
    own, and at once when the worker is drained under a hold of its own for the health of a GPU. What it raises is
    logged. What tasks keep in the children of a prefork pool is out of its reach: SLUICEGATE_IDLE_RECYCLE_S replaces
    those. Raises InvalidInput for an `after_s` that is not above 0.
    """
    if not after_s > 0:
        raise InvalidInput("after_s", f"must be above 0, not {after_s!r}")
    if callback is None:
        return lambda given: on_idle(given, after_s=after_s)
    _hooks.append(_Hook(callback, float(after_s)))
    return callback


def forget_hooks() -> None:
    """For tests."""
    _hooks.clear()


def call_due(idle_for_s: float | None, *, lets_go: bool) -> None:
    """Call what is due and was not called in this idle time; `idle_for_s` None: it is not idle, all begins anew."""
    for hook in _hooks:
        if idle_for_s is None:
            hook.is_called = False
        elif not hook.is_called and (lets_go or idle_for_s >= hook.after_s):
            hook.is_called = True
            threading.Thread(target=_call, args=(hook,), name="sluicegate-on-idle", daemon=True).start()


def _call(hook: _Hook) -> None:
    # One at a time: a callback that takes longer than the next idle time needs no second one beside it.
    if not hook.lock.acquire(blocking=False):
        return
    try:
        hook.callback()
    except Exception:
        log.exception("sluicegate: an on_idle callback failed")
    finally:
        hook.lock.release()
