"""One of several replicas leads: real Postgres, real terms."""

from __future__ import annotations

import signal
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest
from sqlalchemy import text

from sluicegate.control.process.leader import LEASE, LOOK_EVERY_S, Leader
from sluicegate.control.process.plane import ControlPlane
from sluicegate.control.store.terms import Deposed
from tests.integration.serving import serving
from tests.integration.world import World, eventually

TAKEOVER_S = LEASE.total_seconds() + LOOK_EVERY_S


def leaders(planes: list[ControlPlane]) -> list[ControlPlane]:
    return [plane for plane in planes if plane.leader.term is not None]


def row(world: World) -> dict[str, Any]:
    ((found,),) = world.sql("select to_jsonb(l) from leaders l where namespace = :n", n=world.namespace)
    return dict(found)


def run_out(world: World) -> None:
    """The lease ends, as it does when its leader says nothing for so long."""
    world.sql("update leaders set leased_until = clock_timestamp() where namespace = :n", n=world.namespace)


def test_of_replicas_that_look_at_once_exactly_one_is_elected(world: World) -> None:
    planes = [world.replica() for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda plane: plane.leader.look(), planes * 3))
    assert len(leaders(planes)) == 1
    assert row(world)["term"] == 1
    assert len(world.sql("select id from replicas")) == 4


def test_only_the_leader_turns_and_a_look_renews_its_lease(world: World) -> None:
    one, two = world.replica(), world.replica()
    turns: list[str] = []
    one.leader.look()
    two.leader.look()
    before = row(world)
    one.leader.run_when_leading(partial(turns.append, "one"))()
    two.leader.run_when_leading(partial(turns.append, "two"))()
    one.leader.look()
    after = row(world)
    assert turns == ["one"]
    assert (after["term"], after["replica"]) == (before["term"], before["replica"])
    assert after["leased_until"] > before["leased_until"]


