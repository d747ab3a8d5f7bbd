"""Pause and resume (R-A2 to R-A8): what is stored, what is on record, and what a refusal leaves alone."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import Connection, event
from sqlalchemy.exc import OperationalError

from sluicegate.control.audit import events
from sluicegate.control.holds import hold_rows, namespaces
from sluicegate.control.process.plane import ControlPlane
from sluicegate.schemas.beats import RunningTask, WorkerState
from sluicegate.schemas.errors import InvalidInput, Refused, Unavailable
from sluicegate.schemas.holds.hold import Cause, Hold
from sluicegate.schemas.holds.transitions import place
from sluicegate.schemas.modes import Mode
from sluicegate.schemas.scopes import GLOBAL
from sluicegate.schemas.snapshots import Edition
from sluicegate.schemas.times import from_wire, to_wire
from tests.integration.world import PAUSE, RESUME, World, check_one_event_per_version, eventually

WORK = (RunningTask(id="t1", name="app.work"),)


def place_other(world: World, plane: ControlPlane, cause: Cause = Cause.BUDGET, mode: Mode = Mode.DRAIN) -> None:
    """A hold of another owner, as a governor will place it."""
    with plane.database.transaction() as connection:
        truth = namespaces.lock(connection, world.namespace)
        hold = Hold(
            id=uuid4(),
            scope=GLOBAL,
            mode=mode,
            reason="90 % spent",
            actor="governor",
            created_at=truth.now,
            cause=cause,
            source="s",
        )
        change = place(truth.holds, hold)
        version = change.holds.version
        made = events.Event(
            action="budget_paused",
            outcome=events.APPLIED,
            actor="governor",
            at=truth.now,
            edition=Edition(truth.epoch, version),
            version=version,
            **events.about(hold),
        )
        namespaces.store(connection, truth, change, made)


def test_a_new_namespace_starts_at_version_one_with_its_event(world: World) -> None:
    """R-A2, S7: even the first version was made by an event."""
    body = world.read(world.replica())
    assert (body["system"]["version"], body["system"]["epoch"], body["system"]["workersPaused"]) == (1, 1, False)
    (born,) = world.events(namespace=world.namespace)
    assert (born["action"], born["version"], born["outcome"]) == ("namespace_created", 1, "applied")


def test_a_pause_and_its_alteration_and_its_resume(world: World) -> None:
    """R-A2: `requestedAt` stays when mode or reason change, and is null after the resume."""
    plane = world.replica()
    first = world.change(plane, **PAUSE)["system"]
    assert (first["workersPaused"], first["mode"], first["reason"]) == (True, "drain", "deploy")
    assert (first["version"], first["requestedByUserId"]) == (2, "alice")
    second = world.change(plane, actor="bob", action="pause", mode="quiesce", reason="faster")["system"]
    assert (second["version"], second["mode"], second["requestedByUserId"]) == (3, "quiesce", "bob")
    assert second["requestedAt"] == first["requestedAt"]
    third = world.change(plane, **RESUME)
    assert (third["system"]["version"], third["system"]["mode"], third["remaining"]) == (4, "run", [])
    assert third["system"]["requestedAt"] is third["system"]["reason"] is None
    check_one_event_per_version(world)
    actions = [(e["action"], e["details"]["change"]) for e in world.events() if e["action"] in ("pause", "resume")]
    assert actions == [("pause", "placed"), ("pause", "altered"), ("resume", "released")]


def test_an_identical_repeat_is_a_noop_on_record(world: World) -> None:
    """R-A5: 200, the version unchanged, one more audit row, which made no version."""
    plane = world.replica()
    first = world.change(plane, **PAUSE)
    again = world.change(plane, actor="bob", **PAUSE)
    assert (again["outcome"], again["system"]) == ("noop", first["system"])
    assert [(e["actor"], e["version"]) for e in world.events(outcome="noop")] == [("bob", None)]


def test_distinct_changes_at_once_make_one_version_each(world: World) -> None:
    """R-A3: N changes over two replicas, version +N exactly."""
    planes = [world.replica(), world.replica()]
    before = world.change(planes[0], **PAUSE)["system"]["version"]
    with ThreadPoolExecutor(8) as pool:
        answers = list(
            pool.map(lambda i: world.change(planes[i % 2], action="pause", mode="drain", reason=f"no {i}"), range(24))
        )
    assert {answer["outcome"] for answer in answers} == {"applied"}
    assert sorted(a["system"]["version"] for a in answers) == list(range(before + 1, before + 25))
    check_one_event_per_version(world)
    published = world.published()
    assert published is not None
    assert published.edition == world.edition()


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"action": "pause", "mode": "drain"}, "reason"),
        ({"action": "pause", "mode": "drain", "reason": " \n"}, "reason"),
        ({"action": "pause", "mode": "drain", "reason": 7}, "reason"),
        ({"action": "pause", "mode": "drain", "reason": "x" * 1001}, "reason"),
        ({"action": "pause", "mode": "drain", "reason": "a\x00b"}, "reason"),
        ({"action": "pause", "mode": "drain", "reason": "a\ud800b"}, "reason"),
        ({"action": "pause", "reason": "x"}, "mode"),
        ({"action": "pause", "mode": "run", "reason": "x"}, "mode"),
        ({"action": "pause", "mode": "DRAIN", "reason": "x"}, "mode"),
        ({"action": "pause", "mode": ["drain"], "reason": "x"}, "mode"),
        (PAUSE | {"scope": "globl"}, "scope"),
        (PAUSE | {"scope": None}, "scope"),
        (PAUSE | {"scope": "queue:"}, "scope"),
        (PAUSE | {"scope": "queue:e*"}, "scope"),
        (PAUSE | {"deadline": "2999-01-01T00:00:00Z"}, "then"),
        (PAUSE | {"then": "quiesce"}, "then"),
        (PAUSE | {"deadline": "2999-01-01T00:00:00Z", "then": "explode"}, "then"),
        (PAUSE | {"deadline": "2999-01-01T00:00:00Z", "then": ["quiesce"]}, "then"),
        (PAUSE | {"deadline": "2020-01-01T00:00:00Z", "then": "quiesce"}, "deadline"),
        (PAUSE | {"deadline": "soon", "then": "quiesce"}, "deadline"),
        (PAUSE | {"mode": "quiesce", "deadline": "2999-01-01T00:00:00Z", "then": "quiesce"}, "then"),
        (
            PAUSE | {"deadline": "2999-01-02T00:00:00Z", "then": "quiesce", "expiresAt": "2999-01-01T00:00:00Z"},
            "deadline",
        ),
        (RESUME | {"deadline": "2999-01-01T00:00:00Z"}, "deadline"),
        (RESUME | {"then": "quiesce"}, "then"),
        (RESUME | {"ramp": "fast"}, "ramp"),
        (RESUME | {"ramp": ["5/s"]}, "ramp"),
        (PAUSE | {"ramp": "5/s"}, "ramp"),
        (PAUSE | {"forceResume": True}, "forceResume"),
        (PAUSE | {"expiresAt": "tomorrow"}, "expiresAt"),
        (PAUSE | {"expiresAt": "2999-01-01T00:00:00"}, "expiresAt"),
        (PAUSE | {"expiresAt": "2020-01-01T00:00:00Z"}, "expiresAt"),
        (PAUSE | {"expiresInS": 0}, "expiresInS"),
        (PAUSE | {"expiresInS": -1.5}, "expiresInS"),
        (PAUSE | {"expiresInS": "90"}, "expiresInS"),
        (PAUSE | {"expiresInS": True}, "expiresInS"),
        (PAUSE | {"expiresInS": float("nan")}, "expiresInS"),
        (PAUSE | {"expiresInS": 1e12}, "expiresInS"),
        (PAUSE | {"expiresInS": 60, "expiresAt": "2999-01-01T00:00:00Z"}, "expiresInS"),
        (PAUSE | {"deadlineInS": 60}, "then"),
        (PAUSE | {"deadlineInS": 60, "then": "requeue", "deadline": "2999-01-01T00:00:00Z"}, "deadlineInS"),
        (PAUSE | {"deadlineInS": 60, "then": "requeue", "expiresInS": 60}, "deadline"),
        (RESUME | {"expiresInS": 60}, "expiresInS"),
        (RESUME | {"deadlineInS": 60}, "deadlineInS"),
        (PAUSE | {"idempotencyKey": " "}, "idempotencyKey"),
        (PAUSE | {"idempotencyKey": "k" * 201}, "idempotencyKey"),
        ({"action": "resume"}, "reason"),
        (RESUME | {"scope": "host:a?"}, "scope"),
        (RESUME | {"expiresAt": "2999-01-01T00:00:00Z"}, "expiresAt"),
    ],
)
def test_bad_input_names_its_field_and_changes_nothing(world: World, body: dict[str, Any], field: str) -> None:
    """R-A4: 422, and not a row is different."""
    plane = world.replica()
    world.change(plane, action="pause", mode="quiesce", reason="before")
    before = world.dump()
    with pytest.raises(InvalidInput) as caught:
        world.change(plane, **body)
    assert caught.value.field == field
    assert world.dump() == before


def test_resuming_an_undrained_drain_is_refused_with_the_metrics(world: World) -> None:
    """R-A7: 409, on record, and nothing else changes."""
    plane = world.replica()
    world.beat("celery@a", state=WorkerState.PAUSING, running=WORK)
    world.change(plane, **PAUSE)
    before = world.dump("namespaces", "holds", "idempotency_keys")
    with pytest.raises(Refused, match="forceResume") as caught:
        world.change(plane, **RESUME)
    metrics = caught.value.details["metrics"]
    assert (metrics["running"], metrics["isDrained"]) == (1, False)
    assert world.dump("namespaces", "holds", "idempotency_keys") == before
    (refused,) = world.events(outcome="refused")
    assert (refused["action"], refused["actor"], refused["version"]) == ("resume", "alice", None)
    assert refused["details"]["metrics"] == metrics


def test_force_resumes_an_undrained_drain_and_is_on_record(world: World) -> None:
    """R-A7: the force is in the audit row."""
    plane = world.replica()
    world.beat("celery@a", running=WORK)
    world.change(plane, **PAUSE)
    assert world.change(plane, **RESUME, forceResume=True)["system"]["workersPaused"] is False
    assert world.events(action="resume")[0]["details"]["forceResume"] is True


def test_a_drained_fleet_resumes_without_force(world: World) -> None:
    """R-C4: every worker has applied the version, and nothing runs."""
    plane = world.replica()
    world.change(plane, **PAUSE)
    world.beat("celery@a", state=WorkerState.PAUSED, applied=world.edition())
    answer = world.change(plane, **RESUME)
    assert (answer["outcome"], answer["system"]["mode"]) == ("applied", "run")


def test_a_silent_worker_blocks_an_unforced_resume(world: World) -> None:
    """L4: silence is unknown, never drained."""
    plane = world.replica()
    world.change(plane, **PAUSE)
    world.beat("celery@a", state=WorkerState.PAUSED, applied=world.edition(), age_s=11)
    with pytest.raises(Refused):
        world.change(plane, **RESUME)


def test_resuming_a_quiesce_never_needs_force(world: World) -> None:
    """R-A7."""
    plane = world.replica()
    world.beat("celery@a", running=WORK)
    world.change(plane, action="pause", mode="quiesce", reason="now")
    assert world.change(plane, **RESUME)["outcome"] == "applied"


def test_resuming_what_nothing_holds_is_a_noop_on_record(world: World) -> None:
    """R-A7: 200, `outcome=noop`."""
    answer = world.change(world.replica(), **RESUME)
    assert (answer["outcome"], answer["system"]["version"]) == ("noop", 1)
    assert [e["action"] for e in world.events(outcome="noop")] == ["resume"]


def test_resume_releases_the_manual_hold_alone(world: World) -> None:
    """R-A8, R-G1: what else holds stays, and is named."""
    plane = world.replica()
    world.change(plane, action="pause", mode="quiesce", reason="by hand")
    place_other(world, plane)
    answer = world.change(plane, **RESUME)
    assert answer["remaining"] == ["budget"]
    system = answer["system"]
    assert (system["workersPaused"], system["mode"], system["reason"]) == (True, "drain", None)
    assert [hold["cause"] for hold in system["holds"]] == ["budget"]
    check_one_event_per_version(world)


def test_resuming_what_only_others_hold_is_refused_and_lists_them(world: World) -> None:
    """R-A7: 409 listing the causes."""
    plane = world.replica()
    place_other(world, plane, Cause.CAPACITY)
    place_other(world, plane, Cause.BUDGET)
    with pytest.raises(Refused) as caught:
        world.change(plane, **RESUME, forceResume=True)
    assert caught.value.details["remaining"] == ["budget", "capacity"]


def test_a_repeated_request_is_answered_and_not_done_again(world: World) -> None:
    """The same key and request: the first answer, and no event, even after the state went on."""
    plane = world.replica()
    first = world.change(plane, **PAUSE, idempotencyKey="k1")
    assert world.change(plane, **PAUSE, idempotencyKey="k1") == first
    world.change(plane, **RESUME)
    count = len(world.events())
    again = world.change(plane, **PAUSE, idempotencyKey="k1")
    assert (again["outcome"], again["system"]) == ("applied", first["system"])
    assert len(world.events()) == count
    assert world.read(plane)["system"]["workersPaused"] is False


def test_a_key_belongs_to_one_request_and_one_actor(world: World) -> None:
    """Another request with it is refused with the field named; another actor's key is another key."""
    plane = world.replica()
    world.change(plane, **PAUSE, idempotencyKey="k1")
    before = world.dump()
    with pytest.raises(InvalidInput) as caught:
        world.change(plane, action="pause", mode="quiesce", reason="deploy", idempotencyKey="k1")
    assert caught.value.field == "idempotencyKey"
    assert world.dump() == before
    assert world.change(plane, actor="bob", **PAUSE, idempotencyKey="k1")["outcome"] == "noop"


