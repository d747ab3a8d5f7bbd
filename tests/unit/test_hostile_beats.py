"""What a worker's credential, or a task's sender, can put in a heartbeat is that worker's own state, and no look's."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluicegate.control.fleet.view import combined
from sluicegate.control.fleet.words import Words
from sluicegate.control.links.state_redis import Heard
from sluicegate.control.pausing.warnings import warnings
from sluicegate.schemas import lives, telling
from sluicegate.schemas.api.holds import AtPauseBody
from sluicegate.schemas.api.pausing import MetricsBody, PreviewAnswer
from sluicegate.schemas.api.workers import WorkersAnswer
from sluicegate.schemas.beats import MAX_BEAT_BYTES, Beat, EndedRun, ForcedTask, RunningTask, WorkerState, YieldedTask
from sluicegate.schemas.errors import InvalidInput
from sluicegate.schemas.holds.at_pause import fleet_at_pause
from sluicegate.schemas.holds.drains import follow
from sluicegate.schemas.holds.preview import preview
from sluicegate.schemas.progress import WorkerView, measure, view
from sluicegate.schemas.runtimes import ended
from sluicegate.schemas.scopes import GLOBAL, Scope
from sluicegate.schemas.snapshots import Edition
from sluicegate.workers.cell import Cell, mark_of

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
LEASE = timedelta(seconds=10)
TASK = RunningTask(id="t1", name="app.work", started_at=NOW, is_waiting=True, queue="q")
GOOD = Beat(
    nodename="celery@bad",
    incarnation="life",
    host="bad",
    pool="prefork",
    pid=7,
    seq=3,
    sent_at=NOW,
    state=WorkerState.PAUSED,
    applied=Edition(1, 2),
    applied_at=NOW,
    concurrency=4,
    queues=("q", "r"),
    running=(TASK,),
    reserved=2,
    refused={"stale": 1},
    labels={"zone": "a"},
    yielded=(YieldedTask(task=TASK, at=NOW),),
    forced=(ForcedTask(task=TASK, at=NOW, how="requeued"),),
    ended=(EndedRun(task=TASK, at=NOW, end="failed", comes_again=True),),
    beside=("x",),
    fingerprint="f" * 16,
    fence=Edition(1, 2),
    shown="{}",
)

nasty: st.SearchStrategy[Any] = st.sampled_from(
    [
        float("inf"),
        float("nan"),
        1e308,
        10**400,
        -1,
        2**64,
        "a\0b",
        "\ud800",
        "x" * 5000,
        "\N{SNOWMAN}" * 3000,
        "",
        "0001-01-01T00:00:00+23:59",
        "9999-12-31T23:59:59-23:59",
        "\0" * 300,
        [[[[]]]],
        True,
        None,
    ]
)
anything = st.recursive(
    nasty | st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(exclude_categories=[])),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5) | st.just("a\0"), inner, max_size=3)
    ),
    max_leaves=6,
)


def places(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The way to everything within a JSON value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [at, *(place for key, one in inner for place in places(one, (*at, key)))]


PLACES = places(json.loads(GOOD.encode()))[1:]


def put(wire: Any, place: tuple[Any, ...], value: Any) -> None:
    """Puts `value` at a place; where an earlier change took that place away, nothing."""
    for key in place[:-1]:
        try:
            wire = wire[key]
        except (KeyError, IndexError, TypeError):
            return
    if isinstance(wire, dict) or (isinstance(wire, list) and place[-1] < len(wire)):
        wire[place[-1]] = value


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A valid beat with a few values of it changed, in JSON as Python writes it: NaN and Infinity too."""
    wire = json.loads(GOOD.encode())
    for place, value in draw(st.lists(st.tuples(st.sampled_from(PLACES), anything), min_size=1, max_size=3)):
        put(wire, place, value)
    return json.dumps(wire).encode()


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """The bytes of a valid beat, cut or with other bytes in them."""
    raw = bytearray(GOOD.encode())
    at = draw(st.integers(0, len(raw) - 1))
    raw[at : at + draw(st.integers(0, 20))] = draw(st.binary(max_size=20))
    return bytes(raw)


raws = mutated() | damaged() | anything.map(lambda value: json.dumps(value).encode()) | st.binary(max_size=50)


