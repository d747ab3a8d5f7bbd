"""How long tasks take, by what heartbeats showed; and what a hold would touch (R-C6)."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluicegate.schemas.beats import Beat, RunningTask, YieldedTask
from sluicegate.schemas.holds.preview import Preview, preview
from sluicegate.schemas.progress import Sighting, WorkerView, view
from sluicegate.schemas.runtimes import RECENT, Runtime, ended
from sluicegate.schemas.scopes import GLOBAL, Scope
from tests.unit.strategies import NOW
from tests.unit.test_progress import DESIRED, LEASE, beat

SECOND = timedelta(seconds=1)
WORK = RunningTask(id="t1", name="app.train", started_at=NOW, queue="gpu")
MAIL = RunningTask(id="t2", name="app.mail", started_at=NOW, queue="mail")
ALL = ("global", "queue", "task", "host", "worker", "label")


def at(seconds: float, *running: RunningTask, **fields: Any) -> Beat:
    return beat(running=running, sent_at=NOW + seconds * SECOND, **fields)


def test_a_run_ends_half_way_between_the_beats_that_show_it() -> None:
    assert list(ended(at(10, WORK, MAIL), at(12, MAIL))) == [("app.train", 11.0)]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (at(10, WORK), at(12, WORK)),
        (at(10, WORK), at(12, incarnation="i2")),
        (at(10, WORK), at(10)),
        (at(10, WORK), at(21)),
        (at(12, WORK), at(10)),
        (at(10, WORK), at(12, yielded=(YieldedTask(task=WORK, at=NOW + 11 * SECOND),))),
        (at(10, RunningTask(id="t1", name="app.train", started_at=NOW, is_waiting=True)), at(12)),
        (at(10, RunningTask(id="t1", name="app.train")), at(12)),
    ],
    ids=["goes on", "another life", "same beat", "long silence", "older", "yielded", "waited", "start unknown"],
)
def test_what_says_nothing_of_an_end_teaches_nothing(before: Beat, after: Beat) -> None:
    """A number that is invented is worse than none."""
    assert list(ended(before, after)) == []


@given(st.lists(st.lists(st.floats(0, 1e6), max_size=9), max_size=12))
def test_only_the_last_runs_count_and_all_are_counted(batches: list[list[float]]) -> None:
    runtime = Runtime(name="x")
    for batch in batches:
        runtime = runtime.with_runs(batch)
    runs = [run for batch in batches for run in batch]
    assert runtime.count == len(runs)
    assert list(runtime.recent_s) == runs[-RECENT:]
    assert runtime.usual_s == (max(runs[-RECENT:]) if runs else None)


def worker(*running: RunningTask, age_s: float = 0, **fields: Any) -> WorkerView:
    seen = Sighting(
        beat=at(10, *running, **{"enforces": ALL, "queues": ("gpu", "mail")} | fields),
        seen_at=NOW + (100 - age_s) * SECOND,
    )
    return view(seen, desired=DESIRED, lease=LEASE, now=NOW + 100 * SECOND)


def told(*workers: WorkerView, scope: str = "global", **usual_s: float) -> Preview:
    usual = {f"app.{name}": seconds for name, seconds in usual_s.items()}
    return preview(workers, Scope.parse(scope), depths={"gpu": 3}, usual_s=usual, now=NOW + 100 * SECOND)


def test_the_estimate_is_that_of_the_task_that_ends_last() -> None:
    """Elapsed by the worker's own clock, and by the server's since it was heard."""
    assert told(worker(WORK, MAIL, age_s=2), train=60, mail=20).eta_s == 48.0


def test_no_estimate_without_evidence_or_past_all_evidence() -> None:
    """And it is said for which tasks."""
    for seen in (told(worker(WORK, MAIL), mail=20), told(worker(WORK, MAIL), mail=20, train=10)):
        assert (seen.eta_s, seen.without_estimate) == (None, ["app.train"])


@pytest.mark.parametrize("hindrance", [{"age_s": 60}, {"enforces": ("global",)}])
def test_what_would_never_drain_has_no_estimate(hindrance: dict[str, Any]) -> None:
    """A silent worker, and one that does not obey such a hold."""
    assert told(worker(MAIL, **hindrance), scope="queue:mail", mail=60).eta_s is None


def test_only_the_scope_is_touched() -> None:
    seen = told(
        worker(WORK, MAIL),
        worker(nodename="w2@h", queues=("mail",)),
        worker(nodename="w3@h", is_goodbye=True),
        scope="queue:gpu",
        train=60,
    )
    touched = [(one.worker.beat.nodename, [task.task.id for task in one.running]) for one in seen.workers]
    assert touched == [("w1@h", ["t1"])]
    assert (len(seen.running), seen.eta_s) == (1, 50.0)


def test_an_idle_scope_drains_at_once() -> None:
    assert told(worker()).eta_s == 0.0


def test_a_broker_that_cannot_be_read_is_told_from_an_empty_one() -> None:
    assert preview([], GLOBAL, depths=None, usual_s={}, now=NOW).depths is None