def test_one_key_sent_many_times_at_once_does_one_thing(world: World) -> None:
    """A client that times out and tries again, over two replicas."""
    planes = [world.replica(), world.replica()]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda i: world.change(planes[i % 2], **PAUSE, idempotencyKey="k"), range(12)))
    assert {(a["outcome"], a["system"]["version"]) for a in answers} == {("applied", 2)}
    assert len(world.events(action="pause")) == 1


@contextmanager
def failing_commits(plane: ControlPlane, *, durable: bool, times: int = 1) -> Iterator[None]:
    """The next commits of changes lose their connection: after they took effect, or before."""
    engine = plane.database._engine
    left = [times]

    def commit(connection: Connection) -> None:
        dbapi = connection.connection.dbapi_connection
        assert dbapi is not None
        if left[0] and connection.info.pop("changed", False):
            left[0] -= 1
            if durable:
                dbapi.cursor().execute("commit")
            raise OperationalError("commit", {}, Exception("server closed the connection"), connection_invalidated=True)

    def mark(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        if "INSERT INTO idempotency_keys" in statement:
            connection.info["changed"] = True

    event.listen(engine, "commit", commit)
    event.listen(engine, "before_cursor_execute", mark)
    try:
        yield
    finally:
        event.remove(engine, "commit", commit)
        event.remove(engine, "before_cursor_execute", mark)


def test_connections_that_were_lost_while_they_lay_in_the_pool_are_replaced_unseen(world: World) -> None:
    """Postgres was restarted, or a proxy closed what was idle."""
    plane = world.replica()
    with plane.database.transaction(), plane.database.transaction():
        pass
    theirs = "datname = current_database() and pid <> pg_backend_pid()"
    ended = world.sql(f"select pg_terminate_backend(pid, 5000) from pg_stat_activity where {theirs}")
    assert len(ended) >= 2
    assert [world.change(plane, **order)["outcome"] for order in (PAUSE, RESUME)] == ["applied", "applied"]


def test_a_commit_whose_answer_was_lost_is_found_out_by_its_key(world: World) -> None:
    """It took effect: the caller is told so, and it was done once."""
    plane = world.replica()
    with failing_commits(plane, durable=True):
        answer = world.change(plane, **PAUSE)
    assert (answer["outcome"], answer["published"]) == ("applied", True)
    assert world.edition().version == 2
    check_one_event_per_version(world)


def test_a_commit_that_was_lost_is_said_to_be(world: World) -> None:
    """It did not take effect: the caller is told that it can try again."""
    plane = world.replica()
    world.read(plane)
    before = world.dump()
    with failing_commits(plane, durable=False), pytest.raises(Unavailable, match="commit"):
        world.change(plane, **PAUSE)
    assert world.dump() == before


def test_changes_are_durable_whatever_the_servers_default(world: World) -> None:
    """With synchronous_commit off, acknowledged versions were lost in a crash."""
    name = world.database_url.rsplit("/", 1)[1]
    world.sql(f'alter database "{name}" set synchronous_commit = off')
    plane = world.replica()
    seen: list[tuple[bool, str]] = []

    def look(connection: Connection) -> None:
        raw = connection.connection.dbapi_connection
        assert raw is not None
        cursor = raw.cursor()
        cursor.execute("select pg_current_xact_id_if_assigned() is not null, current_setting('synchronous_commit')")
        row = cursor.fetchone()
        assert row is not None
        seen.append((row[0], row[1]))

    event.listen(plane.database._engine, "commit", look)
    world.change(plane, **PAUSE)
    writes = [setting for has_written, setting in seen if has_written]
    assert writes
    assert set(writes) == {"on"}


def test_a_hold_expires_once_however_many_replicas_look(world: World) -> None:
    """R-B7: released by the clock, with exactly one event, and published."""
    planes = [world.start(), world.start()]
    expires_at = datetime.now(UTC) + timedelta(seconds=1)
    answer = world.change(planes[0], **PAUSE, expiresAt=expires_at.isoformat())
    assert answer["system"]["holds"][0]["expiresAt"] == to_wire(expires_at)
    (expired,) = eventually(lambda: world.events(action="hold_expired"))
    assert (expired["actor"], expired["version"]) == ("sluicegate", 3)
    late = from_wire(expired["created_at"], "created_at") - expires_at
    assert timedelta(0) <= late < timedelta(seconds=2)

    def is_announced() -> bool:
        published = world.published()
        return published is not None and published.edition.version == 3 and not published.holds.active

    eventually(is_announced)
    for plane in planes:
        assert plane.clock.expire_due() == 0
    assert len(world.events(action="hold_expired")) == 1
    check_one_event_per_version(world)


def deadline_in(seconds: float) -> dict[str, str]:
    return {"deadline": to_wire(datetime.now(UTC) + timedelta(seconds=seconds)), "then": "quiesce"}


def test_a_deadline_comes_once_however_many_replicas_look(world: World) -> None:
    """R-B6: one change, one event that names what still runs, and published."""
    planes = [world.start(), world.start()]
    world.beat("celery@a", running=WORK)
    first = world.change(planes[0], **PAUSE, **deadline_in(1.5))
    (hold,) = first["system"]["holds"]
    assert (hold["mode"], hold["then"]) == ("drain", "quiesce")
    (came,) = eventually(lambda: world.events(action="hold_escalated"))
    assert (came["actor"], came["version"], came["mode"]) == ("sluicegate", 3, "quiesce")
    assert [(task["nodename"], task["id"]) for task in came["details"]["running"]] == [("celery@a", "t1")]
    late = from_wire(came["created_at"], "created_at") - from_wire(hold["deadline"], "deadline")
    assert timedelta(0) <= late < timedelta(seconds=2)

    def is_announced() -> bool:
        published = world.published()
        return published is not None and published.holds.global_mode is Mode.QUIESCE

    eventually(is_announced)
    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(lambda turn: planes[turn % 2].clock.escalate_due(), range(8))) == 0
    assert len(world.events(action="hold_escalated")) == 1
    check_one_event_per_version(world)


