"""Progress is derived: silence is unknown, never quiet (L4), and drained is said only on evidence (R-C4)."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluicegate.schemas.api.pausing import MetricsBody
from sluicegate.schemas.beats import Beat, RunningTask, WorkerState, YieldedTask
from sluicegate.schemas.errors import InvalidInput
from sluicegate.schemas.holds.hold import Hold, Holds
from sluicegate.schemas.modes import Mode
from sluicegate.schemas.progress import Sighting, measure, view
from sluicegate.schemas.scopes import GLOBAL
from sluicegate.schemas.snapshots import NOTHING, Edition
from tests.unit.strategies import NOW, moments, names, texts

LEASE = timedelta(seconds=10)
DESIRED = Edition(1, 7)
TASK = RunningTask(id="t1", name="app.train", started_at=NOW)

editions = st.builds(Edition, st.integers(0, 5), st.integers(0, 50))
tasks = st.builds(RunningTask, id=names, name=texts, started_at=st.none() | moments)
beats = st.builds(
    Beat,
    nodename=names,
    incarnation=names,
    host=names,
    pool=st.just("prefork"),
    pid=st.integers(1, 10**6),
    seq=st.integers(1, 10**6),
    sent_at=moments,
    state=st.sampled_from([WorkerState.RUNNING, WorkerState.PAUSING, WorkerState.PAUSED]),
    applied=editions,
    applied_at=st.none() | moments,
    is_stale=st.booleans(),
    is_goodbye=st.booleans(),
    queues=st.lists(names).map(tuple),
    running=st.lists(tasks, max_size=3).map(tuple),
    reserved=st.integers(0, 9),
    refused=st.dictionaries(names, st.integers(0, 9), max_size=2),
    yielded=st.lists(st.builds(YieldedTask, task=tasks, at=moments), max_size=2).map(tuple),
    fingerprint=st.none() | names,
    fence=editions,
    shown=st.none() | texts,
)


def beat(**other) -> Beat:
    known: dict[str, Any] = {
        "nodename": "w1@h",
        "incarnation": "i1",
        "host": "h",
        "pool": "prefork",
        "pid": 1,
        "seq": 1,
        "sent_at": NOW,
        "state": WorkerState.PAUSED,
        "applied": DESIRED,
        "applied_at": NOW,
    }
    return Beat(**(known | other))


def hold() -> Hold:
    return Hold(id=uuid4(), scope=GLOBAL, mode=Mode.DRAIN, reason="deploy", actor="alice", created_at=NOW)


def seen(*beats_: Beat, ago: timedelta = timedelta()):
    return [view(Sighting(beat=b, seen_at=NOW - ago), desired=DESIRED, lease=LEASE, now=NOW) for b in beats_]


@given(beats)
def test_a_beat_survives_the_wire(b):
    assert Beat.decode(b.encode()) == b


@given(st.binary(max_size=60))
def test_what_is_no_beat_is_refused(raw):
    with pytest.raises(InvalidInput):
        Beat.decode(raw)


def test_all_paused_and_nothing_running_is_drained():
    metrics = measure(seen(beat(), beat(nodename="w2@h")), queued=40, source="broker")
    assert metrics.is_drained
    assert MetricsBody.of(metrics).to_json() == {
        "queued": 40,
        "running": 0,
        "staleRunning": 0,
        "waiting": 0,
        "isDrained": True,
        "isQuiesced": True,
        "ahead": 0,
        "workers": 2,
        "strangers": [],
        "metricsSource": "broker",
        "setAside": None,
        "setAsideByQueue": None,
        "unread": 0,
        "unsigned": 2,
        "forged": 0,
        "isPausedByCapacity": False,
        "capacityPercentage": None,
        "capacityThreshold": None,
        "lastCapacityCheck": None,
    }


@pytest.mark.parametrize(
    ("workers", "running", "stale"),
    [
        (seen(beat(running=(TASK,))), 1, 0),
        (seen(beat(applied=Edition(1, 6))), 0, 0),
        (seen(beat(applied=NOTHING)), 0, 0),
        (seen(beat(), ago=LEASE), 0, 0),
        (seen(beat(running=(TASK, TASK)), ago=LEASE), 2, 2),
    ],
    ids=["a task runs", "an older version", "has not answered", "silent", "silent with work"],
)
def test_each_doubt_alone_keeps_it_from_drained(workers, running, stale):
    metrics = measure([*workers, *seen(beat(nodename="w2@h"))], queued=0, source="broker")
    assert (metrics.running, metrics.stale_running, metrics.is_drained) == (running, stale, False)


@pytest.mark.parametrize("applied", [Edition(1, 8), Edition(2, 1)])
def test_l4_who_is_ahead_of_what_is_ordered_has_not_acknowledged_it(applied):
    """The stores were lost and the workers live on: what they obey is not what is ordered now."""
    metrics = measure(seen(beat(applied=applied), beat(nodename="w2@h")), queued=0, source="broker")
    assert (metrics.is_drained, metrics.is_quiesced, metrics.ahead) == (False, False, 1)


def test_l4_the_same_edition_with_other_holds_is_another_history():
    """Both databases have made a version 7; the ids of what they hold tell them apart."""
    holds = Holds(version=7, active=frozenset({hold()}))

    def seen_at(fingerprint: str | None) -> bool:
        sighting = Sighting(beat=beat(fingerprint=fingerprint), seen_at=NOW)
        return view(sighting, desired=DESIRED, lease=LEASE, now=NOW, holds=holds).has_applied

    other = Holds(version=7, active=frozenset({hold()}))
    assert [seen_at(said) for said in (holds.fingerprint, other.fingerprint, None)] == [True, False, True]


def test_who_is_faster_than_a_look_is_not_ahead_and_has_yet_to_acknowledge_it():
    """The truth was read before the worker took an order that came after it."""
    sighting = Sighting(beat=beat(applied=Edition(1, 8)), seen_at=NOW)
    worker = view(sighting, desired=DESIRED, lease=LEASE, now=NOW, newest=Edition(1, 8))
    assert (worker.is_ahead, worker.has_applied) == (False, False)


def test_a_life_that_has_applied_nothing_is_ahead_by_what_it_remembers():
    (worker,) = seen(beat(applied=NOTHING, fence=Edition(1, 23)))
    assert (worker.is_ahead, worker.beat.stands_at) == (True, Edition(1, 23))


def test_a_goodbye_is_quiet_however_long_ago():
    (worker,) = seen(beat(is_goodbye=True, running=()), ago=timedelta(days=3))
    assert worker.state is WorkerState.GONE
    assert measure([worker], queued=0, source="broker").is_drained


def test_a_depth_that_cannot_be_read_is_never_drained():
    metrics = measure(seen(beat()), queued=None, source="broker")
    assert not metrics.is_drained
    assert metrics.source == "unavailable"


def test_the_lease_ends_at_its_instant_and_not_before():
    just_before = seen(beat(), ago=LEASE - timedelta(microseconds=1))
    assert [w.state for w in just_before + seen(beat(), ago=LEASE)] == [WorkerState.PAUSED, WorkerState.UNKNOWN]


@given(st.lists(beats, max_size=5), st.integers(0, 20))
def test_drained_implies_that_nobody_is_unknown_behind_or_busy(some, ago_s):
    workers = seen(*some, ago=timedelta(seconds=ago_s))
    if measure(workers, queued=0, source="broker").is_drained:
        for worker in workers:
            assert worker.state is WorkerState.GONE or (worker.has_applied and not worker.beat.running)
            assert worker.state is not WorkerState.UNKNOWN
