"""No-op tasks on one prefork worker with the plugin, beside one of plain Celery: many short blocks that take turns.

A difference of 2 % is less than what a shared machine does by itself from one second to the next. So both workers
stay up, a block takes a third of a second, and four blocks make a round: plain, plugin, plugin, plain, the next round
the other way round. What drifts slowly is the same for both within a round, and whatever being first is worth is shared
out. A round gives one ratio; the interval of their median comes from their order. Rounds go on until the interval is
narrow enough to tell 0.98 from 1, or there have been too many.

The processor time of a task (all threads of the worker and of its children) is measured beside: other people's work
hardly moves it, and it is what a host pays.
"""

from __future__ import annotations

import functools
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
TASKS = 300
ROUNDS = range(40, 161)
"""At least, and below."""

NARROW = 0.008
"""Half of the interval's length at which it is enough: 1 and 0.98 are then not both in it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """What one block took for each task: seconds of the clock, and of processor time."""

    wall_s: float
    cpu_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Throughput:
    """`ratios`: throughput with the plugin by that without, one a round; `cpu_ratios`: processor time a task."""

    plugin: tuple[Block, ...]
    vanilla: tuple[Block, ...]
    ratios: tuple[float, ...]
    cpu_ratios: tuple[float, ...]

    @property
    def ratio(self) -> Estimate:
        """The median over the rounds."""
        return median(self.ratios)

    @property
    def cpu_ratio(self) -> Estimate:
        """The median over the rounds; above 1 is what the plugin costs."""
        return median(self.cpu_ratios)


def rate(blocks: Sequence[Block]) -> float:
    """Tasks a second, in the median block."""
    return 1 / statistics.median(block.wall_s for block in blocks)


def cpu_us(blocks: Sequence[Block]) -> float:
    """Microseconds of processor time a task, in the median block."""
    return statistics.median(block.cpu_s for block in blocks) * 1e6


def measure(stack: Stack, say: Callable[[str], None], *, rounds: range = ROUNDS, tasks: int = TASKS) -> Throughput:
    """Both workers stay up throughout; one at a time has work."""
    blocks: dict[bool, list[Block]] = {True: [], False: []}
    ratios, cpu_ratios = [], []
    with Fleet(stack, host="with") as ours, Fleet(stack, plugin=False, host="without") as vanilla:
        for fleet in (ours, vanilla):
            fleet.start(slots=SLOTS)
            wait_open(fleet)
        loads = {fleet.plugin: Load(fleet, tasks) for fleet in (ours, vanilla)}
        for fleet in (ours, vanilla):
            loads[fleet.plugin].run()
        for number in range(rounds.stop):
            turn = (False, True, True, False) if number % 2 else (True, False, False, True)
            done = [(plugin, loads[plugin].run()) for plugin in turn]
            for plugin, block in done:
                blocks[plugin].append(block)
            ratios.append(_mean(done, False, "wall_s") / _mean(done, True, "wall_s"))
            cpu_ratios.append(_mean(done, True, "cpu_s") / _mean(done, False, "cpu_s"))
            if number % 10 == 9:
                now = median(ratios)
                say(f"throughput: {number + 1} rounds, {now.value:.4f} ({now.low:.4f}-{now.high:.4f})")
            if number + 1 >= rounds.start and median(ratios).half_width <= NARROW:
                break
    return Throughput(
        plugin=tuple(blocks[True]),
        vanilla=tuple(blocks[False]),
        ratios=tuple(ratios),
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
        cpu_s = processor_s(fleet)
        began = time.perf_counter()
        fleet.redis.rename(staging, fleet.queue)
        until("the queue is empty", self._is_empty, within_s=120, every_s=look_every_s)
        wall_s = time.perf_counter() - began
        return Block(wall_s=wall_s / self._tasks, cpu_s=(processor_s(fleet) - cpu_s) / self._tasks)

    def _is_empty(self) -> bool:
        with self._fleet.redis.pipeline(transaction=True) as pipe:
            pipe.execute_command("LLEN", self._fleet.queue)
            pipe.execute_command("HLEN", UNACKED)
            return not any(pipe.execute())


def _renamed(message: str, name: str) -> str:
    return message.replace(name, str(uuid.uuid4()))


def processor_s(fleet: Fleet) -> float:
    """What the fleet's processes have used so far, all threads, to the nanosecond (`times()` counts in 10 ms)."""
    total_ns = 0
    for worker in fleet.workers.values():
        parent = psutil.Process(worker.pid)
        for process in (parent, *parent.children(recursive=True)):
            for thread in Path(f"/proc/{process.pid}/task").iterdir():
                total_ns += int((thread / "schedstat").read_text().split()[0])
    return total_ns / 1e9
