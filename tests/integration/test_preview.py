"""The preview (R-C6): what a hold would touch, by runtimes that were learnt from heartbeats, once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from sluicegate.control.process.plane import ControlPlane
from sluicegate.schemas.api.pausing import PreviewAnswer
from sluicegate.schemas.beats import RunningTask
from sluicegate.schemas.errors import Unavailable
from sluicegate.schemas.scopes import GLOBAL
from tests.integration.world import PAUSE, World

PATH = "/api/system/worker-pause/preview"
START = datetime(2026, 3, 1, tzinfo=UTC)
WORK = RunningTask(id="t1", name="app.work", started_at=START, queue="gpu")


def at(seconds: float) -> dict[str, Any]:
    return {"sent_at": START + timedelta(seconds=seconds), "queues": ("gpu",)}


def on_record(world: World) -> list[int]:
    """The events, but for the denial that the test provokes and what the loops add by themselves."""
    return [event["id"] for event in world.events(outcome="applied") if event["action"] != "drain_completed"]


def test_a_run_is_learnt_once_however_many_replicas_fold(world: World) -> None:
    """They all see the same two heartbeats, and one of them leads."""
    planes = [world.replica() for _ in range(4)]
    world.beat("celery@a", running=(WORK,), **at(60), age_s=2)
    planes[0].fleet.fold()
    world.beat("celery@a", **at(62))

    def run(plane: ControlPlane) -> None:
        turn = plane.leader.run_when_leading(plane.fleet.fold)
        for _ in range(6):
            plane.leader.look()
            turn()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(run, planes))
    assert [tuple(row) for row in world.sql("select task, count, recent_s from runtimes")] == [("app.work", 1, [61.0])]


def test_the_preview_needs_a_viewer_and_changes_nothing(world: World) -> None:
    """The same tables before and after, and nothing on record."""
    plane = world.replica()
    world.beat("celery@a", running=(WORK,), **at(60), age_s=2)
    plane.fleet.fold()
    world.beat("celery@a", **at(62), age_s=1)
    plane.fleet.fold()
    world.beat("celery@a", running=(RunningTask(id="t2", name="app.work", started_at=START),), **at(10))
    world.change(plane, **PAUSE, scope="host:a")
    started = world.start()
    viewer, nobody = world.client(started, "viewer"), world.client(started, None)
    recorded = on_record(world)
    before = world.dump("namespaces", "holds", "runtimes", "idempotency_keys")
    body = viewer.get(PATH, params={"scope": "host:a"}).json()
    told = PreviewAnswer.model_validate(body)
    assert (told.running, told.held_by, told.warnings) == (1, ["manual"], [])
    assert told.eta_seconds is not None
    assert 45 < told.eta_seconds <= 51
    assert viewer.get(PATH, params={"scope": "host:b"}).json()["warnings"] != []
    assert viewer.get(PATH, params={"scope": "x"}).status_code == 422
    assert nobody.get(PATH).status_code == 401
    assert world.dump("namespaces", "holds", "runtimes", "idempotency_keys") == before
    assert on_record(world) == recorded


def test_with_redis_away_nothing_is_told(world: World) -> None:
    """What was last known may be long over."""
    world.beat("celery@a", running=(WORK,))
    world.replica().fleet.fold()
    blind = world.replica(SLUICEGATE_REDIS_URL="redis://127.0.0.1:1/0", SLUICEGATE_BROKER_URL=world.redis_url)
    with pytest.raises(Unavailable):
        blind.parts.reading.preview(GLOBAL)
