"""Real workers that are idle: pool children that are replaced, and callbacks."""

from __future__ import annotations

from contextlib import suppress
from functools import partial

import psutil

from sluicegate.control.process.stack import Stack
from tests.fleet.harness import Fleet, Worker
from tests.fleet.waiting import until

RECYCLE_S = 1


def children(worker: Worker) -> set[int]:
    """The pool's: each is a fork of its worker, and has its command line."""
    found = set()
    parent = psutil.Process(worker.pid)
    for child in parent.children():
        with suppress(psutil.NoSuchProcess):
            if child.status() != psutil.STATUS_ZOMBIE and child.cmdline() == parent.cmdline():
                found.add(child.pid)
    return found


def are_new(worker: Worker, before: set[int]) -> bool:
    now = children(worker)
    return len(now) == len(before) and not now & before


def test_s5_s6_idle_children_are_replaced_and_the_worker_goes_on(stack: Stack) -> None:
    with Fleet(stack, environ={"SLUICEGATE_IDLE_RECYCLE_S": str(RECYCLE_S)}) as fleet:
        fleet.watch()
        worker = fleet.start(slots=3)
        fleet.wait_open()
        for _ in range(3):
            before = children(worker)
            fleet.send_naps(12, 0.01)
            fleet.wait_done()
            until("all children are new", partial(are_new, worker, before))
        assert fleet.check().broken == {}
        worker.stop()


def test_a_busy_worker_keeps_its_children(stack: Stack) -> None:
    with Fleet(stack, environ={"SLUICEGATE_IDLE_RECYCLE_S": str(RECYCLE_S)}) as fleet:
        worker = fleet.start(slots=2)
        before = children(worker)
        fleet.send("nap", 4.0)
        fleet.wait_done()
        assert children(worker) == before
