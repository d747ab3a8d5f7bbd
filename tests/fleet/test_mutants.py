"""The checker can fail: it passes the gate, and catches five gates that were broken on purpose."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import pytest
import redis

from sluicegate.control.process.stack import Stack
from sluicegate.schemas.names import hint_channel, snapshot_key
from sluicegate.schemas.settings import NAMESPACE, REDIS_URL
from tests.fleet import app as fleet_app
from tests.fleet.checker import Verdict
from tests.fleet.harness import Fleet
from tests.fleet.waiting import NotInTime, until

PAUSES = 12
Scenario = Callable[[Fleet, str], Verdict]

# A child that has its task takes a while to begin it: then a barrier has something to wait for.
SLOW_CHILDREN = {fleet_app.SLOW_START_MS: "10"}


def pausing_often(fleet: Fleet, module: str) -> Verdict:
    """A busy worker is paused until something breaks, at most twelve times."""
    fleet.start(module=module)
    fleet.wait_open()
    fleet.send_naps(200, 0.01)
    for pause in range(PAUSES):
        fleet.wait_started(10 * (pause + 1))
        fleet.pause()
        fleet.wait_drained()
        # What is late is late by milliseconds, and has come by now.
        fleet.resume()
        fleet.wait_open()
        verdict = fleet.check()
        if verdict.broken.keys() - {"lost"}:
            break
    fleet.wait_done()
    return fleet.check()


def an_old_state_put_back(fleet: Fleet, module: str) -> Verdict:
    """The signed state from before the pause is put back in Valkey while the control plane is away."""
    environ = fleet.stack.environ
    namespace = environ[NAMESPACE.name]
    fleet.start(module=module)
    fleet.wait_open()
    with redis.Redis.from_url(environ[REDIS_URL.name]) as state:
        old = state.execute_command("GET", snapshot_key(namespace))
        fleet.send_naps(60, 0.02)
        fleet.wait_started(5)
        fleet.pause()
        fleet.wait_drained()
        fleet.stack.kill_control()
        state.set(snapshot_key(namespace), old)
        state.publish(hint_channel(namespace), b"look")
        _give_it_time_to_start_something(fleet)
    fleet.stack.start_control()
    fleet.wait_acknowledged()
    fleet.resume()
    fleet.wait_done()
    return fleet.check()


def a_restart_while_paused(fleet: Fleet, module: str) -> Verdict:
    """A drained worker is killed and started again."""
    fleet.start(module=module)
    fleet.wait_open()
    fleet.send_naps(60, 0.02)
    fleet.wait_started(5)
    fleet.pause()
    fleet.wait_drained()
    (old,) = fleet.words()
    fleet.workers["w1"].kill()
    fleet.restart()
    until("the new life is seen", lambda: fleet.words()[0].incarnation != old.incarnation)
    fleet.wait_acknowledged()
    _give_it_time_to_start_something(fleet)
    fleet.resume()
    fleet.wait_done()
    return fleet.check()


def _give_it_time_to_start_something(fleet: Fleet) -> None:
    # A mutant does: the checker must see it for itself.
    with suppress(NotInTime):
        fleet.stays_still(for_s=1.5)


@pytest.mark.long
@pytest.mark.parametrize("scenario", [pausing_often, an_old_state_put_back, a_restart_while_paused])
def test_the_gate_itself_passes(stack: Stack, scenario: Scenario) -> None:
    """S1, S2, S4, S5, S6: each scenario that a mutant fails."""
    with Fleet(stack, environ=SLOW_CHILDREN) as fleet:
        fleet.watch()
        verdict = scenario(fleet, fleet_app.MODULE)
    assert verdict.broken == {}


@pytest.mark.long
@pytest.mark.parametrize(
    ("mutant", "scenario", "broken"),
    [
        ("no_lock", pausing_often, "starts after acknowledgement"),
        ("no_barrier", pausing_often, "starts after acknowledgement"),
        ("tail_requeue", pausing_often, "displaced"),
        ("no_fence", an_old_state_put_back, "starts after acknowledgement"),
        ("open_at_boot", a_restart_while_paused, "starts after acknowledgement"),
    ],
)
def test_the_checker_catches(stack: Stack, mutant: str, scenario: Scenario, broken: str) -> None:
    with Fleet(stack, environ=SLOW_CHILDREN) as fleet:
        fleet.watch()
        verdict = scenario(fleet, f"tests.fleet.mutants.{mutant}")
    assert broken in verdict.broken