def test_replicas_that_escalate_at_the_same_moment_make_one_change(world: World) -> None:
    """Without loops: all of them find it due, and one does it."""
    planes = [world.replica() for _ in range(4)]
    world.beat("celery@a", running=WORK)
    world.change(planes[0], **PAUSE, **deadline_in(1.5))
    eventually(lambda: world.sql("select 1 from holds where deadline <= clock_timestamp()"))
    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(lambda turn: planes[turn % 4].clock.escalate_due(), range(16))) == 1
    check_one_event_per_version(world)


def test_a_deadline_after_the_drain_was_complete_changes_nothing(world: World) -> None:
    """What follows it is for work that is left."""
    plane = world.replica()
    world.beat("celery@a", running=WORK)
    world.change(plane, **PAUSE, **deadline_in(1.5))
    world.beat("celery@a", state=WorkerState.PAUSED, applied=Edition(1, 2))
    assert plane.draining.follow() == 1
    eventually(lambda: world.sql("select 1 from holds where deadline <= clock_timestamp()"))
    assert plane.clock.escalate_due() == 0
    assert world.read(plane)["system"]["mode"] == "drain"


def test_whoever_asks_for_a_step_is_told_which_workers_cannot_do_it(world: World) -> None:
    plane = world.replica()
    for pool in ("prefork", "gevent", "threads"):
        world.beat(f"celery@{pool}", pool=pool)
    asked = deadline_in(600)
    told = {
        then: world.change(plane, **PAUSE, **(asked | {"then": then}))["warnings"] for then in ("requeue", "terminate")
    }
    assert told == {
        "requeue": [
            "celery@gevent (gevent) cannot requeue a running task: it is asked to stop",
            "celery@threads (threads) cannot requeue a running task: it is asked to stop",
        ],
        "terminate": ["celery@threads (threads) cannot terminate a running task: it is asked to stop"],
    }


