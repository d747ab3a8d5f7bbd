"""What the gate costs before every start, beside what asking Redis would cost."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import astuple, dataclass
from datetime import UTC, datetime

import redis

from sluicegate.schemas.holds import Holds
from sluicegate.schemas.scopes import Claim
from sluicegate.schemas.snapshots import Snapshot
from sluicegate.workers.cell import Cell
from sluicegate.workers.checkpoints import checkpoint, open_station
from sluicegate.workers.gate import Gate
from tests.bench.intervals import Estimate, median

ROUNDS = 200
CHECKS = 1_000
GETS = 2_000


@dataclass(frozen=True, slots=True, kw_only=True)
class GateCheck:
    """Medians in nanoseconds, with their intervals.

    `check`: the gate's check and critical section around a start of nothing. `checkpoint`: a `checkpoint()` in a pool
    child, forked from here, while nothing is quiesced.
    """

    check: Estimate
    read: Estimate
    checkpoint: Estimate
    redis_get: Estimate

    @property
    def ratio(self) -> float:
        """How many checks one GET takes."""
        return self.redis_get.value / self.check.value


def measure(redis_url: str) -> GateCheck:
    """Measure them, one after the other, in this process."""
    cell = Cell()
    gate: Gate[None] = Gate(cell, Claim(), wake=_nothing, on_applied=_nothing)
    running = Holds(version=1)
    gate.put_in_force(Snapshot(namespace="bench", epoch=1, holds=running, beat=1, issued_at=datetime.now(UTC)))
    assert gate.pass_through(_start, None)
    with redis.Redis.from_url(redis_url) as client:
        client.set("bench", b"x" * 500)
        gets = [_timed(lambda: client.get("bench")) for _ in range(GETS)]
        client.delete("bench")
    return GateCheck(
        check=_per_call(lambda: gate.pass_through(_start, None)),
        read=_per_call(lambda: cell.is_open),
        checkpoint=_in_a_child(cell),
        redis_get=median(gets),
    )


def _in_a_child(cell: Cell) -> Estimate:
    open_station(None, cell.words)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writing, json.dumps(astuple(_per_call(checkpoint))).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as answer:
        measured = Estimate(*json.loads(answer.read()))
    os.waitpid(child, 0)
    open_station(None, [0])
    return measured


def _per_call(call: Callable[[], object]) -> Estimate:
    """The median over rounds, without what the loop and the call of a lambda cost: both are timed in turn."""
    return median([max(0.0, _round(call) - _round(_empty)) for _ in range(ROUNDS)])


_empty: Callable[[], object] = lambda: None  # noqa: E731 - what is timed with it is a lambda too


def _round(call: Callable[[], object]) -> float:
    began = time.perf_counter_ns()
    for _ in range(CHECKS):
        call()
    return (time.perf_counter_ns() - began) / CHECKS


def _timed(call: Callable[[], object]) -> float:
    began = time.perf_counter_ns()
    call()
    return time.perf_counter_ns() - began


def _start(request: None) -> None:
    pass


def _nothing() -> None:
    pass
