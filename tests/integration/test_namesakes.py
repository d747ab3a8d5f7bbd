"""Several lives of one nodename, as their hearts leave them and the control plane remembers them (L4, R-C3)."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from sluicegate.control.links.redis_acl import worker_rules
from sluicegate.control.process.plane import ControlPlane
from sluicegate.schemas import names
from sluicegate.schemas.adapters.redis_client import connect
from sluicegate.schemas.beats import Beat, RunningTask, WorkerState
from sluicegate.schemas.errors import Refused
from sluicegate.schemas.redis_urls import server_at
from sluicegate.schemas.scopes import GLOBAL
from sluicegate.schemas.snapshots import Edition
from sluicegate.workers.heart import Heart
from sluicegate.workers.memory import Memory
from tests.integration.world import PAUSE, World, eventually

W = "celery@a"
WORK = (RunningTask(id="t1", name="app.work"),)
EVERY_S = 0.05


def heart(world: World, incarnation: str, state_dir: Path, **fields: Any) -> Heart:
    """That of a worker with a life of its own; it begins to beat with `start()`."""

    def compose(seq: int, is_goodbye: bool) -> Beat:
        values: dict[str, Any] = {"state": WorkerState.PAUSED, "applied": Edition(1, 2), "applied_at": None} | fields
        if is_goodbye:
            values["running"] = ()
        return Beat(
            nodename=W,
            incarnation=incarnation,
            host="a",
            pool="prefork",
            pid=1,
            seq=seq,
            sent_at=datetime.now(UTC),
            is_goodbye=is_goodbye,
            ended=(),
            **values,
        )

    return Heart(
        namespace=world.namespace,
        nodename=W,
        interval_s=EVERY_S,
        connect=lambda: connect(server_at(world.redis_url, "redis")),
        compose=compose,
        memory=Memory(state_dir, world.namespace, W),
    )


@contextmanager
def beating(heart: Heart) -> Iterator[Heart]:
    heart.start()
    try:
        yield heart
    finally:
        heart.say_goodbye()


def states(plane: ControlPlane) -> dict[str, tuple[str, int]]:
    """Of each life its state, and how many namesakes it has."""
    return {worker.beat.incarnation: (str(worker.state), worker.namesakes) for worker in plane.parts.reading.workers()}


BOTH = {"old": ("paused", 1), "new": ("paused", 1)}


def test_l4_both_lives_are_seen_at_every_look_and_nothing_is_drained(
    world: World, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Whichever beat last. Each of them says that there is another; a goodbye ends it."""
    plane = world.replica()
    world.change(plane, **PAUSE)
    with beating(heart(world, "old", tmp_path, running=WORK)) as old:
        eventually(lambda: states(plane) == {"old": ("paused", 0)})
        with beating(heart(world, "new", tmp_path)):
            eventually(lambda: states(plane) == BOTH)
            for _ in range(50):
                assert (states(plane), world.read(plane)["metrics"]["running"]) == (BOTH, 1)
                assert world.read(plane)["metrics"]["isDrained"] is False
            plane.fleet.fold()
            (line,) = plane.parts.reading.preview(GLOBAL).warnings
            assert line.startswith(f"{W} is the name of 2 workers")
            old.say_goodbye()
            assert states(plane) == {"old": ("gone", 0), "new": ("paused", 0)}
            assert world.read(plane)["metrics"]["isDrained"] is True
    said = [one for one in caplog.records if one.levelno == logging.ERROR]
    assert len(said) == 2
    assert all("another worker of this nodename" in one.getMessage() for one in said)


def test_a_worker_of_an_older_version_and_a_newer_one_see_each_other(world: World, tmp_path: Path) -> None:
    """The older one writes over the newer one's beat, and knows nothing of the rest."""
    plane = world.replica()
    world.change(plane, **PAUSE)
    word: dict[str, Any] = {"state": WorkerState.PAUSED, "applied": Edition(1, 2)}

    def older() -> dict[str, tuple[str, int]]:
        world.beat(W, incarnation="old", **word)
        return states(plane)

    older()
    plane.fleet.fold()
    with beating(heart(world, "new", tmp_path)):
        eventually(lambda: older() == BOTH)
        assert {*states(plane)} == {"old", "new"}
    assert Beat.decode(world.redis.get(names.beat_key(world.namespace, W))).incarnation in ("old", "new")


def test_two_workers_of_an_older_version_are_seen_by_the_control_plane_alone(world: World) -> None:
    """It remembers the one that it heard before, and hears that one again."""
    plane = world.replica()
    for incarnation in ("a", "b", "a"):
        world.beat(W, incarnation=incarnation)
        plane.fleet.fold()
    assert {life: namesakes for life, (_, namesakes) in states(plane).items()} == {"a": 1, "b": 1}


