"""What the gate costs before every start, beside what asking Redis would cost."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

import redis

from sluicegate.schemas.holds import Holds
from sluicegate.schemas.scopes import Claim
from sluicegate.schemas.snapshots import Snapshot
from sluicegate.workers.cell import Cell
from sluicegate.workers.checkpoints import checkpoint, open_station
from sluicegate.workers.gate import Gate

ROUNDS = 200
CHECKS = 1_000
GETS = 2_000


@dataclass(frozen=True, slots=True, kw_only=True)
class GateCheck:
    """Medians in nanoseconds.

    `check_ns`: the gate's check and critical section around a start of nothing. `checkpoint_ns`: a `checkpoint()` in a
    pool child, forked from here, while nothing is quiesced.
    """

    check_ns: float
    read_ns: float
    checkpoint_ns: float
    redis_get_ns: float

    @property
    def ratio(self) -> float:
        """How many checks one GET takes."""
        return self.redis_get_ns / self.check_ns


def measure(redis_url: str) -> GateCheck:
    """Measure all three, one after the other, in this process."""
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
        check_ns=_per_call(lambda: gate.pass_through(_start, None)),
        read_ns=_per_call(lambda: cell.is_open),
        checkpoint_ns=_in_a_child(cell),
        redis_get_ns=statistics.median(gets),
    )


def _in_a_child(cell: Cell) -> float:
    open_station(None, cell.words)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writing, str(_per_call(checkpoint)).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as answer:
        measured = float(answer.read())
    os.waitpid(child, 0)
    open_station(None, [0])
    return measured


def _per_call(call: Callable[[], object]) -> float:
    """The median over rounds, without what the loop and the call of a lambda cost."""
    return max(0.0, statistics.median(_round(call) for _ in range(ROUNDS)) - _lambda_ns())


def _lambda_ns() -> float:
    return statistics.median(_round(lambda: None) for _ in range(ROUNDS))


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
