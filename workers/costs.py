"""What a task has cost: the way in for a task's author."""

from __future__ import annotations

from decimal import Decimal
from typing import Any, Protocol

from sluicegate.workers import checkpoints

Amount = int | float | str | Decimal


class Tells(Protocol):
    """What a worker process offers its tasks; there is none where the plugin is not in force."""

    def report(self, task: Any, amount: Amount, key: str | None, currency: str) -> None:
        """Tells one cost of a running task. Never raises."""


_purse: Tells | None = None


def report_cost(amount: Amount, *, key: str | None = None, currency: str = "USD") -> None:
    """Say that the task that runs here has cost `amount`, a number with at most six decimals. Never raises.

    The same `key` counts once, whoever reports it. Outside of a task of a worker with the plugin it does nothing. A
    figure that is none (NaN, infinite, negative) is told too: it counts nothing, and raises an alarm.
    """
    purse = _purse
    task = checkpoints.task_here()
    if purse is not None and task is not None:
        purse.report(task, amount, key, currency)


def open_purse(purse: Tells | None) -> None:
    """Called once, in the worker's parent process before it forks."""
    global _purse
    _purse = purse
