"""What a task costs in Redis and Postgres is what plain Celery costs: the gate writes nothing on the hot path."""

from __future__ import annotations

from sluicegate.control.stack import Stack
from tests.bench.figures import PER_TASK
from tests.bench.hot_path import Cost, measure
from tests.bench.throughput import wait_open
from tests.fleet import app as fleet_app
from tests.fleet.harness import Fleet

TASKS = 800
IDLE_S = 2.0


def cost_of(stack: Stack, *, plugin: bool = True, module: str = fleet_app.MODULE, tasks: int = TASKS) -> Cost:
    with Fleet(stack, plugin=plugin) as fleet:
        fleet.start(module=module)
        wait_open(fleet)
        return measure(fleet, tasks=tasks, idle_s=IDLE_S)


def test_nothing_is_written_for_a_task_that_plain_celery_does_not_write(stack: Stack) -> None:
    """Beats, polls and keep-alives go by time and are taken off; what is left differs by less than 1 in 100 tasks."""
    ours, plain = cost_of(stack), cost_of(stack, plugin=False)
    assert plain.command_count > 5, "the monitor has seen Celery's own commands"
    assert abs(ours.command_count - plain.command_count) < PER_TASK, (ours, plain)
    assert abs(ours.writes - plain.writes) < PER_TASK, (ours, plain)


def test_a_gate_that_tells_redis_of_every_start_is_caught(stack: Stack) -> None:
    """The measurement can fail: this gate is the same, but for one command a start."""
    found = cost_of(stack, module="tests.fleet.mutants.writes_per_task", tasks=200)
    assert abs(found.commands["INCRBY" if "INCRBY" in found.commands else "INCR"] - 1) < PER_TASK
