"""What whoever has a worker's credential can make of heartbeats that are signed: no quiet (L4)."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from sluicegate.control.process.plane import ControlPlane
from sluicegate.schemas import names
from sluicegate.schemas.beats import Beat, RunningTask, WorkerState
from sluicegate.schemas.errors import Refused
from sluicegate.schemas.snapshots import Edition
from sluicegate.workers.own_keys import OwnKeys
from tests.integration.world import PAUSE, World, eventually

W = "celery@a"
WORK = (RunningTask(id="t1", name="app.work"),)
BUSY: dict[str, Any] = {"state": WorkerState.PAUSED, "applied": Edition(1, 2), "running": WORK}
IDLE: dict[str, Any] = {**BUSY, "running": ()}


def made(**fields: Any) -> Beat:
    """A heartbeat of W."""
    known: dict[str, Any] = {"host": "a", "pool": "prefork", "pid": 1, "sent_at": datetime.now(UTC), "ended": ()}
    return Beat(nodename=W, applied_at=None, **(known | fields))


class Life:
    """One life of W that signs what it says; `state_dir` is its place."""

    def __init__(self, world: World, state_dir: Path) -> None:
        self.world, self.keys = world, OwnKeys(state_dir, world.namespace, W)
        self.seq = 0

    def says(self, **fields: Any) -> bytes:
        """Leaves its next heartbeat."""
        self.seq += 1
        raw = self.keys.spell(made(incarnation=self.keys.incarnation, seq=self.seq, **fields))
        self.world.leave(W, raw)
        return raw


@pytest.fixture
def plane(world: World) -> ControlPlane:
    plane = world.replica(SLUICEGATE_LEASE_S="1")
    world.change(plane, **PAUSE)
    return plane


@pytest.fixture
def old(world: World, plane: ControlPlane, tmp_path: Path) -> Life:
    """The true worker: its task runs, and the control plane has heard so."""
    life = Life(world, tmp_path / "place")
    life.says(**BUSY)
    plane.fleet.fold()
    return life


def is_drained(world: World, plane: ControlPlane) -> bool:
    """By the metrics; or is there a receipt?"""
    plane.draining.follow()
    told = bool(world.read(plane)["metrics"]["isDrained"])
    return told or bool(world.events(action="drain_completed"))


def states(plane: ControlPlane) -> dict[str, tuple[str, bool, bool]]:
    """Of each life its state, and whether it is displaced, or forged."""
    return {
        worker.beat.incarnation: (str(worker.state), worker.is_displaced, worker.is_forged)
        for worker in plane.parts.reading.workers()
    }


@pytest.mark.parametrize("is_goodbye", [False, True], ids=["idle", "goodbye"])
@pytest.mark.parametrize("how", ["unsigned", "by another key", "with a copied signature"])
def test_l4_a_forged_beat_of_a_life_is_not_its_word(
    world: World, plane: ControlPlane, old: Life, tmp_path: Path, how: str, is_goodbye: bool, caplog: Any
) -> None:
    """(a), (d): neither that it is idle nor that it has left is believed. It is an alarm, on record once an episode."""
    true = old.says(**BUSY)
    lie = replace(Beat.decode(true), running=(), seq=99, is_goodbye=is_goodbye)
    stranger = OwnKeys(tmp_path / "stranger", world.namespace, W)
    forged = {
        "unsigned": lie.encode(),
        "by another key": stranger.spell(lie),
        "with a copied signature": lie.encode()[:-1] + true[true.index(b',"place":') :],
    }[how]
    with caplog.at_level(logging.ERROR, "sluicegate.control"):
        for _ in range(3):
            world.leave(W, forged)
            assert not is_drained(world, plane)
            metrics = world.read(plane)["metrics"]
            assert (metrics["forged"], metrics["running"]) == (1, 1)
            plane.fleet.fold()
    assert states(plane)[old.keys.incarnation][2] is True
    (event,) = world.events(action="heartbeats_forged")
    assert (event["outcome"], event["details"]["worker"], event["details"]["count"]) == ("refused", W, 1)
    assert [W in one.getMessage() for one in caplog.records if "ALARM forged_heartbeats" in one.getMessage()] == [True]
    # Once it is heard again, nothing is left of it.
    old.says(**IDLE)
    assert is_drained(world, plane)
    assert world.read(plane)["metrics"]["forged"] == 0


def test_l4_an_older_beat_of_the_same_life_is_not_its_word(world: World, plane: ControlPlane, old: Life) -> None:
    """(b): it was idle once, at this edition too. Nor does the last one, put back, keep a silent life alive."""
    idle = old.says(**IDLE)
    last = old.says(**BUSY)
    plane.fleet.fold()
    for _ in range(3):
        world.leave(W, idle)
        assert not is_drained(world, plane)
        assert world.read(plane)["metrics"]["running"] == 1
        plane.fleet.fold()
    assert len(world.events(action="heartbeats_forged")) == 1

    def has_fallen_silent() -> bool:
        world.leave(W, last)
        return states(plane) == {old.keys.incarnation: ("unknown", False, False)}

    eventually(has_fallen_silent)


@pytest.mark.parametrize("how", ["unsigned", "of another place", "of no place"])
def test_l4_a_strangers_life_does_not_take_a_workers_place(
    world: World, plane: ControlPlane, old: Life, tmp_path: Path, how: str
) -> None:
    """(c): the true one is kept from being heard for longer than its lease. An operator can end it, on record."""
    (tmp_path / "none").mkdir()
    if how == "of no place":
        (tmp_path / "none" / "workers").write_text("")
    other = Life(world, tmp_path / "none")

    def says() -> None:
        if how == "unsigned":
            world.beat(W, incarnation="another", **IDLE)
        else:
            other.says(**IDLE)
        # What the true worker's heart would leave here is taken away too.
        world.redis.delete(names.lives_key(world.namespace, W))

    def is_displaced() -> bool:
        says()
        assert not is_drained(world, plane)
        plane.fleet.fold()
        return states(plane).get(old.keys.incarnation) == ("unknown", True, False)

    eventually(is_displaced)
    for _ in range(3):
        is_displaced()
    with pytest.raises(Refused):
        world.change(plane, action="resume", reason="done")
    plane.fleet.forget(W, reason="its container was moved", actor="alice")
    says()
    plane.fleet.fold()
    says()
    assert old.keys.incarnation not in states(plane)
    (event,) = world.events(action="worker_forgotten", outcome="applied")
    assert event["details"]["incarnation"] == old.keys.incarnation
    assert is_drained(world, plane)
    old.says(**BUSY)
    assert states(plane)[old.keys.incarnation][0] == "paused", "it is there after all"


def test_a_life_of_the_same_place_replaces_the_one_before(
    world: World, plane: ControlPlane, old: Life, tmp_path: Path
) -> None:
    """As a worker does that was killed and started again: nobody needs to do anything."""
    assert not is_drained(world, plane)
    new = Life(world, tmp_path / "place")

    def is_replaced() -> bool:
        new.says(**IDLE)
        plane.fleet.fold()
        return set(states(plane)) == {new.keys.incarnation}

    eventually(is_replaced)
    assert is_drained(world, plane)
    (receipt,) = world.events(action="drain_completed")
    told = receipt["details"]
    assert (told["lost"], told["signed"], told["unsigned"]) == (1, 1, 0)


@pytest.mark.parametrize(
    "table",
    [b"junk", b"[" * 10_000, json.dumps([1]).encode(), b'{"x":{"at":1,"beat":"{}"}}'],
    ids=["text", "depth", "list", "no beat"],
)
def test_l4_junk_in_the_place_of_lives_hides_nobody(
    world: World, plane: ControlPlane, old: Life, tmp_path: Path, table: bytes
) -> None:
    """(e)."""
    other = Life(world, tmp_path / "other")
    for _ in range(3):
        other.says(**IDLE)
        world.redis.set(names.lives_key(world.namespace, W), table)
        assert not is_drained(world, plane)
        assert {*states(plane)} == {old.keys.incarnation, other.keys.incarnation}
        plane.fleet.fold()


def test_l4_forged_lives_beside_the_true_one_end_nothing(world: World, plane: ControlPlane, old: Life) -> None:
    """(e): the true life's own words there, unsigned, newer than what it said."""
    lie = replace(Beat.decode(old.says(**BUSY)), running=(), seq=99, is_goodbye=True).encode().decode()
    now = float(world.redis.time()[0])
    for number in range(3):
        lives = {f"x{n}": {"at": now, "since": now, "beat": lie} for n in range(100)}
        lives[old.keys.incarnation] = {"at": now + number, "since": now, "beat": lie}
        world.redis.set(names.lives_key(world.namespace, W), json.dumps(lives))
        assert not is_drained(world, plane)
        assert {*states(plane)} == {old.keys.incarnation}
        plane.fleet.fold()


