"""What stands in Redis, whoever put it there: read within bounds, never in the way of an order, nobody else's fault."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import text

from sluicegate.control.fleet import sightings
from sluicegate.control.links import state_redis
from sluicegate.control.links.state_redis import Bus
from sluicegate.schemas import names
from sluicegate.schemas.beats import MAX_BEAT_BYTES, RunningTask, WorkerState
from sluicegate.schemas.lives import Life
from sluicegate.schemas.progress import Sighting
from sluicegate.schemas.redis_urls import place_of
from sluicegate.schemas.settings import REDIS_MASTER_NAME, REDIS_URL
from sluicegate.schemas.snapshots import Edition
from tests.integration.test_fleet_progress import states
from tests.integration.world import PAUSE, RESUME, World

FORCED: dict[str, Any] = RESUME | {"forceResume": True}
PATH = "/api/system/worker-pause"
JUNK = (b'"pid":1e999', b'"pid":NaN', b'"pid":' + b"9" * 5000, b'"pid":' + b"[" * 50_000, b'"pid":"\\ud800"')


def remembered(world: World) -> list[str]:
    return [name for (name,) in world.sql("select nodename from workers order by 1")]


@pytest.mark.parametrize("junk", JUNK, ids=lambda junk: junk[:14].decode())
def test_a_bad_beat_stops_no_answer(world: World, junk: bytes) -> None:
    """It is that worker's: unknown, and can be forgotten."""
    plane = world.start()
    client = world.client(plane)
    beat = world.beat("celery@bad")
    world.leave("celery@bad", beat.encode().replace(b'"pid":1', junk))
    world.beat("celery@good")
    answers = [
        client.post(PATH, json=PAUSE),
        client.get(PATH),
        client.get("/api/workers"),
        client.get(f"{PATH}/preview", params={"scope": "global"}),
        client.post(PATH, json=FORCED),
    ]
    assert [answer.status_code for answer in answers] == [200] * 5
    assert {one["nodename"]: one["state"] for one in answers[2].json()["workers"]} == {
        "celery@bad": "unknown",
        "celery@good": "running",
    }
    assert answers[0].json()["published"] is True
    assert client.post("/api/workers/celery@bad/forget", json={"reason": "bad"}).status_code == 200


def test_a_task_id_that_cannot_be_stored_costs_nobody_their_memory(world: World) -> None:
    """Whoever sends a task chooses its id. What is remembered is asked of a Redis that was wiped."""
    plane = world.replica()
    world.beat("celery@bad", running=(RunningTask(id="a\0b", name="\ud800" * 3000),))
    world.beat("celery@good")
    plane.fleet.fold()
    world.redis.delete(names.beats_key(world.namespace))
    assert states(plane) == {"celery@bad": "running", "celery@good": "running"}
    assert world.read(plane)["metrics"]["running"] == 1


@pytest.mark.parametrize("nodename", ["w" * 5000 + "@h", "w" * 600 + "@h", "a\0b@h", "\x1b[2J@h"])
def test_a_nodename_that_cannot_be_stored_is_shown_and_can_be_forgotten(world: World, nodename: str) -> None:
    """By the name that it is shown by; the others are remembered all the same."""
    plane = world.replica()
    world.beat(nodename)
    world.beat("celery@good")
    plane.fleet.fold()
    assert "celery@good" in remembered(world)
    (shown,) = {worker.beat.nodename for worker in plane.parts.reading.workers()} - {"celery@good"}
    assert len(shown) <= 255
    world.redis.zadd(names.beats_key(world.namespace), {nodename: 1.0})
    world.sql("update workers set last_seen_at = 'epoch'")
    plane.fleet.forget(shown, reason="no worker of ours", actor="alice")
    assert shown not in states(plane)


