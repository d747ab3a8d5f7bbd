"""No-op tasks on a prefork worker with the plugin, beside one of plain Celery: many pairs of workers, in short blocks.

A difference of 2 % is less than what a shared machine does by itself from one second to the next, and less than what
one worker process differs from another that was started alike. So two workers are
started, take turns, and are replaced by two new ones, over and over. A block takes a few tenths of a second, and four
blocks make a round: plain, plugin, plugin, plain, the next round the other way round. What drifts slowly is the same
for both within a round, and whatever being first is worth is shared out. A pair gives one ratio, the geometric mean of
its rounds; the interval of their median comes from their order. Pairs go on until the interval is narrow enough to tell
0.98 from 1, or time is up.

Two more are measured beside, which other people's work moves less. The net time is a block's time without what the
worker's main thread, through which everything passes, stood ready and waited for a processor. The processor time of a
task is that of all threads of the worker and of its children: it is what a host pays.
"""

from __future__ import annotations

import functools
import json
import statistics
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from sluicegate.control.process.stack import Stack
from sluicegate.schemas import settings
from tests.bench.intervals import Estimate, median
from tests.fleet.broker import UNACKED
from tests.fleet.harness import Fleet
from tests.fleet.waiting import until
from tests.fleet.watch import by_redis

SLOTS = 2
TASKS = 100
ROUNDS = 4
"""Of each pair of workers."""

PAIRS = 12
"""At least."""

WITHIN_S = 240.0
"""Time is up, however wide the interval is."""

