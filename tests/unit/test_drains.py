"""What becomes of the tasks that ran when a hold was placed, from look to look (R-C5)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluicegate.schemas.beats import End, EndedRun, ForcedTask, RunningTask, WorkerState, YieldedTask
from sluicegate.schemas.holds.at_pause import AtPause, fleet_at_pause
from sluicegate.schemas.holds.drains import Ending, Fate, Followed, conclude, ending_of, follow
from sluicegate.schemas.holds.hold import Hold, Then
from sluicegate.schemas.holds.receipts import Counts, Receipt, receipt
from sluicegate.schemas.modes import Mode
from sluicegate.schemas.progress import Sighting, WorkerView, measure, view
from sluicegate.schemas.scopes import GLOBAL, Scope
from tests.unit.strategies import NOW
from tests.unit.test_progress import DESIRED, LEASE, beat

WORK = RunningTask(id="t1", name="app.train", started_at=NOW, queue="gpu")
OTHER = RunningTask(id="t2", name="app.mail", started_at=NOW, queue="mail")
SECOND = timedelta(seconds=1)


def worker(*running: RunningTask, age_s: float = 0, **fields: Any) -> WorkerView:
    known = {"running": running, "queues": ("gpu", "mail"), "ended": ()} | fields
    return view(Sighting(beat=beat(**known), seen_at=NOW - age_s * SECOND), desired=DESIRED, lease=LEASE, now=NOW)


def stop(task: RunningTask, *, at: datetime = NOW + SECOND) -> YieldedTask:
    return YieldedTask(task=task, at=at)


def fates(known: Sequence[Followed]) -> dict[str, str]:
    return {one.task.id: str(one.fate) for one in known}


def after(*looks: list[WorkerView], scope: Scope = GLOBAL, forgotten: tuple[str, ...] = ()) -> tuple[Followed, ...]:
    known: tuple[Followed, ...] = ()
    for look in looks:
        known = follow(known, look, scope, begun_at=NOW, forgotten=forgotten)
    return known


def test_what_its_worker_no_longer_runs_has_finished() -> None:
    known = after([worker(WORK, OTHER)], [worker(OTHER)])
    assert fates(known) == {"t1": "finished", "t2": "running"}


def test_a_clean_goodbye_is_an_end_too() -> None:
    assert fates(after([worker(WORK)], [worker(is_goodbye=True)])) == {"t1": "finished"}


def test_what_its_worker_gave_back_at_a_checkpoint_has_yielded() -> None:
    """Also where that is told one beat later than that it does not run."""
    told = worker(yielded=(stop(WORK),))
    assert fates(after([worker(WORK)], [told])) == {"t1": "yielded"}
    assert fates(after([worker(WORK)], [worker()], [told])) == {"t1": "yielded"}


@pytest.mark.parametrize(
    ("scope", "at", "found"),
    [
        (GLOBAL, NOW + SECOND, {"t1": "yielded"}),
        (Scope.parse("queue:mail"), NOW + SECOND, {}),
        (GLOBAL, NOW - SECOND, {}),
    ],
)
def test_what_yielded_before_it_was_seen_running_counts(scope: Scope, at: datetime, found: dict[str, str]) -> None:
    """Within the scope; and what yielded to a hold before this one is not told again."""
    seen = worker(yielded=(stop(WORK, at=at),), enforces=("global", "queue"))
    assert fates(follow((), [seen], scope, begun_at=NOW)) == found


def test_an_earlier_yield_of_the_same_task_does_not_count() -> None:
    """It has run again since, and that run ended."""
    assert fates(after([worker(WORK)], [worker(yielded=(stop(WORK, at=NOW - SECOND),))])) == {"t1": "finished"}


def test_a_silent_worker_is_evidence_of_nothing() -> None:
    silent = worker(WORK, age_s=60)
    assert silent.state is WorkerState.UNKNOWN
    assert fates(after([worker(WORK)], [silent], [])) == {"t1": "running"}


@pytest.mark.parametrize(
    ("looks", "forgotten", "how"),
    [
        ([[worker(incarnation="i2")]], (), "replaced"),
        ([[worker(OTHER, incarnation="i2", yielded=(stop(WORK),))]], (), "replaced"),
        ([[]], ("i1",), "forgotten"),
    ],
)
def test_what_its_worker_took_along_is_lost(
    looks: list[list[WorkerView]], forgotten: tuple[str, ...], how: str
) -> None:
    known = follow(after([worker(WORK)], *looks[:-1]), looks[-1], GLOBAL, begun_at=NOW, forgotten=forgotten)
    (lost,) = [one for one in known if one.key == ("w1@h", "i1", "t1")]
    assert lost.fate is Fate.LOST
    assert how in (lost.how or "")


def test_an_illegible_worker_has_not_been_replaced() -> None:
    """Its words cannot be read, so nothing is known of its life."""
    assert fates(after([worker(WORK)], [worker(incarnation="", state=WorkerState.UNKNOWN)])) == {"t1": "running"}


def test_a_look_that_is_older_than_the_last_one_changes_nothing() -> None:
    """Two replicas look at once, and the slower one writes last."""
    known = after([worker(WORK)], [worker()])
    assert follow(known, [worker(WORK)], GLOBAL, begun_at=NOW) == known


def test_what_started_before_its_worker_acknowledged_is_followed_as_well() -> None:
    """A heartbeat may be two seconds old when the pause is placed."""
    assert fates(after([worker(WORK)], [worker(WORK, OTHER)], [worker()])) == {"t1": "finished", "t2": "finished"}


@pytest.mark.parametrize(
    ("scope", "ids"),
    [("queue:gpu", {"t1"}), ("task:app.mail", {"t2"}), ("worker:w1@h", {"t1", "t2"}), ("worker:w2@h", set())],
)
def test_only_what_the_scope_covers_is_followed(scope: str, ids: set[str]) -> None:
    where = Scope.parse(scope)
    seen = [worker(WORK, OTHER, enforces=("global", "host", "worker", "queue", "task"))]
    assert set(fates(follow((), seen, where, begun_at=NOW))) == ids


def test_a_worker_that_does_not_obey_is_not_followed() -> None:
    """It may start more at any time."""
    assert follow((), [worker(WORK, enforces=("global",))], Scope.parse("queue:gpu"), begun_at=NOW) == ()


@given(st.lists(st.lists(st.sampled_from([WORK, OTHER]), unique=True), min_size=1, max_size=6))
def test_every_task_that_was_seen_has_one_fate_and_keeps_its_end(looks: list[list[RunningTask]]) -> None:
    """Looks may come in any order; none is counted twice and none vanishes."""
    known: tuple[Followed, ...] = ()
    for look in looks:
        ended = {one.key for one in known if one.fate is not Fate.RUNNING}
        known = follow(known, [worker(*look)], GLOBAL, begun_at=NOW)
        assert ended <= {one.key for one in known if one.fate is not Fate.RUNNING}
    assert len({one.key for one in known}) == len(known)
    assert set(fates(known)) == {task.id for look in looks for task in look}


def test_a_followed_task_survives_the_database() -> None:
    known = after([worker(WORK, OTHER)], [worker(OTHER, incarnation="i2")])
    assert tuple(Followed.from_wire(one.to_wire()) for one in known) == known


def test_a_drain_ends_drained_and_a_quiesce_also_where_tasks_wait() -> None:
    waiting = RunningTask(id="t1", name="app.train", is_waiting=True)
    drained = measure([worker()], queued=0, source="broker")
    stopped = measure([worker(waiting)], queued=0, source="broker")
    drain, quiesce = held(Mode.DRAIN), held(Mode.QUIESCE)
    ends = replace(quiesce, then=Then.REQUEUE, deadline=NOW, escalated_at=NOW)
    assert {ending_of(hold, drained) for hold in (drain, quiesce, ends)} == {Ending.DRAINED}
    assert (ending_of(drain, stopped), ending_of(quiesce, stopped)) == (None, Ending.QUIESCED)
    assert ending_of(ends, stopped) is None, "what waits is ended too"


def held(mode: Mode) -> Hold:
    return Hold(id=uuid4(), scope=GLOBAL, mode=mode, reason="test", actor="alice", created_at=NOW)


def forced(task: RunningTask, *, at: datetime = NOW + SECOND, how: str = "requeued") -> ForcedTask:
    return ForcedTask(task=task, at=at, how=how)


def test_what_a_deadline_ended_is_forced_and_the_receipt_names_it() -> None:
    """Also where its worker let it go a moment before it said so, and where it was never seen running."""
    known = after([worker(WORK, OTHER)], [worker()], [worker(forced=(forced(WORK),))])
    assert fates(known) == {"t1": Fate.FORCED, "t2": Fate.FINISHED}
    unseen = after([worker(forced=(forced(WORK, how="terminated"),))])
    assert [(one.fate, one.how) for one in unseen] == [(Fate.FORCED, "terminated")]
    earlier = after([worker(forced=(forced(WORK, at=NOW - SECOND),))])
    assert not earlier, "that was another hold's"
    made = receipt(known, [], version=2, ending=Ending.DRAINED, begun_at=NOW, now=NOW + SECOND)
    assert made.counts.forced == 1
    (told,) = made.workers
    assert [(task.id, task.name, task.how) for task in told.forced] == [("t1", WORK.name, "requeued")]


def test_the_receipt_counts_by_worker_and_names_what_was_lost() -> None:
    """R-C5. A worker that ran nothing is there too; a task that waits at a checkpoint has not ended."""
    waiting = RunningTask(id="t3", name="app.train", is_waiting=True)
    known = after(
        [worker(WORK, OTHER), worker(RunningTask(id="t4", name="app.mail"), nodename="w2@h")],
        [worker(waiting, yielded=(stop(WORK),)), worker(incarnation="i2", nodename="w2@h")],
    )
    made = receipt(
        conclude(known),
        ["w1@h", "w2@h", "w3@h"],
        version=7,
        ending=Ending.QUIESCED,
        begun_at=NOW,
        now=NOW + 3 * SECOND,
    )
    assert (made.version, made.ending, made.seconds) == (7, "quiesced", 3.0)
    assert made.counts == Counts(finished=1, yielded=1, waiting=1, lost=1)
    by_name = {row.nodename: row for row in made.workers}
    assert [task.id for task in by_name["w2@h"].lost] == ["t4"]
    assert by_name["w1@h"].counts == Counts(finished=1, yielded=1, waiting=1)
    assert by_name["w3@h"].counts == Counts()
    assert Receipt.from_wire(made.to_wire()) == made


def test_what_nobody_runs_and_nobody_saw_end_is_lost_at_the_end() -> None:
    """Its worker went away together with all that Redis knew of it."""
    assert fates(conclude(after([worker(WORK)], []))) == {"t1": "lost"}


def test_the_moment_says_who_ran_what_and_what_waited() -> None:
    """R-C2; a worker that has left is not in it."""
    made = fleet_at_pause(
        [worker(WORK, OTHER, reserved=4, enforces=("queue",)), worker(nodename="w2@h", is_goodbye=True)],
        Scope.parse("queue:gpu"),
        {"gpu": 12},
        source="broker",
        now=NOW,
    )
    assert made.depths == {"gpu": 12}
    ((name, reserved, ids),) = [(row.nodename, row.reserved, [task.id for task in row.running]) for row in made.workers]
    assert (name, reserved, ids) == ("w1@h", 4, ["t1"])
    assert AtPause.from_wire(made.to_wire()) == made


def test_a_broker_that_cannot_be_read_is_told_from_an_empty_one() -> None:
    made = fleet_at_pause([worker()], GLOBAL, None, source="broker", now=NOW)
    assert (made.depths, made.source) == (None, "unavailable")


def end(task: RunningTask, end: str, *, at: datetime = NOW + SECOND, comes_again: bool | None = None) -> EndedRun:
    return EndedRun(task=task, at=at, end=end, comes_again=comes_again)


@pytest.mark.parametrize(
    ("told", "fate", "how"),
    [
        (end(WORK, End.FAILED, comes_again=False), Fate.FAILED, None),
        (end(WORK, End.RETRIED, comes_again=True), Fate.RETRIED, None),
        (end(WORK, End.KILLED, comes_again=False), Fate.KILLED, "does not come again"),
        (end(WORK, End.KILLED, comes_again=True), Fate.KILLED, "comes again"),
        (end(WORK, End.OVERRAN, comes_again=True), Fate.OVERRAN, "comes again"),
        (end(WORK, End.REVOKED), Fate.REVOKED, None),
        (end(WORK, End.ENDED), Fate.ENDED, None),
        (end(WORK, "of a later version"), Fate.ENDED, None),
        (end(WORK, End.FAILED, at=NOW - SECOND), Fate.FINISHED, None),
        (end(OTHER, End.FAILED), Fate.FINISHED, None),
    ],
)
def test_what_did_not_end_well_has_the_fate_that_its_worker_tells(told: EndedRun, fate: Fate, how: str | None) -> None:
    """By the run: what it tells of an earlier one of the same task, or of another task, says nothing."""
    for looks in ([[worker(ended=(told,))]], [[worker()], [worker(ended=(told,))]]):
        (one,) = after([worker(WORK)], *looks)
        assert (one.fate, one.how) == (fate, how) or (len(looks) == 2 and fate is Fate.ENDED)


def test_a_worker_that_does_not_tell_how_runs_end_is_not_believed_to_have_finished_them() -> None:
    """One of an older version. Told later all the same, it counts; and finished does not become doubtful."""
    old = worker(ended=None)
    assert fates(after([worker(WORK)], [old])) == {"t1": "ended"}
    assert fates(after([worker(WORK)], [old], [worker(ended=(end(WORK, End.FAILED),))])) == {"t1": "failed"}
    assert fates(after([worker(WORK)], [worker()], [old])) == {"t1": "finished"}


def test_what_a_deadline_ended_is_forced_whatever_else_is_said_of_it() -> None:
    """It was killed for that."""
    told = worker(forced=(forced(WORK),), ended=(end(WORK, End.KILLED, comes_again=True),))
    assert fates(after([worker(WORK)], [told])) == {"t1": "forced"}


def test_the_receipt_names_what_was_killed() -> None:
    known = after([worker(WORK, OTHER)], [worker(ended=(end(WORK, End.KILLED), end(OTHER, End.RETRIED)))])
    made = receipt(known, [], version=2, ending=Ending.DRAINED, begun_at=NOW, now=NOW + SECOND)
    assert made.counts == Counts(killed=1, retried=1)
    assert [(task.id, task.how) for task in made.workers[0].killed] == [("t1", "does not come again")]
    assert Receipt.from_wire(made.to_wire()) == made


def test_a_receipt_of_an_older_version_is_read() -> None:
    """It has fewer counts, and called finished whatever ended on its worker."""
    old = {"holdVersion": 2, "ending": "drained", "seconds": 1.0, "finished": 3, "lost": 1, "workers": []}
    assert Receipt.from_wire(old).counts == Counts(finished=3, lost=1)


def test_a_task_is_followed_in_its_own_life_of_a_nodename() -> None:
    """The new one runs nothing of it, and says nothing against it; it is lost once the old one counts no more."""
    new = worker(incarnation="i2")
    both = [worker(WORK), new]
    assert fates(after(both, both)) == {"t1": "running"}
    assert fates(after(both, [worker(), new])) == {"t1": "finished"}
    assert fates(after(both, [new, worker(is_goodbye=True)])) == {"t1": "finished"}
    assert fates(after(both, [new])) == {"t1": "lost"}
