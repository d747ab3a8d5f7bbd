"""No-op tasks on one prefork worker with the plugin, beside one of plain Celery: many short blocks that take turns.

A difference of 2 % is less than what a shared machine does by itself from one second to the next. So both workers
stay up, a block takes a tenth of a second or little more, and four blocks make a round: plain, plugin, plugin, plain,
the next round the other way round. What drifts slowly is the same for both within a round, and whatever being first is
worth is shared out. A round gives one ratio; the interval of their median comes from their order. Rounds go on until
the interval is narrow enough to tell 0.98 from 1, or time is up.

Two more are measured beside, which other people's work moves less. The net time is a block's time without what the
worker's main thread, through which everything passes, stood ready and waited for a processor. The processor time of a
task is that of all threads of the worker and of its children: it is what a host pays.
"""

from __future__ import annotations

import functools
import itertools
import json
import math
import statistics
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from sluicegate.control.stack import Stack
from sluicegate.schemas import settings
from tests.bench.intervals import Estimate, median
from tests.fleet.broker import UNACKED
from tests.fleet.harness import Fleet
from tests.fleet.waiting import until
from tests.fleet.watch import by_redis

SLOTS = 2
TASKS = 100
ROUNDS = 60
"""At least."""

WITHIN_S = 140.0
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
    """One number a round. `ratios`: throughput with the plugin by that without, and `net_ratios` the same from the net
    time; `cpu_ratios`: processor time of a task.
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
        """The median over the rounds."""
        return median(self.ratios)

    @property
    def net_ratio(self) -> Estimate:
        """The median over the rounds."""
        return median(self.net_ratios)

    @property
    def cpu_ratio(self) -> Estimate:
        """The median over the rounds; above 1 is what the plugin costs."""
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
    stack: Stack, say: Callable[[str], None], *, rounds: int = ROUNDS, within_s: float = WITHIN_S, tasks: int = TASKS
) -> Throughput:
    """Both workers stay up throughout; one at a time has work."""
    blocks: dict[bool, list[Block]] = {True: [], False: []}
    ratios, net_ratios, cpu_ratios = [], [], []
    with Fleet(stack, host="with") as ours, Fleet(stack, plugin=False, host="without") as vanilla:
        for fleet in (ours, vanilla):
            fleet.start(slots=SLOTS)
            wait_open(fleet)
        loads = {fleet.plugin: Load(fleet, tasks) for fleet in (ours, vanilla)}
        for fleet in (ours, vanilla):
            loads[fleet.plugin].run()
        until_s = time.monotonic() + within_s
        for number in itertools.count():
            turn = (False, True, True, False) if number % 2 else (True, False, False, True)
            done = [(plugin, loads[plugin].run()) for plugin in turn]
            for plugin, block in done:
                blocks[plugin].append(block)
            ratios.append(_mean(done, False, "wall_s") / _mean(done, True, "wall_s"))
            net_ratios.append(_mean(done, False, "net_s") / _mean(done, True, "net_s"))
            cpu_ratios.append(_mean(done, True, "cpu_s") / _mean(done, False, "cpu_s"))
            if number % 20 == 19:
                now = median(ratios)
                say(f"throughput: {number + 1} rounds, {now.value:.4f} ({now.low:.4f}-{now.high:.4f})")
            if number + 1 >= rounds and (median(ratios).half_width <= NARROW or time.monotonic() > until_s):
                break
    return Throughput(
        plugin=tuple(blocks[True]),
        vanilla=tuple(blocks[False]),
        ratios=tuple(ratios),
        net_ratios=tuple(net_ratios),
        cpu_ratios=tuple(cpu_ratios),
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


def _mean(done: Sequence[tuple[bool, Block]], plugin: bool, what: str) -> float:
    """The geometric mean of a round's two blocks of one kind."""
    return math.sqrt(math.prod(getattr(block, what) for of, block in done if of is plugin))


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