def test_a_quiesce_may_have_a_deadline_that_ends_what_is_left(world: World) -> None:
    """Also what waits at its checkpoint: that is quiesced, and not drained."""
    plane = world.replica()
    waiting = (replace(WORK[0], is_waiting=True),)
    world.beat("celery@a", running=waiting)
    by = deadline_in(1.5) | {"then": "terminate"}
    world.change(plane, **(PAUSE | {"mode": "quiesce"}), **by)
    world.beat("celery@a", state=WorkerState.PAUSED, applied=Edition(1, 2), running=waiting)
    assert plane.draining.follow() == 1
    eventually(lambda: world.sql("select 1 from holds where deadline <= clock_timestamp()"))
    assert plane.clock.escalate_due() == 1
    assert plane.clock.escalate_due() == 0
    (held,) = world.read(plane)["system"]["holds"]
    assert (held["mode"], held["then"], held["escalatedAt"] is not None) == ("quiesce", "terminate", True)
    world.beat("celery@a", state=WorkerState.PAUSED, applied=Edition(1, 3), running=waiting)
    assert plane.draining.follow() == 0, "it is not over yet"
    world.beat("celery@a", state=WorkerState.PAUSED, applied=Edition(1, 3))
    assert plane.draining.follow() == 1


def test_a_resume_with_a_ramp_reopens_by_itself_and_remains_nobody_s_hold(world: World) -> None:
    """R-G4: an event at its begin and one at its end; a resume without a ramp ends it at once."""
    plane = world.start()
    for name in "abcd":
        world.beat(f"celery@{name}")
    world.change(plane, **PAUSE)
    answer = world.change(plane, **RESUME, forceResume=True, ramp="4/s")
    (hold,) = answer["system"]["holds"]
    assert (answer["remaining"], answer["system"]["workersPaused"]) == ([], True)
    assert hold["ramp"] == {"rate": "4/s", "spanS": 1.0, "order": [f"celery@{name}" for name in "abcd"]}
    (done,) = eventually(lambda: world.events(action="ramp_completed"))
    assert done["details"]["ramp"] == "4/s"
    assert not world.read(plane)["system"]["workersPaused"]
    (asked,) = world.events(action="resume")
    assert (asked["details"]["ramp"], asked["details"]["change"]) == ("4/s", "ramped")
    world.change(plane, **PAUSE)
    world.change(plane, **RESUME, forceResume=True, ramp="1/m")
    world.change(plane, **RESUME)
    assert not world.read(plane)["system"]["workersPaused"]
    check_one_event_per_version(world)


