"""What the gate costs before every start, and a checkpoint in a running task, beside what asking Redis would cost."""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass
from datetime import UTC, datetime

import redis

from sluicegate.control.process.stack import Stack
from sluicegate.schemas.holds.hold import Holds
from sluicegate.schemas.scopes import Subject
from sluicegate.schemas.snapshots import Snapshot
from sluicegate.workers.cell import Cell
from sluicegate.workers.gate import Gate
from tests.bench import child_work
from tests.bench.intervals import Estimate, median
from tests.bench.throughput import wait_open
from tests.bench.timing import each_ns, in_turn_ns
from tests.fleet.harness import Fleet

ROUNDS = 4_000
"""Some seconds: 200 rounds, over in 0.15 s, once said 307 ns where three more runs said 158 to 165."""
GETS = 2_000
TASKS = 4
"""Of a worker with two children, one after the other: each times its share of the rounds."""

_lock = threading.RLock()
_acquire, _release = _lock.acquire, _lock.release


@dataclass(frozen=True, slots=True, kw_only=True)
class GateCheck:
    """Medians in nanoseconds, with their intervals.

    `check`: the gate's check and critical section around a start of nothing, in the worker's parent process. `lock`: of
    that, the lock alone. `redis_get`: the reference, in the same process. `checkpoint` and `child_get`: in tasks that
    prefork children of a running worker run.
    """

    check: Estimate
    lock: Estimate
    redis_get: Estimate
    checkpoint: Estimate
    child_get: Estimate


def measure(stack: Stack) -> GateCheck:
    """Measure them, one after the other."""
    with redis.Redis.from_url(stack.valkey.url) as client:
        client.set(child_work.KEY, b"x" * 500)
        try:
            gets = each_ns(lambda: client.get(child_work.KEY), GETS)
            checkpoint, child_get = _in_children(stack)
        finally:
            client.delete(child_work.KEY)
    cell = Cell()
    gate: Gate[None] = Gate(cell, Subject(), wake=_nothing, on_applied=_nothing)
    running = Holds(version=1)
    gate.put_in_force(Snapshot(namespace="bench", epoch=1, holds=running, publication=1, issued_at=datetime.now(UTC)))
    assert gate.pass_through(_start, None)
    check, lock = in_turn_ns([lambda: gate.pass_through(_start, None), _take_and_release], ROUNDS)
    return GateCheck(
        check=median(check),
        lock=median(lock),
        redis_get=median(gets),
        checkpoint=checkpoint,
        child_get=child_get,
    )


def _in_children(stack: Stack) -> tuple[Estimate, Estimate]:
    with Fleet(stack, host="check") as fleet:
        fleet.start(module=child_work.__name__)
        wait_open(fleet)
        for _ in range(TASKS):
            fleet.send(child_work.TASK, ROUNDS // TASKS, GETS // TASKS)
            # One at a time, so that no child waits for the other's turn on a processor.
            fleet.wait_done()
        found = [json.loads(record.note) for record in fleet.read_records()]
    assert all(one["has_station"] for one in found), "a child without the plugin"
    checkpoints, gets = ([ns for one in found for ns in one[name]] for name in ("checkpoint", "get"))
    return median(checkpoints), median(gets)


def _start(request: None) -> None:
    pass


def _take_and_release() -> None:
    _acquire()
    _release()


def _nothing() -> None:
    pass
