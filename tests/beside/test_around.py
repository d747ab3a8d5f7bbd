"""What stands around a worker: where results go, who sends on a schedule, who listens to its events."""

from __future__ import annotations

from collections import Counter

import pytest

from sluicegate.control.process.stack import Stack
from tests.beside import drills
from tests.beside.fleet import BesideFleet
from tests.beside.flower_page import get
from tests.beside.libraries import AIRFLOW, DJANGO, DJANGO_BEAT, FLOWER, REDBEAT, Library
from tests.beside.processes import flower, running
from tests.beside.told import Told
from tests.fleet.waiting import until

SCHEDULERS = {"django-celery-beat": "django", "celery-redbeat": "redbeat.RedBeatScheduler"}


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_django_has_a_row_of_every_result(stack: Stack, told: Told, pool: str) -> None:
    with BesideFleet(stack, DJANGO, pool=pool) as fleet:
        fleet.begin()
        drills.drain_midway(fleet)
        drills.quiesce_midway(fleet)
        drills.judged(fleet)
        fleet.wait_own_work(Counter(SUCCESS=drills.TASKS))
        assert fleet.own_work()["SUCCESS"] == drills.TASKS
        assert "FAILURE" not in fleet.own_work()
    told(DJANGO, pool, f"{drills.TASKS} rows of as many results")


@pytest.mark.parametrize("library", [DJANGO_BEAT, REDBEAT], ids=lambda library: library.name)
def test_a_beat_sends_on_in_a_pause_and_what_it_sent_runs_once_when_that_is_over(
    stack: Stack, told: Told, library: Library
) -> None:
    with BesideFleet(stack, library) as fleet:
        ticks = f"{fleet.queue}-ticks"
        fleet.begin(arguments=("-Q", f"{fleet.queue},{ticks}"))
        with running(fleet, "beat", "beat", "-S", SCHEDULERS[library.name], "-l", "INFO", "--pidfile="):
            until("beat sends", lambda: fleet.own_work()["tick"] >= 2)
            fleet.send_work(drills.TASKS)
            fleet.wait_started(10)
            fleet.pause()
            drained = fleet.wait_drained()
            until("beat goes on sending", lambda: fleet.redis.llen(ticks) >= 5)
            resumed = fleet.resume()
            fleet.wait_done()
            more = fleet.own_work()["tick"] + 5
            until("and so do its tasks", lambda: fleet.own_work()["tick"] >= more)
        until("all that it sent is done", lambda: not fleet.redis.llen(ticks) and not fleet.count_unacked())
        verdict = drills.judged(fleet)
        ran = [tuple(note.split()) for kind, note in fleet.witnessed() if kind == "tick"]
        sent = (fleet.directory / "beat.log").read_text().count("Sending due task")
        sent = sent or (fleet.directory / "beat.log").read_text().count("Sending tick")
    acknowledged_us = drained.at_us
    assert [at for at, _ in ran if acknowledged_us < int(at) < resumed.at_us] == []
    assert len({task_id for _, task_id in ran}) == len(ran) == sent
    assert verdict.ended == drills.TASKS
    told(library, "prefork", "every tick that was sent ran once, none in the pause")


def test_flower_hears_of_every_task_and_shows_the_paused_worker(stack: Stack, told: Told) -> None:
    with BesideFleet(stack, FLOWER) as fleet:
        with flower(fleet) as address:
            fleet.watched_at = address
            worker = fleet.begin()
            until("Flower knows the worker", lambda: worker.nodename.encode() in (get(f"{address}/workers") or b""))
            fleet.send_work(drills.TASKS)
            fleet.wait_started(10)
            fleet.pause()
            fleet.wait_drained()
            assert worker.nodename.encode() in (get(f"{address}/workers") or b"")
            fleet.resume()
            fleet.wait_done()
            fleet.wait_own_work(Counter(SUCCESS=drills.TASKS))
            assert fleet.own_work() == Counter(SUCCESS=drills.TASKS)
        drills.judged(fleet)
    told(FLOWER, "prefork", f"{drills.TASKS} of {drills.TASKS} tasks shown as done")


def test_airflows_worker_runs_every_workload_and_keeps_its_result(stack: Stack, told: Told) -> None:
    """The provider's own app, settings and task; late acknowledgement, as it has it."""
    with BesideFleet(stack, AIRFLOW, acks_late=True) as fleet:
        fleet.begin()
        drills.drain_midway(fleet)
        drills.judged(fleet)
        fleet.wait_own_work(Counter(SUCCESS=drills.TASKS))
        assert fleet.own_work() == Counter(SUCCESS=drills.TASKS)
    told(AIRFLOW, "prefork", f"{drills.TASKS} workloads of as many, each with its result")
