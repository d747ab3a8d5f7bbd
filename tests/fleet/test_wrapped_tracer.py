"""Libraries that wrap Celery's tracer, and the gate, beside each other: both in force, whichever is set up first."""

from __future__ import annotations

import pytest

from sluicegate.control.process.stack import Stack
from tests.fleet import wrapped_tracer
from tests.fleet.harness import Fleet
from tests.fleet.waiting import until
from tests.marks import long


@pytest.mark.parametrize("order", [wrapped_tracer.BEFORE, wrapped_tracer.AFTER])
@pytest.mark.parametrize("pool", ["prefork", "threads", long("gevent"), long("solo")])
def test_s1_s4_s5_beside_a_library_that_replaces_build_tracer_nothing_starts_in_a_pause_and_it_sees_every_run(
    stack: Stack, pool: str, order: str
) -> None:
    """As many transactions as runs, and in each only what its own task did."""
    with Fleet(stack, pool=pool, environ={wrapped_tracer.ORDER: order}) as fleet:
        fleet.watch()
        fleet.start(slots=1 if pool == "solo" else 2, module=wrapped_tracer.MODULE)
        fleet.wait_open()
        fleet.send_naps(60, 0.02)
        fleet.wait_started(10)
        fleet.pause()
        assert fleet.wait_drained().contents.queued
        fleet.resume()
        fleet.wait_done()
        verdict = fleet.check()
        # Each is written a moment after its task is done.
        lines = until("each run has its transaction", lambda: _all_of(60, str(fleet.records.path)), within_s=10)
        ran = {record.task_id for record in fleet.read_records()}
    assert verdict.broken == {}
    assert verdict.ended == 60
    assert sorted(lines) == sorted(f"{task_id}\tprerun {task_id}\trun {task_id}" for task_id in ran)


def _all_of(count: int, records: str) -> list[str]:
    path = wrapped_tracer.transactions_path(records)
    lines = path.read_text().splitlines() if path.exists() else []
    return lines if len(lines) >= count else []
