"""`sluicegate.starting`: what is no task asks the gate, and an acknowledgement waits for what it let begin."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import pytest

import sluicegate
from sluicegate.schemas.holds.hold import Hold, Holds
from sluicegate.schemas.modes import Mode
from sluicegate.schemas.scopes import Scope, Subject
from sluicegate.schemas.snapshots import Snapshot
from sluicegate.workers.cell import Cell
from sluicegate.workers.gate import Gate
from sluicegate.workers.own_starts import UNNAMED, OwnStarts, ask_here
from tests.unit.strategies import NOW


@dataclass(slots=True)
class World:
    """A gate, what it lets begin, and how often the consumer's thread was woken."""

    gate: Gate[Any]
    woken: list[bool] = field(default_factory=list)
    version: int = 0
    own: OwnStarts = field(init=False)

    def __post_init__(self) -> None:
        self.own = OwnStarts(self.gate, lambda: self.woken.append(True))

    def order(self, *scopes: str) -> None:
        self.version += 1
        holds = frozenset(
            Hold(id=uuid4(), scope=Scope.parse(s), mode=Mode.DRAIN, reason="r", actor="a", created_at=NOW)
            for s in scopes
        )
        state = Holds(version=self.version, active=holds)
        self.gate.put_in_force(Snapshot(namespace="n", epoch=1, holds=state, publication=1, issued_at=NOW))

    def is_past_barrier(self) -> bool:
        return self.own.is_past_barrier(self.gate.standing)


@pytest.fixture
def world() -> Iterator[World]:
    made = World(Gate(Cell(), Subject(host="h", worker="w1@h"), wake=lambda: None, on_applied=lambda: None))
    made.order()
    ask_here(made.own)
    yield made
    ask_here(None)


def test_where_no_gate_is_everything_may_begin() -> None:
    with sluicegate.starting() as may:
        assert may


@pytest.mark.parametrize(
    ("holds", "asked", "answer"),
    [
        ((), {}, True),
        (("global",), {}, False),
        (("worker:w1@h",), {"queue": "q"}, False),
        (("queue:q",), {"queue": "q"}, False),
        (("queue:q",), {"queue": "other"}, True),
        (("queue:q",), {}, True),
        (("task:t",), {"queue": "q", "task": "t"}, False),
    ],
)
def test_it_may_begin_where_no_hold_matches(
    world: World, holds: tuple[str, ...], asked: dict[str, str], answer: bool
) -> None:
    world.order(*holds)
    with sluicegate.starting(**asked) as may:
        assert may is answer
        assert len(world.own.running()) == answer


def test_an_acknowledgement_waits_for_what_began_and_for_nothing_that_is_not_held(world: World) -> None:
    with sluicegate.starting(queue="q"), sluicegate.starting(queue="other", task="shop.event"):
        world.order("queue:q")
        assert not world.is_past_barrier()
        world.order("queue:third")
        assert world.is_past_barrier()
        world.order("global")
        assert not world.is_past_barrier()
        assert {(one.name, one.queue) for one in world.own.running()} == {(UNNAMED, "q"), ("shop.event", "other")}
        assert not world.woken
    assert world.is_past_barrier()
    assert world.woken
    assert world.own.running() == ()


def test_what_fails_is_over_too(world: World) -> None:
    with pytest.raises(ZeroDivisionError), sluicegate.starting():
        raise ZeroDivisionError
    world.order("global")
    assert world.is_past_barrier()


def test_nothing_is_between_the_check_and_the_note(world: World) -> None:
    """Many threads ask while the gate is flipped: where the barrier was passed, none that was let in is under way."""
    begun: list[int] = []
    stop = threading.Event()

    def ask() -> None:
        while not stop.is_set():
            with sluicegate.starting() as may:
                if may:
                    begun.append(world.version)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(200):
            world.order("global")
            while not world.is_past_barrier():
                pass
            before = len(begun)
            # Whoever was let in has left its block, so that nothing is added any more.
            assert all(len(begun) == before for _ in range(200))
            world.order()
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert begun


def test_a_pool_child_cannot_ask(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has a copy of the gate, which nobody closes."""
    monkeypatch.setattr(os, "getpid", lambda: -1)
    with pytest.raises(RuntimeError, match="pool child"), sluicegate.starting():
        pass
