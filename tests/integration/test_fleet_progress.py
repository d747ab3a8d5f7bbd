"""The way back: what the control plane makes of heartbeats (R-C3, R-C4)."""

from __future__ import annotations

import pytest
from kombu import Connection

from sluicegate.control.embedded import EmbeddedValkey
from sluicegate.control.process.plane import ControlPlane
from sluicegate.schemas import names
from sluicegate.schemas.beats import RunningTask, WorkerState
from sluicegate.schemas.errors import NotFound, Unavailable
from sluicegate.schemas.snapshots import Edition
from tests.integration.world import PAUSE, World, eventually

WORK = (RunningTask(id="t1", name="app.work"),)


def states(plane: ControlPlane) -> dict[str, str]:
    return {worker.beat.nodename: str(worker.state) for worker in plane.parts.reading.workers()}


def test_a_wiped_redis_does_not_make_workers_look_gone(world: World) -> None:
    """They go on counting with the time they were last seen, and become unknown (L4)."""
    plane = world.replica(SLUICEGATE_LEASE_S="1")
    world.beat("celery@a", running=WORK)
    plane.fleet.fold()
    for key in world.redis.scan_iter(f"sluicegate:{world.namespace}:*"):
        world.redis.delete(key)
    eventually(lambda: states(plane) == {"celery@a": "unknown"})
    metrics = world.read(plane)["metrics"]
    assert (metrics["running"], metrics["staleRunning"], metrics["isDrained"]) == (1, 1, False)


def test_the_newest_word_of_a_worker_counts(world: World) -> None:
    """A heartbeat that is older than what is remembered changes nothing."""
    plane = world.replica()
    world.beat("celery@a", incarnation="new", state=WorkerState.PAUSED)
    plane.fleet.fold()
    world.beat("celery@a", incarnation="old", age_s=3)
    plane.fleet.fold()
    (worker,) = world.workers(plane)
    assert (worker["incarnation"], worker["state"]) == ("new", "paused")


def test_beats_count_after_the_clock_of_redis_was_set_back(world: World) -> None:
    """What is remembered has two hours to come yet: it is overwritten all the same, and keeps nobody alive (L4)."""
    plane = world.replica()
    world.beat("celery@a", incarnation="before")
    world.beat("celery@gone-silent", incarnation="before")
    plane.fleet.fold()
    world.sql("update workers set last_seen_at = last_seen_at + interval '2 hours'")
    world.redis.zrem(names.beats_key(world.namespace), "celery@gone-silent")
    world.beat("celery@a", incarnation="after", state=WorkerState.PAUSED)
    assert states(plane) == {"celery@a": "paused", "celery@gone-silent": "unknown"}
    plane.fleet.fold()
    assert world.sql("select incarnation from workers where nodename = 'celery@a'") == [("after",)]


def test_a_worker_whose_words_cannot_be_read_is_unknown(world: World) -> None:
    """Not left out: it would look quiet. It can be forgotten like any silent one."""
    plane = world.replica()
    world.leave("celery@odd", b"\xff")
    assert states(plane) == {"celery@odd": "unknown"}
    assert world.read(plane)["metrics"]["isDrained"] is False
    plane.fleet.forget("celery@odd", reason="of another version", actor="alice")
    assert states(plane) == {}
    with pytest.raises(NotFound):
        plane.fleet.forget("celery@odd", reason="again", actor="alice")


def test_a_time_from_the_future_does_not_keep_a_worker_alive(world: World) -> None:
    """Whoever can write to Redis can write any score."""
    plane = world.replica()
    world.beat("celery@a", age_s=-1e9)
    assert states(plane) == {"celery@a": "unknown"}
    world.redis.zadd(names.beats_key(world.namespace), {"celery@a": float("inf")})
    assert states(plane) == {"celery@a": "unknown"}


def test_a_goodbye_is_gone_and_leaves_the_list_after_an_hour(world: World) -> None:
    """It does not block drained."""
    plane = world.replica()
    world.beat("celery@a", is_goodbye=True)
    assert states(plane) == {"celery@a": "gone"}
    assert world.read(plane)["metrics"]["isDrained"] is True
    world.beat("celery@a", is_goodbye=True, age_s=3601)
    assert states(plane) == {}


def test_drained_needs_every_worker_at_the_ordered_version(world: World) -> None:
    """R-C4."""
    plane = world.replica()
    world.change(plane, **PAUSE)
    world.beat("celery@a", state=WorkerState.PAUSED, applied=Edition(1, 2))
    world.beat("celery@b", state=WorkerState.PAUSED, applied=Edition(1, 1))
    assert world.read(plane)["metrics"]["isDrained"] is False
    world.beat("celery@b", state=WorkerState.PAUSED, applied=Edition(1, 2), running=WORK)
    assert world.read(plane)["metrics"]["isDrained"] is False
    world.beat("celery@b", state=WorkerState.PAUSED, applied=Edition(1, 2))
    assert world.read(plane)["metrics"]["isDrained"] is True