def test_a_wiped_redis_does_not_make_one_of_two_workers_look_gone(world: World, tmp_path: Path) -> None:
    """L4. Both are remembered, until the one is heard again."""
    plane = world.replica()
    with beating(heart(world, "old", tmp_path)), beating(heart(world, "new", tmp_path)):
        eventually(lambda: states(plane) == BOTH)
        plane.fleet.fold()
    for key in world.redis.scan_iter(f"sluicegate:{world.namespace}:*"):
        world.redis.delete(key)
    assert states(plane) == BOTH
    with beating(heart(world, "new", tmp_path)):
        eventually(lambda: world.redis.exists(names.beat_key(world.namespace, W)))
        assert states(plane) == BOTH
        plane.fleet.fold()
        assert states(plane) == BOTH


def test_a_life_that_was_killed_and_restarted_at_once_counts_for_its_lease_and_is_no_namesake(
    world: World, tmp_path: Path
) -> None:
    plane = world.replica(SLUICEGATE_LEASE_S="1")
    world.beat(W, incarnation="old", running=WORK)
    plane.fleet.fold()
    with beating(heart(world, "new", tmp_path)):
        eventually(lambda: "new" in states(plane))
        seen = [states(plane)]

        def is_replaced() -> bool:
            seen.append(states(plane))
            return len(seen[-1]) == 1

        eventually(is_replaced)
        plane.fleet.fold()
        assert states(plane) == {"new": ("paused", 0)}
    assert seen[0] == {"old": ("running", 0), "new": ("paused", 0)}
    assert {namesakes for one in seen for _, namesakes in one.values()} == {0}


def test_a_namesake_that_fell_silent_is_unknown_until_it_is_forgotten_or_beats_again(
    world: World, tmp_path: Path
) -> None:
    """R-C3. The other one lives, so that the nodename as such cannot be given up."""
    plane = world.replica(SLUICEGATE_LEASE_S="1")
    with ExitStack() as both:
        both.enter_context(beating(heart(world, "a", tmp_path)))
        # It falls silent without a goodbye: its last beat is made by hand, in the middle of the other's.
        eventually(lambda: states(plane) == {"a": ("paused", 0)})

        def other() -> bool:
            world.beat(W, incarnation="b", running=WORK)
            plane.fleet.fold()
            return {namesakes for _, namesakes in states(plane).values()} == {1}

        eventually(other)
        with pytest.raises(Refused):
            plane.fleet.forget(W, reason="too early", actor="alice")
        eventually(lambda: states(plane) == {"a": ("paused", 0), "b": ("unknown", 0)})
        assert world.read(plane)["metrics"]["staleRunning"] == 1
        plane.fleet.forget(W, reason="it will not come back", actor="alice")
        assert states(plane) == {"a": ("paused", 0)}
        plane.fleet.fold()
        assert states(plane) == {"a": ("paused", 0)}
        (event,) = world.events(action="worker_forgotten", outcome="applied")
        assert (event["details"]["incarnation"], event["details"]["state"]) == ("b", "unknown")
        world.beat(W, incarnation="b")
        assert "b" in states(plane)


def test_one_whose_words_cannot_be_read_is_unknown_beside_one_whose_can(world: World, tmp_path: Path) -> None:
    """L4. It is not remembered in the place of what was legible."""
    plane = world.replica()
    with beating(heart(world, "legible", tmp_path)):
        # The other way round the second would have replaced the first.
        eventually(lambda: "legible" in states(plane))
        world.beat(W, incarnation="older")
        eventually(lambda: "older" in states(plane))
    world.leave(W, b"\xff")
    for _ in range(2):
        assert states(plane)[""][0] == "unknown"
        assert world.read(plane)["metrics"]["isDrained"] is False
        plane.fleet.fold()
    assert world.sql("select incarnation from workers") != [("",)]


def test_a_heart_needs_no_more_of_redis_than_before(world: World) -> None:
    """Whoever upgrades the workers has not set the access rules again."""
    rules = worker_rules("n")
    assert {rule for rule in rules if rule.startswith("+")} >= {"+eval", "+get", "+set", "+del", "+time", "+zadd"}
    assert not {"+zscore", "+zrem", "+hset"} & {*rules}
    assert f"~{names.lives_key('n', '*')}".startswith(f"~{names.beat_key('n', '*')}")


def test_what_several_lives_said_is_let_go_and_stays_bounded(world: World, tmp_path: Path) -> None:
    """A worker that is restarted over and over leaves at most so many; one that is alone leaves nothing."""
    key = names.lives_key(world.namespace, W)
    for number in range(20):

        def has_come(life: bytes = f"life-{number}".encode()) -> bool:
            return life in (world.redis.get(names.beat_key(world.namespace, W)) or b"")

        with beating(heart(world, f"life-{number}", tmp_path)):
            eventually(has_come)
    assert len(json.loads(world.redis.get(key))) <= 9
    assert 0 < world.redis.ttl(key) <= 900
    world.redis.delete(key, names.beat_key(world.namespace, W))
    with beating(heart(world, "alone", tmp_path)):
        eventually(lambda: world.redis.exists(names.beat_key(world.namespace, W)))
        assert not world.redis.exists(key)
