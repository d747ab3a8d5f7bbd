"""What a gate in a test's own process stands on, and what it leaves behind on the app: nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import celery
from celery.worker import state as worker_state

from sluicegate.schemas.errors import InvalidSetting
from sluicegate.workers.celery_inside.books import CeleryBooks
from sluicegate.workers.celery_inside.choose import sides_of
from sluicegate.workers.celery_inside.consumer import CeleryConsumer
from sluicegate.workers.celery_inside.in_process import SoloPool, ThreadsPool
from sluicegate.workers.celery_inside.loops import DrainLoop
from sluicegate.workers.celery_inside.memory_hand_back import MemoryWayBack
from sluicegate.workers.celery_inside.self_check import refuse_strategies
from sluicegate.workers.celery_inside.starts import tracers_as_they_were
from sluicegate.workers.cell import Cell
from sluicegate.workers.ports import Sides

_POOLS = {"celery.concurrency.solo": SoloPool, "celery.concurrency.thread": ThreadsPool}
_OF_TASK = ("run", "Request", "__trace__", "Strategy", "flush", "_pool")


class TrialLoop(DrainLoop):
    """As on gevent, and each call of `drain_events` is short: Celery looks between two whether it is to stop."""

    def attach(self, consumer: Any, tend: Callable[[], None]) -> None:
        """Stand before the connection's `drain_events` twice."""
        super().attach(consumer, tend)
        drain = consumer.connection.drain_events
        consumer.connection.drain_events = lambda timeout=self.CAP_S, **kw: drain(min(timeout, self.CAP_S), **kw)


def trial_sides_of(worker: Any, cell: Cell) -> Sides:
    """The sides of a worker in the process of a test; raises InvalidSetting for what cannot be held there.

    Beside what can be held anywhere, kombu's queues in memory; of the pools those that share the test's memory.
    """
    refuse_strategies(worker.app)
    pool = _POOLS.get(getattr(worker.pool_cls, "__module__", ""))
    if pool is None:
        raise InvalidSetting("worker_pool", "the gate of sluicegate.testing holds workers with -P solo or -P threads")
    if worker._conninfo.transport.driver_type == "memory":
        return Sides(
            pool=pool(worker, cell),
            way_back=MemoryWayBack(),
            loop=TrialLoop(),
            consumer=CeleryConsumer(),
            books=CeleryBooks(worker),
        )
    return sides_of(worker, cell)


def called_task() -> Any:
    """The task that runs here, also where it was called directly or eagerly; None outside."""
    task: Any = celery.current_task
    return task if task else None


def is_told_to_stop() -> bool:
    """Has Celery's test tool asked its worker to end? It sets a module's variable, and sends no signal."""
    asked: tuple[Any, ...] = (worker_state.should_terminate, worker_state.should_stop)
    # 0 is an exit code, and means yes.
    return any(code is not None and code is not False for code in asked)


@contextmanager
def tasks_as_they_were(app: Any) -> Iterator[None]:
    """What a worker with a gate puts on the tasks of `app` within this block, and around tracers, goes with it."""
    tasks = [(task, {name: vars(task)[name] for name in _OF_TASK if name in vars(task)}) for task in app.tasks.values()]
    try:
        with tracers_as_they_were():
            yield
    finally:
        for task, own in tasks:
            for name in _OF_TASK:
                vars(task).pop(name, None)
            vars(task).update(own)