def test_an_unreadable_redis_is_never_drained(world: World, valkey: EmbeddedValkey) -> None:
    """`metricsSource:"unavailable"`; the workers known from before are still listed."""
    plane = world.replica()
    world.beat("celery@a", state=WorkerState.PAUSED)
    plane.fleet.fold()
    valkey.stop()
    try:
        metrics = world.read(plane)["metrics"]
        listed = states(plane)
    finally:
        valkey.start()
    assert (metrics["metricsSource"], metrics["isDrained"], metrics["queued"]) == ("unavailable", False, None)
    assert list(listed) == ["celery@a"]


def test_queued_is_the_depth_of_the_queues_that_workers_consume(world: World) -> None:
    """All priorities of them; a queue that is not there yet counts as empty."""
    plane = world.replica()
    mine, other = f"{world.namespace}-q", f"{world.namespace}-other"
    with Connection(world.redis_url) as connection:
        for priority in (0, 6, 9):
            connection.SimpleQueue(mine).put({"n": priority}, priority=priority)
        connection.SimpleQueue(other).put({"n": 1})
    world.beat("celery@a", queues=(mine, f"{world.namespace}-missing"))
    metrics = world.read(plane)["metrics"]
    assert (metrics["queued"], metrics["metricsSource"]) == (3, "broker")


@pytest.mark.parametrize(("key_prefix", "queued"), [("app:", 3), ("", 0)])
def test_queues_behind_a_prefix_are_counted_where_the_prefix_is_known(
    world: World, key_prefix: str, queued: int
) -> None:
    """Celery's `global_keyprefix`; without it the same queue is another one, and empty."""
    plane = world.replica(SLUICEGATE_BROKER_KEY_PREFIX=key_prefix)
    name = f"{world.namespace}-q"
    with Connection(world.redis_url, transport_options={"global_keyprefix": "app:"}) as connection:
        for number in range(3):
            connection.SimpleQueue(name).put(number)
    world.beat("celery@a", queues=(name,))
    assert world.read(plane)["metrics"]["queued"] == queued


def test_an_unreadable_broker_is_never_drained(world: World) -> None:
    """A figure that cannot be had is not made up."""
    plane = world.replica(SLUICEGATE_BROKER_URL="redis://127.0.0.1:1/0")
    world.beat("celery@a", queues=("q",))
    metrics = world.read(plane)["metrics"]
    assert (metrics["metricsSource"], metrics["isDrained"], metrics["queued"]) == ("unavailable", False, None)


def test_rows_of_workers_that_left_are_let_go_after_a_week(world: World) -> None:
    """Those that fell silent stay: nobody said that they are done."""
    plane = world.replica()
    week_s = 8 * 86_400
    world.beat("celery@done", is_goodbye=True, age_s=week_s)
    world.beat("celery@silent", age_s=week_s)
    plane.fleet.fold()
    plane.fleet.purge()
    assert [row[0] for row in world.sql("select nodename from workers")] == ["celery@silent"]


@pytest.mark.parametrize("words", ["a heartbeat", "what nobody can read"])
def test_who_was_forgotten_stays_so_for_as_long_as_redis_tells_of_it(world: World, words: str) -> None:
    """L4 is about those that may be running. This one was given up on record; a week later it blocked every drain."""
    plane = world.replica()
    world.beat("celery@dead", age_s=8 * 86_400)
    if words != "a heartbeat":
        world.leave("celery@dead", b"{", age_s=8 * 86_400)
    plane.fleet.forget("celery@dead", reason="the host is gone", actor="alice")
    world.change(plane, **PAUSE)
    world.beat("celery@a", state=WorkerState.PAUSED, applied=Edition(1, 2))
    for _ in range(2):
        plane.fleet.fold()
        plane.fleet.purge()
        assert states(plane) == {"celery@a": "paused"}
        assert world.read(plane)["metrics"]["isDrained"] is True
    world.redis.flushdb()
    plane.fleet.purge()
    assert [row[0] for row in world.sql("select nodename from workers")] == ["celery@a"]
    # It comes back as any worker does.
    world.beat("celery@dead")
    assert states(plane)["celery@dead"] == "running"


def test_rows_of_the_forgotten_stay_while_redis_cannot_be_asked(world: World, valkey: EmbeddedValkey) -> None:
    """Whether it still tells of them is not known."""
    plane = world.replica()
    world.beat("celery@dead", age_s=8 * 86_400)
    plane.fleet.forget("celery@dead", reason="the host is gone", actor="alice")
    valkey.stop()
    try:
        with pytest.raises(Unavailable):
            plane.fleet.purge()
    finally:
        valkey.start()
    assert len(world.sql("select 1 from workers")) == 1
