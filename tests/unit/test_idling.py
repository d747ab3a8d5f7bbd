"""A worker that is idle: callbacks, children that are replaced, and GPUs that are let go of."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

import sluicegate
from sluicegate.schemas.errors import InvalidInput
from sluicegate.workers import idle_hooks
from sluicegate.workers.idle_hooks import forget_hooks
from sluicegate.workers.idling import Idling
from tests.fleet.waiting import until


@dataclass
class Pool:
    """One whose children end as soon as they are asked to, unless they are busy."""

    can_renew: bool = True
    is_busy: bool = False
    done: list[str] = field(default_factory=list)

    def retire(self) -> bool:
        if not self.is_busy:
            self.done.append("retire")
        return not self.is_busy

    def is_retired(self) -> bool:
        return bool(self.done) and self.done[-1] == "retire"

    def renew(self) -> None:
        self.done.append("renew")


class Rig:
    """An idling, the worker that it is of, and its clock."""

    def __init__(self, *, can_renew: bool = True, recycle_after_s: float = 0.0) -> None:
        self.pool = Pool(can_renew=can_renew)
        self.is_drained = False
        self.begun = 0
        self.now_s = 100.0
        self.wakes = 0
        pool: Any = self.pool
        self.idling = Idling(
            pool,
            is_drained=lambda: self.is_drained and not self.pool.is_busy,
            is_busy=lambda: self.pool.is_busy,
            count_begun=lambda: self.begun,
            wake=self.wake,
            recycle_after_s=recycle_after_s,
            clock=lambda: self.now_s,
        )

    def wake(self) -> None:
        self.wakes += 1

    def look(self, after_s: float = 0.5) -> None:
        self.now_s += after_s
        self.idling.look()
        if self.wakes:
            self.wakes = 0
            self.idling.tend()


@pytest.fixture
def hooks() -> Iterator[None]:
    forget_hooks()
    yield
    forget_hooks()


def test_children_end_once_the_worker_is_drained_and_are_there_again_before_it_serves() -> None:
    rig = Rig()
    rig.pool.is_busy = True
    rig.idling.let_go()
    rig.look()
    rig.is_drained = True
    rig.look()
    assert (rig.pool.done, rig.idling.is_let_go) == ([], False)
    rig.pool.is_busy = False
    rig.look()
    assert (rig.pool.done, rig.idling.is_let_go, rig.idling.is_serving) == (["retire"], True, False)
    rig.idling.take_up()
    assert not rig.idling.is_serving
    rig.idling.tend()
    assert (rig.pool.done, rig.idling.is_serving) == (["retire", "renew"], True)


def test_a_pool_within_the_process_has_let_go_when_it_is_drained_and_nothing_of_it_is_replaced() -> None:
    rig = Rig(can_renew=False, recycle_after_s=10)
    rig.idling.let_go()
    rig.look()
    before = rig.idling.is_let_go
    rig.is_drained = True
    rig.look(after_s=60)
    assert (before, rig.idling.is_let_go) == (False, True)
    rig.idling.take_up()
    assert rig.idling.is_serving
    rig.look(after_s=60)
    assert rig.pool.done == []


def test_idle_children_are_replaced_once_each_time() -> None:
    rig = Rig(recycle_after_s=10)
    rig.begun = 1
    rig.look()
    rig.look(after_s=9)
    assert rig.pool.done == []
    rig.look(after_s=1)
    rig.look(after_s=100)
    assert rig.pool.done == ["retire", "renew"]
    rig.begun = 2
    rig.look()
    rig.look(after_s=10)
    assert rig.pool.done == ["retire", "renew"] * 2


def test_a_task_between_two_looks_begins_the_idle_time_anew() -> None:
    rig = Rig(recycle_after_s=10)
    for _ in range(5):
        rig.begun += 1
        rig.look(after_s=9)
    assert rig.pool.done == []


def test_what_came_just_before_children_would_be_replaced_keeps_them() -> None:
    rig = Rig(recycle_after_s=10)
    rig.look()
    rig.now_s += 10
    rig.idling.look()
    rig.pool.is_busy = True
    rig.idling.tend()
    assert rig.pool.done == []


def test_a_worker_that_never_ran_anything_has_nothing_to_replace() -> None:
    rig = Rig(recycle_after_s=10)
    rig.look()
    rig.look(after_s=100)
    assert rig.pool.done == []


@pytest.mark.usefixtures("hooks")
def test_a_callback_is_called_once_each_idle_time_and_one_that_fails_keeps_nobody_from_his() -> None:
    called: list[str] = []

    @sluicegate.on_idle(after_s=5)
    def soon() -> None:
        called.append("soon")
        raise RuntimeError("a user's mistake")

    sluicegate.on_idle(lambda: called.append("later"), after_s=50)
    rig = Rig()
    rig.look()
    rig.look(after_s=5)
    until("one was called", lambda: called == ["soon"])
    rig.look(after_s=50)
    until("both were called", lambda: called == ["soon", "later"])
    # A call that is still under way needs no second one beside it.
    until("both have ended", lambda: not any(hook.lock.locked() for hook in idle_hooks._hooks))
    rig.begun += 1
    rig.look()
    rig.look(after_s=5)
    until("it was called again", lambda: called == ["soon", "later", "soon"])


@pytest.mark.usefixtures("hooks")
def test_who_lets_go_of_a_gpu_calls_all_at_once() -> None:
    called = threading.Event()
    sluicegate.on_idle(called.set, after_s=3600)
    rig = Rig()
    rig.is_drained = True
    rig.idling.let_go()
    rig.look()
    rig.look()
    assert called.wait(10)


@pytest.mark.parametrize("after_s", [0, -1, float("nan")])
def test_a_time_that_is_none_is_refused(after_s: float) -> None:
    with pytest.raises(InvalidInput, match="after_s"):
        sluicegate.on_idle(print, after_s=after_s)
