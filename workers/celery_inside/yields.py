"""Runs of tasks that stop at a checkpoint: how they end, and who hears of it."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

from celery import signals, states
from celery.exceptions import Ignore, Reject, Retry
from celery.utils.imports import symbol_by_name
from celery.worker import state as worker_state

from sluicegate.workers.checkpoints import YIELD, Yielded, way_of
from sluicegate.workers.log import logger
from sluicegate.workers.station import Station

log = logger(__name__)


class YieldedRun(Ignore):
    """How a run ends that stopped at a checkpoint and goes on later: no result, no failure, no retry."""


def prepare_tasks(app: Any, station: Station, on_yield: Callable[[Any], None]) -> None:
    """Have the runs of tasks that declare `on_quiesce` end as they said; raises InvalidSetting.

    Before the pool forks. `on_yield` takes the request of a run that yielded, from whichever thread hears of it.
    """
    station.ask_for_ends(_minding_every_cursor(station))
    for name, task in app.tasks.items():
        way = way_of(task)
        if not hasattr(task, "on_quiesce"):
            continue
        task.run = _minding_the_cursor(task, station)
        # One that waits yields too, when its worker is told to stop.
        task.Request = _yielding(symbol_by_name(task.Request), on_yield)
        if way == YIELD:
            log.debug("sluicegate: %s yields when it is quiesced", name)


def has_declared(app: Any) -> bool:
    """Does a task of this app say what it does when it is quiesced?"""
    return any(hasattr(task, "on_quiesce") for task in app.tasks.values())


def _minding_every_cursor(station: Station) -> Callable[[], None]:
    """For tasks that declare nothing and have a cursor all the same: one that waits gives it, in case it is killed.

    What is returned is called in the process that runs the task, when it has one. Only from then on is Celery asked
    to say when runs end (a tracer looks at the receivers when one does): tasks without a checkpoint cost nothing.
    """

    def end(task_id: str, state: str | None = None, **_: Any) -> None:
        if state in (states.SUCCESS, states.FAILURE):
            station.drop_cursor(task_id)
        else:
            station.let_go(task_id)

    def begin() -> None:
        signals.task_postrun.connect(end, weak=False, dispatch_uid="sluicegate.cursors")

    return begin


def _minding_the_cursor(task: Any, station: Station) -> Callable[..., Any]:
    run = task.run

    @wraps(run)
    def runs(*args: Any, **kwargs: Any) -> Any:
        request = task.request
        if request.called_directly or request.is_eager:
            return run(*args, **kwargs)
        try:
            value = run(*args, **kwargs)
        except Yielded:
            station.let_go(request.id)
            raise YieldedRun from None
        except (Retry, Reject):
            station.let_go(request.id)
            raise
        except Exception:
            station.drop_cursor(request.id)
            raise
        station.drop_cursor(request.id)
        return value

    return runs


def _yielding(base: Any, on_yield: Callable[[Any], None]) -> type:
    class YieldingRequest(base):  # type: ignore[misc]
        def on_failure(self, exc_info: Any, *args: Any, **kwargs: Any) -> Any:
            exc = exc_info.exception
            if not isinstance(getattr(exc, "exc", exc), YieldedRun):
                return super().on_failure(exc_info, *args, **kwargs)
            worker_state.task_ready(self)
            on_yield(self)
            return None

    return YieldingRequest