def test_a_row_that_is_refused_costs_no_other_its_own(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """Whatever made it so: the edge is the first wall, and this is the second."""
    plane = world.replica()
    beats = [world.beat(name) for name in ("celery@a", "celery@b", "celery@c")]
    beats[1] = replace(beats[1], running=(RunningTask(id="a\0b", name="app.work"),))
    now = datetime.now(UTC)
    fleet = [[Life(sighting=Sighting(beat=beat, seen_at=now))] for beat in beats]
    with plane.database.transaction() as connection:
        sightings.fold(connection, world.namespace, fleet, now, 5_000)
    assert remembered(world) == ["celery@a", "celery@c"]
    assert "celery@b" in caplog.text


def test_a_row_that_cannot_be_read_is_an_unknown_worker(world: World) -> None:
    """Another version may have written it; it is no reason to know nothing of the others."""
    plane = world.replica()
    world.beat("celery@bad")
    world.beat("celery@good")
    plane.fleet.fold()
    world.sql("""update workers set beat = beat || '{"pid": -1}' where nodename = 'celery@bad'""")
    world.redis.delete(names.beats_key(world.namespace))
    assert states(plane)["celery@good"] == "running"
    assert world.read(plane)["metrics"]["isDrained"] is False


def test_a_beat_that_is_too_large_is_counted_and_not_read(world: World) -> None:
    """Its worker is unknown, nothing is drained, and whoever pauses is told."""
    plane = world.replica()
    world.leave("celery@huge", b"x" * (MAX_BEAT_BYTES + 1))
    world.beat("celery@good", state=WorkerState.PAUSED, applied=Edition(1, 2))
    answer = world.change(plane, **PAUSE)
    assert answer["metrics"]["unread"] == 1
    assert any("1 heartbeats are too many or too large" in warning for warning in answer["warnings"])
    assert states(plane) == {"celery@good": "paused", "celery@huge": "unknown"}
    assert world.read(plane)["metrics"]["isDrained"] is False


def test_all_beats_together_have_a_bound(world: World) -> None:
    """Each of them may be small enough."""
    bus = Bus(place_of(world.redis_url, REDIS_URL, None, REDIS_MASTER_NAME), world.namespace, most_workers=3)
    long = "x" * (state_redis.MEAN_BEAT_BYTES * 3 // 2 - 900)
    for name in "abc":
        world.beat(f"celery@{name}", labels={long[i : i + 200] + str(i): "" for i in range(0, len(long), 200)})
    found = bus.heartbeats()
    bus.close()
    assert (found.unread, sum(one.raw is None for one in found.heard)) == (1, 1)


@pytest.mark.parametrize("age_s", [0.0, -1e9], ids=["now", "in the future"])
def test_more_entries_than_are_read_hide_nobody_who_is_known(world: World, age_s: float) -> None:
    """They are counted; who was known before they came is still heard, and the memory does not grow."""
    plane = world.replica(SLUICEGATE_MAX_WORKERS="20")
    world.beat("celery@good", age_s=1, state=WorkerState.PAUSED)
    plane.fleet.fold()
    for number in range(50):
        world.beat(f"junk@{number}", age_s=age_s, is_goodbye=True)
    world.beat("celery@good", age_s=0.5, state=WorkerState.PAUSING)
    seen = world.read(plane)["metrics"]
    assert states(plane)["celery@good"] == "pausing"
    assert seen["unread"] >= 50 - 20
    assert seen["isDrained"] is False
    plane.fleet.fold()
    assert len(remembered(world)) <= 20
    world.sql("delete from workers where nodename <> 'celery@good'")
    world.redis.delete(names.beats_key(world.namespace))
    assert states(plane) == {"celery@good": "pausing"}, "what it said last was not folded"


def test_what_is_remembered_beyond_the_bound_is_counted(world: World) -> None:
    """An older version may have remembered more: nobody may call that drained."""
    plane = world.replica()
    for number in range(5):
        world.beat(f"w@{number}", is_goodbye=True)
    plane.fleet.fold()
    plane = world.replica(SLUICEGATE_MAX_WORKERS="3")
    world.redis.delete(names.beats_key(world.namespace))
    metrics = world.read(plane)["metrics"]
    assert (metrics["unread"], metrics["isDrained"]) == (2, False)


def test_an_order_waits_for_no_look(world: World) -> None:
    """The memory of the fleet is locked away: a pause and a forced resume are stored, published and answered."""
    plane = world.replica()
    world.beat("celery@a")
    with world.connected_as_control() as connection, ThreadPoolExecutor(1) as pool:
        connection.execute(text("lock table workers in row exclusive mode"))
        connection.execute(text("select 1"))
        # What reads it waits for this one, and this one for the first.
        blocked = pool.submit(world.sql, "lock table workers in access exclusive mode")
        time_limit = time.monotonic() + 10
        while not world.sql("select 1 from pg_locks where not granted"):
            assert time.monotonic() < time_limit
        begun_at = time.monotonic()
        paused = world.change(plane, **PAUSE)
        resumed = world.change(plane, **FORCED)
        took_s = time.monotonic() - begun_at
        connection.rollback()
        blocked.result()
    assert (paused["outcome"], paused["published"]) == ("applied", True)
    assert (resumed["outcome"], resumed["published"]) == ("applied", True)
    assert paused["metrics"]["metricsSource"] == resumed["metrics"]["metricsSource"] == "unavailable"
    assert paused["metrics"]["isDrained"] is False
    assert took_s < 4, "the looks were waited for"
    snapshot = world.published()
    assert snapshot is not None
    assert not snapshot.holds.active
