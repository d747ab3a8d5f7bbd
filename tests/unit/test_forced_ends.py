"""Which running tasks a deadline's step ends, and when; with a pool of objects."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest

from sluicegate.schemas.beats import RunningTask
from sluicegate.schemas.holds.hold import FORCED_END_GRACE_S, Hold, Then
from sluicegate.schemas.modes import Mode
from sluicegate.schemas.scopes import Scope, Subject
from sluicegate.workers.forced_ends import HARDER_AFTER_S, ForcedEnds
from tests.unit.strategies import NOW


def hold(then: Then, scope: str = "global", number: int = 1) -> Hold:
    return Hold(
        id=UUID(int=number),
        scope=Scope.parse(scope),
        mode=Mode.QUIESCE,
        reason="test",
        actor="alice",
        created_at=NOW,
        deadline=NOW,
        then=str(then),
        escalated_at=NOW,
    )


def request(task_id: str, *, queue: str = "q", acknowledged: bool = False) -> Any:
    return SimpleNamespace(id=task_id, name="app.work", acknowledged=acknowledged, queue=queue)


@dataclass
class Pool:
    name: str = "prefork"
    can: frozenset[Then] = frozenset(Then)
    asked: list[tuple[str, Then, bool]] = field(default_factory=list)
    gone: set[str] = field(default_factory=set)

    def end(self, request: Any, then: Then, *, is_hard: bool) -> bool:
        self.asked.append((request.id, then, is_hard))
        return then in self.can

    def has_ended(self, request: Any) -> bool:
        return request.id in self.gone


class Books:
    def running_task(self, request: Any, *, is_waiting: bool) -> RunningTask:
        return RunningTask(id=request.id, name=request.name, is_waiting=is_waiting)


class World:
    def __init__(self, monkeypatch: pytest.MonkeyPatch, **pool: Any) -> None:
        self.now = 1000.0
        monkeypatch.setattr("sluicegate.workers.forced_ends.time.monotonic", lambda: self.now)
        self.pool = Pool(**pool)
        side: Any = self.pool
        books: Any = Books()
        self.endings = ForcedEnds(side, books, lambda request: Subject(queue=request.queue))

    def look(self, holds: list[Hold], *running: Any, after_s: float = 0.0) -> list[str]:
        self.now += after_s
        over, _ = self.endings.tend(holds, running)
        return [request.id for request in over]


def test_tasks_have_time_to_come_to_a_checkpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted from when this worker heard of it, also where other orders come meanwhile."""
    world, task, step = World(monkeypatch), request("t"), hold(Then.REQUEUE)
    world.look([step], task)
    world.look([step, hold(Then.TERMINATE, number=2)], task, after_s=FORCED_END_GRACE_S - 0.01)
    assert not world.pool.asked
    world.look([step], task, after_s=0.02)
    assert world.pool.asked == [("t", Then.REQUEUE, False)]
    assert [one.id for one in world.endings.under_way()] == ["t"]


def test_it_goes_back_only_when_its_run_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    world, task, step = World(monkeypatch), request("t"), hold(Then.REQUEUE)
    for after_s in (0, FORCED_END_GRACE_S):
        assert world.look([step], task, after_s=after_s) == []
    assert world.look([step], after_s=0.05) == [], "Celery let go of it, its process is still there"
    world.pool.gone.add("t")
    assert world.look([step], after_s=0.05) == ["t"]
    assert world.look([step]) == []
    assert [(one.task.id, one.how) for one in world.endings.told()] == [("t", "requeued")]


def test_one_that_came_to_its_own_end_is_not_handed_back(monkeypatch: pytest.MonkeyPatch) -> None:
    world, task, step = World(monkeypatch), request("t"), hold(Then.REQUEUE)
    for after_s in (0, FORCED_END_GRACE_S):
        world.look([step], task, after_s=after_s)
    task.acknowledged = True
    world.pool.gone.add("t")
    assert world.look([step]) == []
    assert world.endings.told() == ()


def test_one_that_does_not_end_is_asked_harder_once(monkeypatch: pytest.MonkeyPatch) -> None:
    world, task, step = World(monkeypatch), request("t"), hold(Then.TERMINATE)
    for after_s in (0, FORCED_END_GRACE_S, HARDER_AFTER_S, HARDER_AFTER_S):
        world.look([step], task, after_s=after_s)
    assert world.pool.asked == [("t", Then.TERMINATE, False), ("t", Then.TERMINATE, True)]


def test_a_release_ends_no_further_task_and_what_was_asked_to_end_still_goes_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world, task, step = World(monkeypatch), request("t"), hold(Then.REQUEUE)
    for after_s in (0, FORCED_END_GRACE_S):
        world.look([step], task, after_s=after_s)
    world.look([], task, request("new"), after_s=HARDER_AFTER_S - 1)
    world.pool.gone.add("t")
    assert world.look([]) == ["t"]
    assert {name for name, _, _ in world.pool.asked} == {"t"}


def test_what_was_acknowledged_is_not_requeued_and_what_a_pool_cannot_end_is_left(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """To end it would lose it. Each is told once."""
    world = World(monkeypatch, name="threads", can=frozenset())
    early, late = request("early", acknowledged=True), request("late")
    for after_s in (0, FORCED_END_GRACE_S, 1, 1):
        world.look([hold(Then.REQUEUE)], early, late, after_s=after_s)
    assert world.pool.asked == [("late", Then.REQUEUE, False)]
    said = [record.getMessage() for record in caplog.records]
    assert [("acknowledged early" in line, "threads cannot requeue" in line) for line in said] == [
        (True, False),
        (False, True),
    ]


def test_a_step_ends_what_its_scope_covers_and_the_stronger_step_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch)
    holds = [hold(Then.REQUEUE, "queue:a"), hold(Then.TERMINATE, "queue:b", 2), hold(Then.REQUEUE, "queue:b", 3)]
    running = [request("a", queue="a"), request("b", queue="b"), request("c", queue="c")]
    for after_s in (0, FORCED_END_GRACE_S):
        world.look(holds, *running, after_s=after_s)
    assert world.pool.asked == [("a", Then.REQUEUE, False), ("b", Then.TERMINATE, False)]
