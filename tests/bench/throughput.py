"""No-op tasks a second on one prefork worker with the plugin, beside one of plain Celery, in interleaved pairs."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

from sluicegate.control.stack import Stack
from tests.fleet.broker import UNACKED
from tests.fleet.harness import Fleet
from tests.fleet.waiting import until

SLOTS = 2
TASKS = 2_000
PAIRS = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Throughput:
    """Tasks a second, and for each pair the ratio with / without the plugin."""

    plugin_per_s: float
    vanilla_per_s: float
    ratios: tuple[float, ...]

    @property
    def ratio(self) -> float:
        """The median over the pairs."""
        return statistics.median(self.ratios)

    @property
    def interval(self) -> tuple[float, float]:
        """An interval for that median from the order of the ratios: at least 95 % for ten pairs and more.

        The second smallest and second greatest of n: the median lies outside with 2 (n + 1) / 2^n.
        """
        ordered = sorted(self.ratios)
        inner = ordered[1:-1] if len(ordered) >= 9 else ordered
        return inner[0], inner[-1]


def measure(stack: Stack, say: Callable[[str], None], *, pairs: int = PAIRS, tasks: int = TASKS) -> Throughput:
    """Both workers stay up throughout; one at a time has work, and which is first changes from pair to pair."""
    rates: dict[bool, list[float]] = {True: [], False: []}
    with Fleet(stack, host="with") as ours, Fleet(stack, plugin=False, host="without") as vanilla:
        ours.watch()
        for fleet in (ours, vanilla):
            fleet.start(slots=SLOTS)
        ours.wait_open()
        for fleet in (ours, vanilla):
            _rate(fleet, tasks)
        for pair in range(pairs):
            for fleet in (ours, vanilla) if pair % 2 else (vanilla, ours):
                rates[fleet.plugin].append(_rate(fleet, tasks))
            say(f"throughput: pair {pair + 1} of {pairs}")
    return Throughput(
        plugin_per_s=statistics.median(rates[True]),
        vanilla_per_s=statistics.median(rates[False]),
        ratios=tuple(with_it / without for with_it, without in zip(rates[True], rates[False], strict=True)),
    )


def _rate(fleet: Fleet, tasks: int) -> float:
    """Tasks a second, from a full queue at one stroke to the last acknowledgement."""
    staging = f"{fleet.queue}.staging"
    with fleet.sender.producer_pool.acquire(block=True) as producer:
        for _ in range(tasks):
            fleet.sender.send_task("fleet.noop", queue=staging, producer=producer)
    fleet.redis.rename(staging, fleet.queue)
    began = time.perf_counter()
    until("the queue is empty", lambda: _is_empty(fleet), within_s=120, every_s=0.01)
    return tasks / (time.perf_counter() - began)


def _is_empty(fleet: Fleet) -> bool:
    with fleet.redis.pipeline(transaction=True) as pipe:
        pipe.execute_command("LLEN", fleet.queue)
        pipe.execute_command("HLEN", UNACKED)
        return not any(pipe.execute())