NARROW = 0.008
"""Half of the interval's length at which it is enough: 1 and 0.98 are then not both in it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """What one block took for each task: seconds of the clock, the same net of waits, and of processor time."""

    wall_s: float
    net_s: float
    cpu_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Throughput:
    """One number a pair of workers. `ratios`: throughput with the plugin by that without, and `net_ratios` the same
    from the net time; `cpu_ratios`: processor time of a task.
    """

    plugin: tuple[Block, ...]
    vanilla: tuple[Block, ...]
    ratios: tuple[float, ...]
    net_ratios: tuple[float, ...]
    cpu_ratios: tuple[float, ...]

    def __add__(self, other: Throughput) -> Throughput:
        return Throughput(
            plugin=self.plugin + other.plugin,
            vanilla=self.vanilla + other.vanilla,
            ratios=self.ratios + other.ratios,
            net_ratios=self.net_ratios + other.net_ratios,
            cpu_ratios=self.cpu_ratios + other.cpu_ratios,
        )

    @property
    def ratio(self) -> Estimate:
        """The median over the pairs."""
        return median(self.ratios)

    @property
    def net_ratio(self) -> Estimate:
        """The median over the pairs."""
        return median(self.net_ratios)

    @property
    def cpu_ratio(self) -> Estimate:
        """The median over the pairs; above 1 is what the plugin costs."""
        return median(self.cpu_ratios)


def rate(blocks: Sequence[Block]) -> float:
    """Tasks a second, in the median block."""
    return 1 / statistics.median(block.wall_s for block in blocks)


def net_us(blocks: Sequence[Block]) -> float:
    """Microseconds a task net of waits, in the median block."""
    return statistics.median(block.net_s for block in blocks) * 1e6


def cpu_us(blocks: Sequence[Block]) -> float:
    """Microseconds of processor time a task, in the median block."""
    return statistics.median(block.cpu_s for block in blocks) * 1e6


def measure(
    stack: Stack,
    say: Callable[[str], None],
    *,
    pairs: int = PAIRS,
    within_s: float = WITHIN_S,
    rounds: int = ROUNDS,
    tasks: int = TASKS,
) -> Throughput:
    """At least `pairs` pairs of workers, of `rounds` rounds each; one worker at a time has work."""
    found = Throughput(plugin=(), vanilla=(), ratios=(), net_ratios=(), cpu_ratios=())
    until_s = time.monotonic() + within_s
    number = 0
    while number < pairs or (found.ratio.half_width > NARROW and time.monotonic() < until_s):
        number += 1
        found += _measure_pair(stack, is_plugin_first=number % 2 == 0, rounds=rounds, tasks=tasks)
        if number % 6 == 0:
            now = found.ratio
            say(f"throughput: {number} pairs of workers, {now.value:.4f} ({now.low:.4f}-{now.high:.4f})")
    return found


def _measure_pair(stack: Stack, *, is_plugin_first: bool, rounds: int, tasks: int) -> Throughput:
    blocks: dict[bool, list[Block]] = {True: [], False: []}
    with Fleet(stack, host="with") as ours, Fleet(stack, plugin=False, host="without") as vanilla:
        both = (ours, vanilla) if is_plugin_first else (vanilla, ours)
        for fleet in both:
            fleet.start(slots=SLOTS, wait=False)
        for fleet in both:
            fleet.wait_ready()
            wait_open(fleet)
        loads = {fleet.plugin: Load(fleet, tasks) for fleet in both}
        for load in loads.values():
            load.run()
        for number in range(rounds):
            first = is_plugin_first == (number % 2 == 0)
            for plugin in (first, not first, not first, first):
                blocks[plugin].append(loads[plugin].run())
    return Throughput(
        plugin=tuple(blocks[True]),
        vanilla=tuple(blocks[False]),
        ratios=(_mean(blocks[False], "wall_s") / _mean(blocks[True], "wall_s"),),
        net_ratios=(_mean(blocks[False], "net_s") / _mean(blocks[True], "net_s"),),
        cpu_ratios=(_mean(blocks[True], "cpu_s") / _mean(blocks[False], "cpu_s"),),
    )


def wait_open(fleet: Fleet) -> None:
    """Return once the fleet's worker w1 says that it runs; plain Celery runs once it is ready.

    A `Watch` would go on asking a hundred times a second.
    """
    if fleet.plugin:
        environ = fleet.stack.environ
        nodename = fleet.workers["w1"].nodename
        look = by_redis(environ[settings.REDIS_URL.name], environ[settings.NAMESPACE.name], [nodename])
        until("the worker is open", lambda: any(word.state == "running" for word in look()))


def _mean(blocks: Sequence[Block], what: str) -> float:
    return statistics.geometric_mean(getattr(block, what) for block in blocks)


class Load:
    """A number of no-op tasks for one fleet; each block is a copy of them that appears in its queue at one stroke."""

    def __init__(self, fleet: Fleet, tasks: int) -> None:
        self._fleet = fleet
        self._tasks = tasks
        self._stock = f"{fleet.queue}.stock"
        fleet.sender.send_task("fleet.noop", queue=self._stock)
        message = fleet.redis.execute_command("LPOP", self._stock).decode()
        names = [json.loads(message)["headers"]["id"], json.loads(message)["properties"]["delivery_tag"]]
        # One message as Celery makes it, over and over, under other names.
        with fleet.redis.pipeline() as pipe:
            pipe.delete(self._stock)
            for _ in range(tasks):
                pipe.lpush(self._stock, functools.reduce(_renamed, names, message))
            pipe.execute()

    def run(self, *, look_every_s: float = 0.002) -> Block:
        """From a full queue to the last acknowledgement."""
        fleet = self._fleet
        staging = f"{fleet.queue}.staging"
        fleet.redis.execute_command("COPY", self._stock, staging)
        cpu_s, waited_s = processor_s(fleet), waited_for_processor_s(fleet)
        began = time.perf_counter()
        fleet.redis.rename(staging, fleet.queue)
        until("the queue is empty", self._is_empty, within_s=120, every_s=look_every_s)
        wall_s = time.perf_counter() - began
        net_s = wall_s - (waited_for_processor_s(fleet) - waited_s)
        return Block(
            wall_s=wall_s / self._tasks,
            net_s=net_s / self._tasks,
            cpu_s=(processor_s(fleet) - cpu_s) / self._tasks,
        )

    def _is_empty(self) -> bool:
        with self._fleet.redis.pipeline(transaction=True) as pipe:
            pipe.execute_command("LLEN", self._fleet.queue)
            pipe.execute_command("HLEN", UNACKED)
            return not any(pipe.execute())


def _renamed(message: str, name: str) -> str:
    return message.replace(name, str(uuid.uuid4()))


def waited_for_processor_s(fleet: Fleet) -> float:
    """How long the main thread of the fleet's worker w1 has stood ready and not run, so far."""
    pid = fleet.workers["w1"].pid
    return int(Path(f"/proc/{pid}/task/{pid}/schedstat").read_text().split()[1]) / 1e9


def processor_s(fleet: Fleet) -> float:
    """What the fleet's processes have used so far, all threads, to the nanosecond (`times()` counts in 10 ms)."""
    total_ns = 0
    for worker in fleet.workers.values():
        parent = psutil.Process(worker.pid)
        for process in (parent, *parent.children(recursive=True)):
            for thread in Path(f"/proc/{process.pid}/task").iterdir():
                total_ns += int((thread / "schedstat").read_text().split()[0])
    return total_ns / 1e9
