"""What a task costs in Redis and Postgres is what plain Celery costs: the gate writes nothing on the hot path."""

from __future__ import annotations

import pytest

from sluicegate.control.process.stack import Stack
from tests.bench.hot_path import PER_TASK, Cost, excess, measure
from tests.bench.throughput import wait_open
from tests.fleet import app as fleet_app
from tests.fleet.harness import Fleet

TASKS = 800
IDLE_S = 2.0


def cost_of(stack: Stack, *, plugin: bool = True, module: str = fleet_app.MODULE) -> Cost:
    with Fleet(stack, plugin=plugin) as fleet:
        fleet.start(module=module)
        wait_open(fleet)
        return measure(fleet, tasks=TASKS, idle_s=IDLE_S)


@pytest.mark.long
@pytest.mark.alone
def test_nothing_is_written_for_a_task_that_plain_celery_does_not_write(stack: Stack) -> None:
    """Beats, polls and keep-alives go by time and are taken off. A gate that tells Redis of every start is caught."""
    plain = cost_of(stack, plugin=False)
    assert plain.command_count > 5, "the monitor has seen Celery's own commands"
    ours = cost_of(stack)
    assert excess(ours, plain) == {}, (ours, plain)
    mutant = cost_of(stack, module="tests.fleet.mutants.writes_per_task")
    assert excess(mutant, plain) == {"INCRBY": pytest.approx(1, abs=PER_TASK)}, (mutant, plain)
