"""What a heartbeat tells of runs that did not end well: how long, how many, and when it cannot."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest
from celery.exceptions import (
    Ignore,
    Reject,
    Retry,
    SoftTimeLimitExceeded,
    Terminated,
    TimeLimitExceeded,
    WorkerLostError,
)

from sluicegate.schemas.beats import End, RunningTask
from sluicegate.schemas.holds.hold import Hold
from sluicegate.schemas.modes import Mode
from sluicegate.schemas.scopes import Scope, Subject
from sluicegate.schemas.snapshots import NOTHING
from sluicegate.workers.celery_inside.ends import end_of, telling
from sluicegate.workers.gate import Standing
from sluicegate.workers.run_ends import MOST_BESIDE_SLOTS, TOLD_S, RunEnds
from tests.unit.strategies import NOW

SLOTS = 4


def request(task_id: str, queue: str = "q") -> Any:
    return SimpleNamespace(id=task_id, name="app.work", queue=queue)


class Books:
    def running_task(self, request: Any, *, is_waiting: bool) -> RunningTask:
        return RunningTask(id=request.id, name=request.name, queue=request.queue, is_waiting=is_waiting)

    def concurrency(self) -> int:
        return SLOTS


def standing(*scopes: str) -> Standing:
    holds = tuple(
        Hold(id=UUID(int=n), scope=Scope.parse(s), mode=Mode.DRAIN, reason="test", actor="alice", created_at=NOW)
        for n, s in enumerate(scopes)
    )
    return Standing(edition=NOTHING, mode=Mode.RUN, local_reason=None, scoped=holds)


@dataclass
class World:
    monkeypatch: pytest.MonkeyPatch
    now: float = 1000.0
    standing: Standing = field(default_factory=standing)

    def __post_init__(self) -> None:
        self.monkeypatch.setattr("sluicegate.workers.run_ends.time.monotonic", lambda: self.now)
        self.ends = RunEnds(Books(), standing=lambda: self.standing, subject_of=self.subject)  # type: ignore[arg-type]

    @staticmethod
    def subject(request: Any) -> Subject:
        return Subject(host="h", worker="w@h", queue=request.queue, task=request.name)

    def fail(self, *ids: str, queue: str = "q") -> None:
        for task_id in ids:
            one = request(task_id, queue)
            self.ends.begin(one)
            self.ends.close(one, End.FAILED)

    def told(self) -> set[str] | None:
        told = self.ends.told()
        return None if told is None else {one.task.id for one in told}


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    return World(monkeypatch)


def test_a_run_counts_as_running_until_it_is_told_how_it_ended(world: World) -> None:
    """No heartbeat in between finds it in neither."""
    one = request("t1")
    world.ends.begin(one)
    assert (world.ends.running(), world.told()) == ([one], set())
    world.ends.close(one, End.KILLED, comes_again=True)
    (told,) = world.ends.told() or ()
    assert (world.ends.running(), told.task.id, told.end, told.comes_again) == ([], "t1", End.KILLED, True)
    two = request("t2")
    world.ends.begin(two)
    world.ends.close(two, None)
    assert (world.ends.running(), world.told()) == ([], {"t1"}), "what ended well is not told"


def test_it_is_told_for_a_while_and_as_long_as_a_hold_covers_it(world: World) -> None:
    """A hold that comes a moment later covers it too."""
    world.fail("t1")
    world.fail("t2", queue="other")
    world.standing = standing("queue:q")
    world.now += TOLD_S
    world.ends.forget_if_free()
    assert world.told() == {"t1"}
    world.standing = standing()
    world.ends.forget_if_free()
    world.standing = standing("queue:q")
    assert world.told() == set()


def test_the_first_word_of_a_run_counts(world: World) -> None:
    """A task that was revoked is then said to have been terminated; a limit is told twice."""
    for end in (End.REVOKED, End.KILLED):
        world.ends.close(request("t1"), end)
    assert [one.end for one in world.ends.told() or ()] == [End.REVOKED]


def test_what_a_hold_covers_is_not_pushed_out_by_what_none_does(world: World) -> None:
    """Where others fail by the thousand, which of them failed is not known for a while; and that is said."""
    world.standing = standing("queue:q")
    world.fail("held")
    world.fail(*(f"n{number}" for number in range(1000)), queue="other")
    assert world.told() is None
    world.now += TOLD_S
    assert world.told() == {"held"}


def test_a_heartbeat_stays_bounded_and_says_that_it_cannot_tell(world: World) -> None:
    world.standing = standing("queue:q")
    world.fail(*(f"n{number}" for number in range(MOST_BESIDE_SLOTS + SLOTS)))
    assert len(world.told() or ()) == MOST_BESIDE_SLOTS + SLOTS
    world.fail("one more")
    world.now += 10 * TOLD_S
    assert world.told() is None
    world.standing = standing()
    world.ends.forget_if_free()
    world.now += TOLD_S
    assert world.told() == set()


def test_of_a_task_that_celery_forgot_nobody_says_that_it_finished(world: World) -> None:
    """It may still run: then that is what is seen of it."""
    world.standing = standing("global")
    for _ in range(3):
        world.ends.doubt(RunningTask(id="t1", name="app.work"))
    assert [(one.task.id, one.end) for one in world.ends.told() or ()] == [("t1", End.ENDED)]


LATE, EARLY = False, True
"""Is the message acknowledged by the time?"""


@pytest.mark.parametrize(
    ("raised", "announced", "is_acknowledged", "end"),
    [
        (ValueError(), {"task-failed": {}}, EARLY, (End.FAILED, False)),
        (Retry(), {"task-retried": {}}, EARLY, (End.RETRIED, True)),
        (Reject(requeue=True), {"task-rejected": {"requeue": True}}, EARLY, (End.RETRIED, True)),
        (Reject(), {"task-rejected": {"requeue": False}}, EARLY, (End.FAILED, False)),
        (Ignore(), {}, EARLY, (None, None)),
        (WorkerLostError(), {"task-failed": {}}, EARLY, (End.KILLED, False)),
        (WorkerLostError(), {"task-rejected": {"requeue": True}}, EARLY, (End.KILLED, True)),
        (WorkerLostError(), {"task-retried": {}}, EARLY, (End.KILLED, True)),
        (WorkerLostError(), {"task-succeeded": {}}, EARLY, (None, None)),
        (SystemExit(1), {"task-failed": {}}, EARLY, (End.KILLED, False)),
        (Terminated(15), {}, LATE, (End.KILLED, True)),
        (Terminated(15), {"task-revoked": {"terminated": True}}, EARLY, (End.REVOKED, None)),
        (TimeLimitExceeded(1), {"task-failed": {}}, EARLY, (End.OVERRAN, False)),
        (TimeLimitExceeded(1), {"task-rejected": {"requeue": True}}, EARLY, (End.OVERRAN, True)),
        (SoftTimeLimitExceeded(1), {"task-failed": {}}, EARLY, (End.OVERRAN, False)),
        (None, {"task-revoked": {"terminated": True}}, EARLY, (End.REVOKED, None)),
        (None, {"task-cancelled": {}}, LATE, (End.KILLED, True)),
        (None, {}, LATE, (None, None)),
    ],
)
def test_how_a_run_ended_is_what_celery_made_of_it(
    raised: BaseException | None, announced: dict[str, Any], is_acknowledged: bool, end: tuple[End | None, bool | None]
) -> None:
    assert end_of(raised, announced, is_acknowledged=is_acknowledged) == end


def test_a_request_is_left_as_it_was_and_its_own_errors_pass(world: World) -> None:
    """What Celery raises while it lets go of a run goes where it went; the run is told of all the same."""

    class Base:
        id, name, queue, acknowledged = "t1", "app.work", "q", True

        def send_event(self, kind: str, **fields: Any) -> None: ...

        def on_failure(self, exc_info: Any) -> None:
            self.send_event("task-failed")
            raise ConnectionError("no backend")

    one = telling(Base, world.ends)()
    with pytest.raises(ConnectionError):
        one.on_failure(SimpleNamespace(exception=ValueError()))
    assert (vars(one), world.told()) == ({}, {"t1"})
