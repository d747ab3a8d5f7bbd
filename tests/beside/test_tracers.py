"""Libraries that watch each task from inside its worker: they see every run, and whose it was."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from sluicegate.control.process.stack import Stack
from tests.beside import drills
from tests.beside.collector import sentry_events
from tests.beside.fleet import BesideFleet
from tests.beside.libraries import DDTRACE, NEWRELIC, OTEL, PYBRAKE, SENTRY, Library
from tests.beside.told import Told

ORDERS = ("before", "after")


def in_order(library: Library, order: str) -> Library:
    """Initialised before the plugin is installed, or after it."""
    return replace(library, environ={**library.environ, "BESIDE_ORDER": order})


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_sentry_reports_every_run_and_no_report_has_anything_of_another_task(
    stack: Stack, told: Told, pool: str, order: str
) -> None:
    """One transaction a run; of an error its own task's id, tag and breadcrumbs, and no more."""
    with BesideFleet(stack, in_order(SENTRY, order), pool=pool) as fleet:
        fleet.begin()
        failing = set(fleet.send_work(20, "fleet.fails"))
        fleet.send_work(40)
        drills.hold_midway(fleet)
        drills.quiesce_midway(fleet)
        drills.judged(fleet)
        ids = {record.task_id: record.seq for record in fleet.read_records()}
        wanted = Counter(transaction=drills.runs_of(fleet), event=len(failing))
        fleet.workers["w1"].stop()
        fleet.wait_own_work(wanted)
        assert fleet.own_work() == wanted
        errors = [event for event in sentry_events(fleet.collector.received) if event["type"] == "event"]
    assert {ids[error["tags"]["celery_task_id"]] for error in errors} == failing
    for error in errors:
        seq = ids[error["tags"]["celery_task_id"]]
        assert error["tags"]["seq"] in (seq, str(seq))
        crumbs = [crumb["message"] for crumb in error["breadcrumbs"]["values"]]
        assert [crumb for crumb in crumbs if crumb.startswith("seq ")] == [f"seq {seq}"]
    told(SENTRY, f"{pool}, initialised {order} the plugin", f"{wanted['transaction']} transactions of as many runs")


@pytest.mark.parametrize("order", ORDERS)
def test_pybrake_reports_every_error_once(stack: Stack, told: Told, order: str) -> None:
    with BesideFleet(stack, in_order(PYBRAKE, order)) as fleet:
        fleet.begin()
        failing = set(fleet.send_work(20, "fleet.fails"))
        fleet.send_work(40)
        drills.hold_midway(fleet)
        drills.judged(fleet)
        wanted = Counter(notice=len(failing))
        fleet.wait_own_work(wanted)
        assert fleet.own_work() == wanted
    told(PYBRAKE, f"prefork, initialised {order} the plugin", "20 notices of 20 errors")


@pytest.mark.parametrize("library", [OTEL, DDTRACE, NEWRELIC], ids=lambda library: library.name)
@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_a_tracer_sees_every_run_and_takes_none_that_yields_for_an_error(
    stack: Stack, told: Told, pool: str, library: Library
) -> None:
    with BesideFleet(stack, library, pool=pool) as fleet:
        fleet.begin()
        drills.drain_midway(fleet)
        drills.quiesce_midway(fleet)
        drills.judged(fleet)
        kind = "transaction" if library is NEWRELIC else "span"
        wanted = Counter({kind: drills.runs_of(fleet)})
        fleet.wait_own_work(wanted)
        assert fleet.own_work() == wanted
    told(library, pool, f"{wanted[kind]} {kind}s of as many runs")