def test_a_repeat_with_the_same_deadline_is_a_noop_and_with_another_an_alteration(world: World) -> None:
    plane = world.replica()
    by = deadline_in(600)
    assert [world.change(plane, **PAUSE, **by)["outcome"] for _ in range(2)] == ["applied", "noop"]
    assert world.change(plane, **PAUSE, **deadline_in(900))["outcome"] == "applied"
    assert world.change(plane, **PAUSE)["system"]["holds"][0]["deadline"] is None


def test_spans_end_by_the_databases_clock(world: World) -> None:
    """Nobody else's: the hold stands for as long as was said, and the audit has the times that it came to."""
    plane = world.replica()
    (hold,) = world.change(plane, **PAUSE, expiresInS=90, deadlineInS=60, then="requeue")["system"]["holds"]
    placed = from_wire(hold["createdAt"], "createdAt")
    assert from_wire(hold["expiresAt"], "expiresAt") - placed == timedelta(seconds=90)
    assert from_wire(hold["deadline"], "deadline") - placed == timedelta(seconds=60)
    (event,) = world.events(action="pause")
    assert {name: event["details"][name] for name in ("expiresAt", "deadline")} == {
        name: hold[name] for name in ("expiresAt", "deadline")
    }


def test_a_request_repeated_after_its_hold_expired_is_answered_as_the_first_was(world: World) -> None:
    """`expiresAt` lies in the past by then: that is no reason to call the request wrong."""
    plane = world.replica()
    body = PAUSE | {"expiresAt": (datetime.now(UTC) + timedelta(seconds=1.5)).isoformat(), "idempotencyKey": "k"}
    first = world.change(plane, **body)
    eventually(plane.clock.expire_due)
    assert world.change(plane, **body)["system"] == first["system"]


def test_rows_of_holds_survive_the_round_trip(world: World) -> None:
    """What is stored is what was decided."""
    plane = world.replica()
    world.change(plane, **PAUSE)
    with plane.database.transaction() as connection:
        truth = namespaces.read(connection, world.namespace)
    assert truth is not None
    (hold,) = truth.holds.active
    assert hold_rows.from_row(hold_rows.to_row(hold)) == hold


def test_a_connection_whose_commit_failed_is_given_up_with_what_was_open_on_it(world: World) -> None:
    """Whatever it was (here: the driver was interrupted): the next transaction must not commit what this one left."""
    plane = world.replica()
    engine = plane.database._engine

    def interrupted(connection: Connection) -> None:
        event.remove(engine, "commit", interrupted)
        raise KeyboardInterrupt

    def create_and_be_interrupted() -> None:
        with plane.database.transaction() as connection:
            namespaces.create(connection, world.namespace)
            event.listen(engine, "commit", interrupted)

    with pytest.raises(KeyboardInterrupt):
        create_and_be_interrupted()
    with plane.database.transaction():
        pass
    assert world.sql("select count(*) from namespaces")[0][0] == 0
