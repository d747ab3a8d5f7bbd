"""Who waits for a slot of the prefork pool, and gets it when another's start does not happen."""

from __future__ import annotations

from types import MethodType, SimpleNamespace
from typing import Any

import pytest
from celery.exceptions import TaskRevokedError
from celery.worker import WorkController
from kombu.asynchronous.semaphore import LaxBoundedSemaphore

from sluicegate.schemas.holds.hold import Holds
from sluicegate.schemas.scopes import Subject
from sluicegate.schemas.snapshots import Snapshot
from sluicegate.workers.celery_inside.prefork import PreforkPool
from sluicegate.workers.cell import Cell
from sluicegate.workers.gate import Gate
from tests.unit.strategies import NOW

MANY = 5000
"""More than Python's stack has room for."""


class Request:
    """Comes to the pool, and runs until it is told to end; or is revoked by then."""

    def __init__(self, bench: Bench, *, is_revoked: bool) -> None:
        self.bench, self.is_revoked = bench, is_revoked
        self.message = SimpleNamespace(delivery_info={"exchange": "", "routing_key": "q"})

    def execute_using_pool(self, pool: Any) -> None:
        self.bench.seen.append(self)
        if self.is_revoked:
            raise TaskRevokedError("revoked")
        self.bench.running.append(self)


class Bench:
    """Celery's own `_process_task` and semaphore, with one slot, behind a gate that is open."""

    def __init__(self) -> None:
        self.seen: list[Request] = []
        self.running: list[Request] = []
        self.held: list[Any] = []
        self.gate: Gate[Any] = Gate(Cell(), Subject(), wake=lambda: None, on_applied=lambda: None)
        self.worker: Any = SimpleNamespace(semaphore=LaxBoundedSemaphore(1), pool=None, app=SimpleNamespace(tasks={}))
        self.worker._quick_acquire = self.worker.semaphore.acquire
        self.worker._quick_release = self.worker.semaphore.release
        celery: Any = WorkController
        self.worker._process_task = MethodType(celery._process_task, self.worker)
        self.worker.process_task = self.worker._process_task_sem = MethodType(celery._process_task_sem, self.worker)
        PreforkPool(self.worker, self.gate.cell).guard(self.gate, self.held.append)
        state = Holds(version=1, active=frozenset())
        self.gate.put_in_force(Snapshot(namespace="n", epoch=1, holds=state, publication=1, issued_at=NOW))

    def send(self, count: int, *, is_revoked: bool) -> None:
        for _ in range(count):
            self.worker.process_task(Request(self, is_revoked=is_revoked))

    def end_one(self) -> None:
        """As the pool does when a run is over."""
        self.running.pop(0)
        self.worker.semaphore.release()


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_any_number_that_were_revoked_while_they_waited_are_passed_one_after_the_other(bench: Bench) -> None:
    """Each frees the slot that the next one gets: a loop, and not as many calls within each other."""
    bench.send(1, is_revoked=False)
    bench.send(MANY, is_revoked=True)
    bench.send(2, is_revoked=False)
    bench.end_one()
    assert len(bench.seen) == MANY + 2
    assert len(bench.running) == 1
    assert bench.worker.semaphore.value == 0
    bench.end_one()
    assert len(bench.running) == 1
    bench.end_one()
    assert (bench.worker.semaphore.value, len(bench.worker.semaphore._waiting)) == (1, 0)


def test_one_that_is_revoked_when_it_comes_leaves_the_slot_that_it_took(bench: Bench) -> None:
    bench.send(1, is_revoked=True)
    assert bench.worker.semaphore.value == 1
    bench.send(1, is_revoked=False)
    assert (len(bench.running), bench.worker.semaphore.value) == (1, 0)


def test_a_start_that_breaks_down_in_the_middle_leaves_the_others_their_slots(bench: Bench) -> None:
    """What it raises goes to Celery; the next slot that is left is passed on as before."""
    bench.send(1, is_revoked=False)
    bench.send(1, is_revoked=True)
    broken = Request(bench, is_revoked=False)
    broken.execute_using_pool = lambda pool: 1 / 0  # type: ignore[method-assign, assignment]
    bench.worker.process_task(broken)
    with pytest.raises(ZeroDivisionError):
        bench.end_one()
    bench.worker.semaphore.release()
    bench.send(3, is_revoked=True)
    assert bench.worker.semaphore.value == 1
