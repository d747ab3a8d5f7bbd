"""What workers hold themselves for, on record: once, released with its own rule, cleared by operators, no orphan."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from sluicegate.schemas.beats import Beat
from sluicegate.schemas.errors import NotFound
from sluicegate.schemas.health.local_holds import LocalHold
from sluicegate.schemas.holds.hold import Cause
from sluicegate.schemas.scopes import Scope
from tests.integration.world import PAUSE, World, check_one_event_per_version

SINCE = datetime(2026, 3, 1, tzinfo=UTC)


def lost(scope: str = "worker:celery@a", **changes: Any) -> LocalHold:
    told: dict[str, Any] = {
        "rule": "gpu.lost",
        "cause": Cause.HEALTH,
        "scope": Scope.parse(scope),
        "reason": "GPU 0 fell off the bus",
        "since": SINCE,
        "numbers": {"lostGpuCount": 1},
    } | changes
    return LocalHold(**told)


def held(world: World) -> list[tuple[str, str, str]]:
    rows = world.sql("select scope, cause, source from holds where released_at is null order by 1, 2, 3")
    return [tuple(row) for row in rows]


def actions(world: World) -> list[str]:
    return [event["action"] for event in world.events() if event["action"] != "namespace_created"]


class Worker:
    """A worker that tells of its own holds, at the edition that is in force."""

    def __init__(self, world: World, nodename: str = "celery@a") -> None:
        self.world, self.nodename = world, nodename

    def says(self, *holds: LocalHold, applies: bool = True, **fields: Any) -> Beat:
        edition = {"applied": self.world.edition()} if applies else {}
        return self.world.beat(self.nodename, local_holds=holds, **(edition | fields))


def ready(world: World) -> Any:
    """A control plane whose namespace is there."""
    plane = world.replica()
    world.read(plane)
    return plane


def follow(plane: Any) -> int:
    done: int = plane.parts.own_records.follow(plane.fleet.fold())
    return done


def test_it_is_recorded_once_and_released_when_its_worker_tells_of_it_no_more(world: World) -> None:
    plane, worker = ready(world), Worker(world)
    world.change(plane, **PAUSE)
    worker.says(lost())
    assert follow(plane) == 1
    assert follow(plane) == 0
    assert held(world) == [("global", "manual", ""), ("worker:celery@a", "health", "gpu.lost")]
    (event,) = world.events(action="own_hold_placed")
    assert (event["actor"], event["source"]) == ("worker:celery@a", "gpu.lost")
    assert event["details"]["numbers"] == {"lostGpuCount": 1}
    worker.says(lost(reason="other words"))
    assert follow(plane) == 0
    worker.says()
    assert follow(plane) == 1
    assert held(world) == [("global", "manual", "")], "R-G1: no other hold is touched"
    assert actions(world) == ["pause", "own_hold_placed", "own_hold_released"]
    published = world.published()
    assert published is not None
    assert published.edition == world.edition()
    check_one_event_per_version(world)


def test_a_life_that_has_not_read_the_record_yet_releases_nothing(world: World) -> None:
    """It was killed and has lost its file: its first beats say nothing, since it knows nothing yet."""
    plane, worker = ready(world), Worker(world)
    worker.says(lost(), age_s=60)
    follow(plane)
    worker.says(applies=False, incarnation="another life")
    assert follow(plane) == 0
    assert len(held(world)) == 1
    worker.says(incarnation="another life")
    assert follow(plane) == 1
    assert held(world) == []


def test_a_silent_workers_last_word_stands_and_who_left_may_be_back_in_a_moment(world: World) -> None:
    plane, worker = ready(world), Worker(world)
    worker.says(lost(), age_s=3600)
    follow(plane)
    assert follow(plane) == 0
    assert len(held(world)) == 1
    worker.says(lost(), is_goodbye=True, age_s=200)
    assert follow(plane) == 0
    assert len(held(world)) == 1


def test_a_worker_that_left_leaves_no_hold_behind(world: World) -> None:
    plane, worker = ready(world), Worker(world)
    worker.says(lost(), age_s=3600)
    follow(plane)
    worker.says(lost(), is_goodbye=True, age_s=1000)
    assert follow(plane) == 1
    assert world.sql("select released_reason from holds")[0][0] == "its worker has left"


def test_nor_does_one_that_was_forgotten(world: World) -> None:
    plane, worker = ready(world), Worker(world)
    worker.says(lost(), age_s=3600)
    follow(plane)
    plane.parts.fleet.forget("celery@a", reason="the host was scrapped", actor="alice")
    assert follow(plane) == 1
    assert held(world) == []


def test_a_forged_heartbeat_holds_nobody_but_who_it_says_it_is(world: World) -> None:
    plane = ready(world)
    world.beat("celery@a", local_holds=(lost("worker:celery@b"), lost("host:elsewhere")))
    assert follow(plane) == 0
    assert held(world) == []


def test_the_host_stays_held_while_one_of_its_workers_says_so(world: World) -> None:
    plane, a, b = ready(world), Worker(world, "w1@gpu7"), Worker(world, "w2@gpu7")
    full = lost("host:gpu7", rule="capacity.memory", cause=Cause.CAPACITY)
    a.says(full)
    b.says(full)
    assert follow(plane) == 1
    assert held(world) == [("host:gpu7", "capacity", "capacity.memory")]
    a.says()
    assert follow(plane) == 2, "released by the one, placed by the other, in one publication"
    (row,) = world.sql("select actor from holds where released_at is null")
    assert row[0] == "worker:w2@gpu7"
    a.says()
    b.says()
    assert follow(plane) == 1
    assert held(world) == []


def test_an_operator_clears_it_and_it_stays_on_record_until_the_worker_has_let_go(world: World) -> None:
    plane, worker = ready(world), Worker(world)
    worker.says(lost(), lost(rule="gpu.ecc"))
    follow(plane)
    own = plane.parts.own_records
    done = own.clear("celery@a", rule="gpu.lost", reason="the card was replaced", actor="alice")
    assert [hold.source for hold in done.holds] == ["gpu.lost"]
    assert follow(plane) == 0, "not heard of yet"
    assert len(held(world)) == 2
    worker.says(lost(rule="gpu.ecc"))
    assert follow(plane) == 1
    assert [source for _, _, source in held(world)] == ["gpu.ecc"]
    (event,) = world.events(action="health_cleared")
    assert (event["actor"], event["reason"]) == ("alice", "the card was replaced")
    own.clear("celery@a", rule=None, reason="all of it", actor="alice")
    worker.says(lost(rule="gpu.ecc"))
    assert follow(plane) == 1, "its rule found the same again: held anew"
    (row,) = world.sql("select expires_at from holds where released_at is null")
    assert row[0] is None
    with pytest.raises(NotFound):
        own.clear("celery@nobody", rule=None, reason="x", actor="alice")
    worker.says()
    follow(plane)
    assert own.clear("celery@a", rule=None, reason="again", actor="alice").holds == ()
    check_one_event_per_version(world)


def test_what_is_cleared_before_it_was_recorded_is_recorded_as_cleared(world: World) -> None:
    plane, worker = ready(world), Worker(world)
    worker.says(lost())
    done = plane.parts.own_records.clear("celery@a", rule=None, reason="replaced", actor="alice")
    assert len(done.holds) == 1
    published = world.published()
    assert published is not None
    assert [hold.expires_at is not None for hold in published.holds.active] == [True]


def test_two_replicas_that_follow_at_once_record_it_once(world: World) -> None:
    one, other = ready(world), world.replica()
    Worker(world).says(lost())
    beats = one.fleet.fold()
    assert one.parts.own_records.follow(beats) + other.parts.own_records.follow(beats) == 1
    check_one_event_per_version(world)


def test_a_rule_that_only_warns_is_on_record_once_and_holds_nothing(world: World) -> None:
    plane, worker = ready(world), Worker(world)
    worker.says(replace(lost(), is_shadow=True))
    for one in (plane, plane, world.replica()):
        assert follow(one) == 0
    assert held(world) == []
    (event,) = world.events(action="would_hold")
    assert event["outcome"] == "noop"


def test_half_of_the_hosts_at_once_is_one_alarm(world: World) -> None:
    plane = ready(world)
    for number in range(6):
        mine = (lost(f"worker:w@h{number}"),) if number < 3 else ()
        world.beat(f"w@h{number}", host=f"h{number}", local_holds=mine)
    assert follow(plane) == 3
    (event,) = world.events(action="health_storm")
    assert event["details"]["newlyHeldHosts"] == ["h0", "h1", "h2"]
    world.beat("w@h3", host="h3", local_holds=(lost("worker:w@h3"),), applied=world.edition())
    assert follow(plane) == 1
    assert len(world.events(action="health_storm")) == 1
