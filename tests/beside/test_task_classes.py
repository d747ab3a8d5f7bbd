"""Libraries that bring a task class, or a strategy or a pool of their own."""

from __future__ import annotations

from collections import Counter

import pytest

from sluicegate.control.process.stack import Stack
from tests.beside import drills
from tests.beside.fleet import BesideFleet
from tests.beside.libraries import AIO_POOL, BATCHES, FLASK, ONCE, SINGLETON, Library
from tests.beside.told import Told
from tests.fleet.harness import READY_WITHIN_S
from tests.fleet.waiting import until

LOCKS = {"celery-singleton": "SINGLETONLOCK_*", "celery-once": "qo_*"}


@pytest.mark.parametrize("library", [SINGLETON, ONCE], ids=lambda library: library.name)
def test_a_task_that_waits_in_a_pause_keeps_its_lock_and_leaves_it_when_it_has_run(
    stack: Stack, told: Told, library: Library
) -> None:
    """Sent again while it waits, it is not sent; once it has run, it can be."""
    with BesideFleet(stack, library) as fleet:
        fleet.begin()
        kind = library.name.removeprefix("celery-")
        pattern = LOCKS[library.name]
        fleet.pause()
        fleet.wait_acknowledged()
        first, *rest = fleet.numbers(drills.TASKS)
        fleet.program(kind, str(first), str(1 + len(rest)))
        assert len(list(fleet.redis.scan_iter(pattern))) == drills.TASKS
        fleet.program(kind, str(first), str(drills.TASKS))
        fleet.wait_drained()
        assert len(fleet.contents().queued) == drills.TASKS, "what waits is not sent a second time"
        fleet.resume()
        drills.hold_midway(fleet)
        drills.judged(fleet)
        until("every lock is gone", lambda: not list(fleet.redis.scan_iter(pattern)))
        again = fleet.numbers(1)
        fleet.sent.pop()
        fleet.program(kind, str(again[0]), "1")
        until("a task is sent and run", lambda: again[0] in fleet.ended())
    told(library, "prefork", f"{drills.TASKS} locks kept in the pause, none left after it")


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_flasks_tasks_run_within_the_context_of_their_application(stack: Stack, told: Told, pool: str) -> None:
    with BesideFleet(stack, FLASK, pool=pool) as fleet:
        fleet.begin()
        drills.drain_midway(fleet)
        drills.judged(fleet)
        assert fleet.own_work() == Counter(context=drills.TASKS)
    told(FLASK, pool, f"{drills.TASKS} of {drills.TASKS} within their context")


@pytest.mark.parametrize("pool", ["prefork", "threads", "solo"])
def test_batches_are_held_and_counted_as_running_or_refused_when_the_worker_starts(
    stack: Stack, told: Told, pool: str
) -> None:
    """Obeyed: nothing starts after the acknowledgement, buffered messages too; every message is in one batch."""
    with BesideFleet(stack, BATCHES, pool=pool) as fleet:
        fleet.watch()
        worker = fleet.start(slots=1 if pool == "solo" else 2, module=BATCHES.module, wait=False)
        until(
            "ready, or ended",
            lambda: not worker.is_running or f"{worker.nodename} ready." in worker.process.output,
            within_s=READY_WITHIN_S,
        )
        if not worker.is_running:
            assert_refused(worker.process.output, "batch")
            told(BATCHES, pool, "refused when the worker starts")
            return
        fleet.wait_open()
        fleet.send_work(drills.TASKS)
        fleet.wait_started(20)
        fleet.pause()
        fleet.wait_acknowledged()
        never_drained_while_one_runs(fleet)
        drills.let_go(fleet)
        drills.judged(fleet)
        fleet.wait_own_work(Counter(message=drills.TASKS))
        assert fleet.own_work() == Counter(message=drills.TASKS)
    told(BATCHES, pool, f"{drills.TASKS} messages of as many, each in one batch")


def test_the_pool_of_async_tasks_runs_them_and_holds_them_or_is_refused(stack: Stack, told: Told) -> None:
    """Never half done: every task runs to its end, or the worker does not start."""
    with BesideFleet(stack, AIO_POOL, pool="custom") as fleet:
        fleet.watch()
        worker = fleet.start(module=AIO_POOL.module, wait=False)
        until(
            "ready, or ended",
            lambda: not worker.is_running or f"{worker.nodename} ready." in worker.process.output,
            within_s=READY_WITHIN_S,
        )
        if not worker.is_running:
            assert_refused(worker.process.output, "AsyncIOPool")
            told(AIO_POOL, "custom", "refused when the worker starts")
            return
        fleet.wait_open()
        drills.drain_midway(fleet)
        drills.judged(fleet)
    told(AIO_POOL, "custom", f"{drills.TASKS} of {drills.TASKS} awaited")


def never_drained_while_one_runs(fleet: BesideFleet) -> None:
    """Nobody is told that the fleet is drained while a batch runs."""
    while before := fleet.running():
        is_drained = fleet.client.read().body.metrics.is_drained
        assert not (is_drained and before & fleet.running())


def assert_refused(output: str, word: str) -> None:
    """In one line of ours that has `word` in it, and without a traceback."""
    said = [line for line in output.splitlines() if "sluicegate: " in line and word.lower() in line.lower()]
    assert len(said) == 1, output
    assert "Traceback" not in output