def test_many_strangers_lives_do_not_push_the_true_one_out(
    world: World, plane: ControlPlane, old: Life, tmp_path: Path
) -> None:
    """What is known makes no room for what comes, and the row stays bounded."""
    for number in range(80):
        Life(world, tmp_path / str(number)).says(**IDLE)
        plane.fleet.fold()
    assert old.keys.incarnation in states(plane)
    assert not is_drained(world, plane)
    ((others,),) = world.sql("select jsonb_array_length(beat->'otherLives') from workers")
    assert others <= 64


def test_a_worker_that_signs_nothing_is_heard_and_told_of_as_unsigned(world: World, plane: ControlPlane) -> None:
    """One of the version before. Where signatures are demanded, it is never quiet."""
    world.beat(W, **IDLE)
    strict = world.replica(SLUICEGATE_NEEDS_SIGNED_BEATS="true")
    metrics = [world.read(one)["metrics"] for one in (plane, strict)]
    assert [(one["isDrained"], one["unsigned"], one["forged"]) for one in metrics] == [(True, 1, 0), (False, 1, 0)]
    assert world.workers(plane)[0]["signed"] is False
    assert is_drained(world, plane)
    (receipt,) = world.events(action="drain_completed")
    assert (receipt["details"]["signed"], receipt["details"]["unsigned"]) == (0, 1)


def test_an_unsigned_life_is_replaced_by_a_signed_one(world: World, plane: ControlPlane, tmp_path: Path) -> None:
    """An upgrade of a worker that was killed."""
    world.beat(W, incarnation="older", **BUSY)
    plane.fleet.fold()
    new = Life(world, tmp_path / "place")

    def is_replaced() -> bool:
        new.says(**IDLE)
        plane.fleet.fold()
        return set(states(plane)) == {new.keys.incarnation}

    eventually(is_replaced)
