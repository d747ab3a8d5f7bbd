"""Nobody is in the scope of an order, or somebody consumes who is not heard: it is said, wherever somebody looks."""

from __future__ import annotations

import pytest

from sluicegate.schemas.beats import WorkerState
from sluicegate.schemas.snapshots import Edition
from tests.integration.world import PAUSE, RESUME, World


def test_a_pause_that_nobody_hears_says_so_and_so_does_its_receipt(world: World) -> None:
    plane = world.replica()
    answer = world.change(plane, **PAUSE)
    assert any("no worker is known here" in line for line in answer["warnings"])
    assert answer["metrics"]["workers"] == 0
    plane.draining.follow()
    (event,) = world.events(action="drain_completed")
    assert (event["details"]["isEmpty"], event["details"]["workers"]) == (True, [])
    # Whom it stops from working is nobody: it may be lifted without force.
    assert world.change(plane, **RESUME)["outcome"] == "applied"


def test_a_pause_of_a_scope_that_nobody_is_in_says_so(world: World) -> None:
    plane = world.replica()
    world.beat("celery@a", queues=("celery",))
    answer = world.change(plane, **PAUSE, scope="queue:reports")
    assert answer["warnings"] == ["no worker is in queue:reports now; one that comes will obey"]


@pytest.mark.parametrize("is_anybody_heard", [True, False])
def test_who_answers_celery_and_is_not_heard_is_told_of_everywhere(world: World, is_anybody_heard: bool) -> None:
    plane = world.replica()
    plane.fleet._answers = lambda: {"celery@mute": frozenset({"celery"}), "celery@a": frozenset({"celery"})}
    if is_anybody_heard:
        world.beat("celery@a", queues=("celery",))
    told = ["celery@mute"] if is_anybody_heard else ["celery@a", "celery@mute"]
    answer = world.change(plane, **PAUSE)
    assert answer["metrics"]["strangers"] == told
    assert any("celery@mute consume" in line for line in answer["warnings"])
    assert world.read(plane)["metrics"]["strangers"] == told
    if is_anybody_heard:
        world.beat("celery@a", queues=("celery",), state=WorkerState.PAUSED, applied=Edition(1, 2))
    plane.draining.follow()
    (event,) = world.events(action="drain_completed")
    assert event["details"]["strangers"] == told
    (hold,) = answer["system"]["holds"]
    client = world.client(world.start(), "viewer")
    receipt = client.get(f"/api/holds/{hold['id']}").json()["drains"][0]["receipt"]
    assert (receipt["strangers"], receipt["isEmpty"]) == (told, not is_anybody_heard)
