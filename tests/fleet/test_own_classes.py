"""Classes that users and their libraries add to a worker: strategies, pools, consumer steps, batches."""

from __future__ import annotations

import sys

import pytest

from sluicegate.control.process.stack import Stack
from sluicegate.schemas.api.workers import WorkerBody
from tests.fleet import app_classes
from tests.fleet.harness import Feeder, Fleet
from tests.fleet.waiting import until
from tests.marks import long

MODULE = app_classes.__name__
SLOTS = {"prefork": 2, "threads": 2, "gevent": 2, "solo": 1}
pools = pytest.mark.parametrize("pool", ["prefork", *map(long, ["threads", "gevent", "solo"])])


@pools
@pytest.mark.parametrize("added", ["strategy", long("late_strategy")])
def test_a_task_that_hands_over_by_its_own_strategy_is_refused_in_one_line(stack: Stack, pool: str, added: str) -> None:
    """Also one that is registered only after the worker was made: it takes no message."""
    with Fleet(stack, pool=pool, environ={app_classes.ADDED: added}) as fleet:
        fleet.send("own_strategy")
        command = [sys.executable, "-m", "celery", "-A", MODULE, "worker", "-P", pool, "-c", "1", "-Q", fleet.queue]
        ended = fleet.run([*command, "-n", "w1@refused"])
        assert ended.returncode == 2
        (line,) = [line for line in ended.stderr.splitlines() if "fleet.own_strategy hands" in line]
        # Once Celery has set up its log, a line of stderr goes there.
        assert "sluicegate: task: " in line
        assert "Traceback" not in ended.stderr
        assert "started" not in ended.stdout
        assert len(fleet.contents().queued) == 1


@pytest.mark.parametrize("pool", ["tests.fleet.app_classes:AsyncPool"])
def test_a_pool_that_inherits_from_one_that_is_held_is_refused_in_one_line(stack: Stack, pool: str) -> None:
    with Fleet(stack, environ={"CELERY_CUSTOM_WORKER_POOL": pool}) as fleet:
        fleet.send_naps(1, 0.001)
        command = [sys.executable, "-m", "celery", "-A", MODULE, "worker", "-P", "custom", "-Q", fleet.queue]
        ended = fleet.run([*command, "-n", "w1@refused"])
        assert ended.returncode == 2
        (line,) = [line for line in ended.stderr.splitlines() if "AsyncPool" in line]
        assert line.startswith(f"sluicegate: worker_pool: {MODULE}.AsyncPool is not supported: use prefork")
        assert "Traceback" not in ended.stderr
        assert len(fleet.contents().queued) == 1


@pools
def test_s1_s5_s6_l3_batches_drain_and_resume(stack: Stack, pool: str) -> None:
    """What is gathered goes back in its order, what is handed over has begun or comes back, over several pauses."""
    pytest.importorskip("celery_batches")
    with Fleet(stack, pool=pool, prefetch=10, environ={app_classes.ADDED: "batches"}) as fleet:
        fleet.watch()
        fleet.start(slots=SLOTS[pool], module=MODULE, environ={app_classes.HANDLED_S: "0.05"})
        fleet.wait_open()

        def send(count: int) -> None:
            for _ in range(count):
                fleet.send("batch")

        with Feeder(fleet, low=60, send=send):
            for _ in range(3):
                fleet.wait_more_started(20)
                fleet.pause()
                assert fleet.wait_drained().contents.queued
                # Longer than what was gathered would lie there before it is handed over.
                fleet.stays_still(for_s=1.5)
                fleet.resume()
        fleet.wait_done()
        verdict = fleet.check()
    assert verdict.broken == {}
    assert verdict.ended == len(fleet.sent)


@pools
def test_l4_a_batch_that_runs_is_told_as_running_until_it_ends(stack: Stack, pool: str) -> None:
    pytest.importorskip("celery_batches")
    with Fleet(stack, pool=pool, environ={app_classes.ADDED: "batches"}) as fleet:
        fleet.watch()
        fleet.start(slots=SLOTS[pool], module=MODULE, environ={app_classes.HANDLED_S: "5"})
        fleet.wait_open()
        for _ in range(7):
            fleet.send("batch")
        fleet.wait_started(5)
        fleet.pause()
        if pool != "solo":
            fleet.wait_acknowledged()
            assert {task.name for task in told_of(fleet).running} == {"fleet.batch"}
            assert not fleet.ended()
        fleet.wait_acknowledged()
        until("nothing is told as running", lambda: fleet.words()[0].running == 0)
        assert fleet.ended() == fleet.started()
        fleet.resume()
        fleet.wait_done()


@pools
def test_a_consumer_step_that_asks_nobody_goes_on_and_is_named(stack: Stack, pool: str) -> None:
    with Fleet(stack, pool=pool, environ={app_classes.ADDED: "events"}) as fleet:
        fleet.watch()
        fleet.start(slots=SLOTS[pool], module=MODULE)
        fleet.wait_open()
        answer = fleet.client.pause(mode="drain", reason="look").body
        send_events(fleet, 5)
        fleet.wait_started(5)
        worker = told_of(fleet)
        log = fleet.workers["w1"].process.output
    named = f"{MODULE}.Events"
    assert worker.beside == [named]
    assert [line for line in answer.warnings if named in line]
    assert named in log


@pools
def test_s1_s5_s6_l3_a_consumer_step_that_asks_begins_nothing_in_a_pause_and_goes_on_after_it(
    stack: Stack, pool: str
) -> None:
    """Twenty-five messages, of which some come before the pause and some in it."""
    with Fleet(stack, pool=pool, environ={app_classes.ADDED: "asking_events"}) as fleet:
        fleet.watch()
        fleet.start(slots=SLOTS[pool], module=MODULE, environ={app_classes.HANDLED_S: "0.02"})
        fleet.wait_open()
        send_events(fleet, 20)
        fleet.wait_started(3)
        fleet.pause()
        fleet.wait_acknowledged()
        send_events(fleet, 5)
        fleet.stays_still(for_s=1.0)
        begun = len(fleet.started())
        worker = told_of(fleet)
        assert worker.beside == []
        assert begun < 20
        fleet.resume()
        until("all are done", lambda: fleet.ended() == {sent.seq for sent in fleet.sent})
        verdict = fleet.check()
    assert verdict.broken == {}


def told_of(fleet: Fleet) -> WorkerBody:
    """What the control plane says of the one worker of `fleet`."""
    (name,) = (worker.nodename for worker in fleet.workers.values())
    (told,) = (worker for worker in fleet.client.workers().body.workers if worker.nodename == name)
    return told


def send_events(fleet: Fleet, number: int) -> None:
    """Messages for the consumer steps of the app."""
    with fleet.sender.producer_pool.acquire(block=True) as producer:
        for _ in range(number):
            fleet.note_sent(
                lambda seq: producer.publish({"seq": seq}, routing_key=f"{fleet.queue}-events", serializer="json")
            )