def everything_asked(raw: bytes, told_of_lives: bytes | None = None) -> list[WorkerView]:
    """What all the answers of the control plane are made of, with this entry beside a good worker's; as JSON."""
    good = Heard("celery@good", NOW, GOOD.encode().replace(b"celery@bad", b"celery@good"))
    words, bad = Words("default"), Heard("celery@bad", NOW, raw, told_of_lives)
    known = combined([words.told(good, NOW), words.told(bad, NOW)], {}, NOW)
    workers = [
        view(life.sighting, desired=Edition(1, 2), lease=LEASE, now=NOW, namesakes=namesakes)
        for name in sorted(known)
        for life, namesakes in lives.counting(known[name], lease=LEASE, now=NOW)
    ]
    for scope in (GLOBAL, Scope.parse("queue:q"), Scope.parse("task:app.work"), Scope.parse("host:bad")):
        metrics = measure(workers, queued=0, source="broker", scope=scope)
        seen = preview(workers, scope, depths={}, usual_s={"app.work": 1.0}, now=NOW)
        told = warnings(scope, workers, "requeue")
        at_pause = fleet_at_pause(workers, scope, {}, source="broker", now=NOW)
        bodies = (MetricsBody.of(metrics), PreviewAnswer.of(seen, held_by=[], warnings=told), AtPauseBody.of(at_pause))
        for body in (*bodies, WorkersAnswer.of(workers)):
            json.dumps(body.to_json(), ensure_ascii=False, allow_nan=False).encode()
        follow((), workers, scope, begun_at=NOW)
    for worker in workers:
        list(ended(GOOD, worker.beat))
    return workers


@given(raws)
def test_a_bad_entry_is_its_workers_own_state(raw: bytes) -> None:
    """Whatever it is, everything can be asked, and the worker beside it is what it was."""
    workers = everything_asked(raw)
    assert [one.state for one in workers if one.beat.nodename == "celery@good"] == [WorkerState.PAUSED]
    assert any(one.beat.nodename == "celery@bad" for one in workers), "it is left out, as if it were quiet"


@given(raws)
def test_what_is_read_can_be_stored(raw: bytes) -> None:
    """Postgres takes neither NUL nor lone surrogates, and no long text in an index; what is stored is read again."""
    try:
        beat = Beat.decode(raw)
    except InvalidInput:
        return
    wire = beat.to_wire()
    stored = json.dumps(wire, allow_nan=False, ensure_ascii=False)
    assert "\\u0000" not in stored
    stored.encode()
    texts = (beat.nodename, beat.incarnation, *(task.name for task in beat.running))
    assert all(len(text) <= telling.MAX_CHARS for text in texts)
    assert Beat.from_wire(json.loads(stored)) == replace(beat, shown=None)


@given(anything)
def test_a_table_of_lives_never_stops_a_look(table: Any) -> None:
    """It is another text that workers write."""
    for told in (table, {"life": table}, {"life": {"at": table, "since": table, "beat": GOOD.encode().decode()}}):
        everything_asked(GOOD.encode(), json.dumps(told).encode())


@pytest.mark.parametrize(
    "raw", [GOOD.encode().replace(b'"pid":7', b'"pid":1e999'), b"[" * 100_000, b"9" * 10_000, b'{"v":1}', b"null"]
)
def test_these_are_illegible(raw: bytes) -> None:
    """Numbers that are none, depth, length, and what is no beat."""
    assert Words("default").told(Heard("celery@bad", NOW, raw), NOW).seen is None
    assert {one.state for one in everything_asked(raw)} == {WorkerState.PAUSED, WorkerState.UNKNOWN}


def test_a_beat_that_is_too_large_is_not_read() -> None:
    """It is judged by its length."""
    with pytest.raises(InvalidInput):
        Beat.decode(GOOD.encode() + b" " * MAX_BEAT_BYTES)


def test_long_texts_that_begin_alike_stay_apart() -> None:
    """Two tasks may not become one."""
    one, other = telling.storable("x" * 300 + "1"), telling.storable("x" * 300 + "2")
    assert one != other
    assert telling.storable(one) == one


@given(st.text(st.characters(exclude_categories=[])))
def test_a_pool_child_notes_any_task_id(task_id: str) -> None:
    """Whoever sends a task chooses its id; one that is no UTF-8 is as good as another."""
    cell = Cell()
    begin, end = cell.noting(0)
    begin(task_id)
    assert cell.slot(0).runs_task(task_id)
    end()
    assert cell.slot(0).mark == mark_of(task_id)
