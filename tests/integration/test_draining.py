"""The drain: what ran at the moment of the pause is stored (R-C2), and its receipt is on record once (R-C5)."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import pytest

from sluicegate.control.process.plane import ControlPlane
from sluicegate.control.store import migrate
from sluicegate.schemas.api.holds import HoldAnswer
from sluicegate.schemas.beats import RunningTask, WorkerState
from sluicegate.schemas.errors import NotFound
from sluicegate.schemas.snapshots import Edition
from tests.integration.world import PAUSE, RESUME, World, check_one_event_per_version, eventually

WORK = RunningTask(id="t1", name="app.work", started_at=datetime(2026, 3, 1, tzinfo=UTC), queue="gpu")
MAIL = RunningTask(id="t2", name="app.mail", started_at=datetime(2026, 3, 1, tzinfo=UTC), queue="mail")
APPLIED: dict[str, Any] = {"state": WorkerState.PAUSED, "applied": Edition(1, 2), "queues": ("gpu",)}


def rows(world: World) -> list[dict[str, Any]]:
    found = world.sql("select to_jsonb(d) from drains d order by version")
    return [row[0] for row in found]


def receipts(world: World) -> list[dict[str, Any]]:
    return [event["details"] for event in world.events(action="drain_completed")]


def test_what_runs_and_waits_is_stored_with_the_answer_to_the_pause(world: World) -> None:
    """R-C2: when the call returns it is there, and it stays as the workers finish."""
    plane = world.replica()
    world.beat("celery@a", running=(WORK,), reserved=3, queues=("gpu",))
    world.change(plane, **PAUSE)
    (row,) = rows(world)
    assert [queue["name"] for queue in row["at_pause"]["queues"]] == ["gpu"]
    (worker,) = row["at_pause"]["workers"]
    assert (worker["nodename"], worker["reserved"], worker["running"][0]["id"]) == ("celery@a", 3, "t1")
    world.beat("celery@a", **APPLIED)
    plane.draining.follow()
    assert rows(world)[0]["at_pause"] == row["at_pause"]
    assert rows(world)[0]["tasks"][0]["fate"] == "finished"


def test_the_story_of_a_hold_stays_readable_after_its_release(world: World) -> None:
    """R-C2, by a viewer, with everything that the models promise."""
    plane = world.start()
    world.beat("celery@a", running=(WORK,), queues=("gpu",))
    asked = world.change(plane, **PAUSE)
    hold = asked["system"]["holds"][0]["id"]
    world.beat("celery@a", **APPLIED)
    eventually(lambda: receipts(world))
    world.change(plane, **RESUME)
    viewer = world.client(plane, "viewer")
    answer = viewer.get(f"/api/holds/{hold}")
    assert answer.status_code == 200
    body = answer.json()
    told = HoldAnswer.model_validate(body)
    assert told.hold.released_by == "alice"
    assert told.at_pause is not None
    assert [task.id for worker in told.at_pause.workers for task in worker.running] == ["t1"]
    assert [(task.id, task.fate) for task in told.tasks] == [("t1", "finished")]
    assert [(drain.version, drain.ending) for drain in told.drains] == [(2, "drained")]
    assert body["drains"][0]["receipt"] == receipts(world)[0]
    assert viewer.get(f"/api/holds/{uuid4()}").status_code == 404
    assert viewer.get("/api/holds/x").json()["error"]["field"] == "id"
    assert world.client(plane, None).get(f"/api/holds/{hold}").status_code == 401


def test_the_hold_of_another_fleet_is_not_found(world: World) -> None:
    hold = world.change(world.replica(), **PAUSE)["system"]["holds"][0]["id"]
    with pytest.raises(NotFound):
        world.replica(SLUICEGATE_NAMESPACE="other").parts.reading.hold(UUID(hold))


def test_the_receipt_comes_when_the_scope_has_drained_and_not_before(world: World) -> None:
    """It says per worker what became of its tasks."""
    plane = world.replica()
    world.beat("celery@a", running=(WORK,))
    world.beat("celery@b", running=(MAIL,))
    world.change(plane, **PAUSE)
    world.beat("celery@a", **APPLIED)
    assert plane.draining.follow() == 0
    world.beat("celery@b", **APPLIED | {"incarnation": "another life"})
    assert plane.draining.follow() == 1
    (made,) = receipts(world)
    assert (made["holdVersion"], made["ending"], made["finished"], made["lost"]) == (2, "drained", 1, 1)
    assert [(row["nodename"], row["finished"], row["lost"]) for row in made["workers"]] == [
        ("celery@a", 1, 0),
        ("celery@b", 0, 1),
    ]
    assert rows(world)[0]["receipt"] == made
    check_one_event_per_version(world)


def test_one_receipt_however_many_replicas_look(world: World) -> None:
    """R-C5: exactly one per hold and version, and looking again adds none."""
    planes = [world.replica() for _ in range(4)]
    world.beat("celery@a", running=(WORK,))
    world.change(planes[0], **PAUSE)
    world.beat("celery@a", **APPLIED)
    with ThreadPoolExecutor(8) as pool:
        ended = list(pool.map(lambda turn: planes[turn % 4].draining.follow(), range(32)))
    assert sum(ended) == 1
    assert len(receipts(world)) == 1


def test_running_loops_put_it_on_record(world: World) -> None:
    planes: list[ControlPlane] = [world.start(), world.start()]
    world.change(planes[0], **PAUSE)
    world.beat("celery@a", **APPLIED)
    eventually(lambda: receipts(world))
    assert len(receipts(world)) == 1


def test_an_altered_hold_gets_a_receipt_of_its_own_since_the_beginning(world: World) -> None:
    """The moment of the pause is that of the first order; what finished before counts."""
    plane = world.replica()
    world.beat("celery@a", running=(WORK, MAIL))
    world.change(plane, **PAUSE)
    world.beat("celery@a", **APPLIED | {"running": (MAIL,)})
    plane.draining.follow()
    world.change(plane, action="pause", mode="quiesce", reason="faster")
    waiting = RunningTask(id="t2", name="app.mail", started_at=MAIL.started_at, is_waiting=True)
    world.beat("celery@a", **APPLIED | {"running": (waiting,), "applied": Edition(1, 3)})
    plane.draining.follow()
    before, after = rows(world)
    assert (before["ending"], after["ending"]) == ("altered", "quiesced")
    assert (after["begun_at"], after["at_pause"]) == (before["begun_at"], before["at_pause"])
    (made,) = receipts(world)
    assert (made["holdVersion"], made["finished"], made["waiting"]) == (3, 1, 1)


def test_a_repeat_begins_nothing_new(world: World) -> None:
    """R-A5: a no-op is on record, and that is all."""
    plane = world.replica()
    world.beat("celery@a", running=(WORK,))
    world.change(plane, **PAUSE)
    before = rows(world)
    world.change(plane, **PAUSE)
    assert rows(world) == before


def test_a_hold_that_is_released_before_it_drained_has_no_receipt(world: World) -> None:
    plane = world.replica()
    world.beat("celery@a", running=(WORK,))
    world.change(plane, **PAUSE)
    world.change(plane, **RESUME, forceResume=True)
    world.beat("celery@a", applied=Edition(1, 3))
    assert plane.draining.follow() == 0
    assert (rows(world)[0]["ending"], receipts(world)) == ("released", [])


def test_each_scope_drains_by_itself(world: World) -> None:
    """The worker of another host runs on, and holds nothing up."""
    plane = world.replica()
    world.beat("celery@a", running=(WORK,), queues=("gpu",))
    world.beat("celery@b", running=(MAIL,), queues=("mail",))
    world.change(plane, **PAUSE, scope="host:a")
    world.beat("celery@a", **APPLIED)
    world.beat("celery@b", running=(MAIL,), queues=("mail",), applied=Edition(1, 2))
    assert plane.draining.follow() == 1
    (made,) = receipts(world)
    assert [row["nodename"] for row in made["workers"]] == ["celery@a"]
    assert world.events(action="drain_completed")[0]["scope"] == "host:a"


def test_nothing_ends_while_redis_is_away(world: World) -> None:
    """What was last known is no evidence: a drain is not completed by silence (L4)."""
    world.beat("celery@a", running=(WORK,))
    world.change(world.replica(), **PAUSE)
    world.beat("celery@a", **APPLIED)
    blind = world.replica(SLUICEGATE_REDIS_URL="redis://127.0.0.1:1/0", SLUICEGATE_BROKER_URL=world.redis_url)
    assert blind.draining.follow() == 0
    assert receipts(world) == []


def test_a_hold_from_before_this_revision_is_followed_from_now_on(world: World) -> None:
    """An upgrade under a pause."""
    world.change(world.replica(), **PAUSE)
    before = rows(world)
    migrate.downgrade(world.database_url, "0002")
    migrate.upgrade(world.database_url)
    (row,) = rows(world)
    assert {key: row[key] for key in ("hold_id", "version", "begun_at")} == {
        key: before[0][key] for key in ("hold_id", "version", "begun_at")
    }
    assert (row["at_pause"], row["tasks"], row["ended_at"]) == (None, [], None)