def test_a_leader_that_is_cut_off_from_redis_makes_room_for_one_that_is_not(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It could follow no drain. Where nobody else comes, it leads again: holds expire all the same."""
    monkeypatch.setattr("sluicegate.control.process.leader.PATIENCE_S", 0.001)
    fit = {"one": True, "two": True}
    one, two = (
        Leader(
            database=world.replica().database,
            namespace=world.namespace,
            code_revision="0007",
            is_fit=partial(fit.__getitem__, name),
        )
        for name in ("one", "two")
    )
    terms: list[int | None] = []
    one.look()
    fit["one"] = False
    one.look()
    one.look()
    terms.append(one.term)
    assert row(world)["replica"] is None
    two.look()
    terms.append(two.term)
    fit["two"] = False
    two.look()
    world.sql(
        "update leaders set leased_until = clock_timestamp() - interval '3 seconds' where namespace = :n",
        n=world.namespace,
    )
    one.look()
    terms.append(one.term)
    assert terms == [None, 2, 3]


def test_one_that_only_watches_waits_for_no_lock_of_the_leaders(world: World) -> None:
    """And takes none: frozen in the middle of its look it would stop whoever leads."""
    one, two = world.replica(), world.replica()
    one.leader.look()
    with one.database.transaction() as connection:
        connection.execute(text("select * from leaders where namespace = :n for update"), {"n": world.namespace})
        began = time.monotonic()
        two.leader.look()
        assert time.monotonic() - began < 2
    assert leaders([one, two]) == [one]


def test_what_a_deposed_leader_writes_is_not_stored(world: World) -> None:
    """It does not know of it yet, was elected away in the middle of its turn, and even leads again when it commits."""
    one, two = world.replica(), world.replica()
    one.leader.look()
    seen: list[int] = []

    def turn(is_reelected: bool) -> None:
        with one.leader.fenced.transaction() as connection:
            connection.execute(text("insert into namespaces values (:n, 1, 1, now())"), {"n": world.namespace})
            run_out(world)
            two.leader.look()
            if is_reelected:
                run_out(world)
                one.leader.look()
        seen.append(1)

    for is_reelected in (False, True):
        one.leader.look()
        one.leader.run_when_leading(partial(turn, is_reelected))()
        assert seen == []
        assert world.sql("select * from namespaces") == []
        run_out(world)
        one.leader.look()
    assert row(world)["term"] == 6


def test_a_leader_that_goes_on_stores_what_it_writes(world: World) -> None:
    plane = world.replica()
    plane.leader.look()

    def turn() -> None:
        with plane.leader.fenced.transaction() as connection:
            connection.execute(text("insert into namespaces values (:n, 1, 1, now())"), {"n": world.namespace})

    plane.leader.run_when_leading(turn)()
    assert len(world.sql("select * from namespaces")) == 1


def test_outside_of_a_leaders_turn_the_fenced_database_stores_nothing(world: World) -> None:
    """Whoever forgot to ask for the leader's turn finds out at the first write; reading is open."""
    plane = world.replica()
    plane.leader.look()
    with plane.leader.fenced.transaction() as connection:
        assert connection.execute(text("select count(*) from namespaces")).scalar_one() == 0
    with pytest.raises(Deposed), plane.leader.fenced.transaction() as connection:
        connection.execute(text("insert into namespaces values (:n, 1, 1, now())"), {"n": world.namespace})
    assert world.sql("select * from namespaces") == []


def test_an_election_waits_for_a_commit_that_was_let_through(world: World) -> None:
    """Between the check and the commit nobody else can be elected: the lock on the term's row is held."""
    one, two = world.replica(), world.replica()
    one.leader.look()
    run_out(world)
    with ThreadPoolExecutor(1) as pool:
        with one.database.transaction() as connection:
            term = one.leader.term
            connection.execute(
                text("select 1 from leaders where namespace = :n and term = :t for share"),
                {"n": world.namespace, "t": term},
            )
            looking = pool.submit(two.leader.look)
            waiting = "select 1 from pg_stat_activity where wait_event_type = 'Lock' and query like '%leaders%'"
            eventually(lambda: world.sql(waiting))
            assert not looking.done()
        looking.result(timeout=10)
    assert two.leader.term == 2


def test_a_leader_that_stops_is_replaced_at_the_next_look(world: World) -> None:
    """Nobody waits for its lease, and it is no longer listed."""
    one, two = world.start(), world.replica()
    eventually(lambda: one.leader.term)
    two.leader.look()
    assert leaders([one, two]) == [one]
    one.stop()
    two.leader.look()
    assert two.leader.term == 2
    assert [str(found) for (found,) in world.sql("select id from replicas")] == [str(two.leader.replica.id)]


def test_another_fleet_on_the_same_database_has_a_leader_of_its_own(world: World) -> None:
    one, other = world.replica(), world.replica(SLUICEGATE_NAMESPACE="other")
    one.leader.look()
    other.leader.look()
    assert (one.leader.term, other.leader.term) == (1, 1)


def test_a_leader_that_was_killed_is_replaced_in_time_and_its_work_goes_on(world: World) -> None:
    """SIGKILL to the process that leads; the other one expires a hold that fell due meanwhile."""
    with serving(world) as process:
        eventually(lambda: world.sql("select 1 from leaders where replica is not null"))
        plane = world.start()
        eventually(lambda: len(world.sql("select id from replicas")) == 2)
        assert plane.leader.term is None
        world.change(plane, action="pause", mode="drain", reason="short", expiresInS=1)
        process.send_signal(signal.SIGKILL)
        killed_at = time.monotonic()
        eventually(lambda: plane.leader.term, within_s=TAKEOVER_S + 5)
        took_s = time.monotonic() - killed_at
        eventually(lambda: world.events(action="hold_expired"))
    assert row(world)["term"] == 2
    # A second beyond what is promised, for a machine that is busy.
    assert took_s < TAKEOVER_S + 1
