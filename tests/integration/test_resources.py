"""What probes read, from a worker's heart to the control plane: told whole once, named from then on."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sluicegate.control.links.redis_acl import worker_rules
from sluicegate.control.process.plane import ControlPlane
from sluicegate.schemas.adapters.redis_client import connect
from sluicegate.schemas.beats import Beat, WorkerState
from sluicegate.schemas.health.readings import DriverState, GpuReading, Readings
from sluicegate.schemas.health.resources import Resources
from sluicegate.schemas.names import beat_key, resources_key
from sluicegate.schemas.redis_urls import server_at
from sluicegate.schemas.snapshots import Edition
from sluicegate.workers.heart import Heart
from sluicegate.workers.memory import Memory
from tests.integration.world import World, eventually

W = "celery@a"
GIB = 1 << 30


class Told:
    """What a worker's heart tells; the test changes it."""

    def __init__(self) -> None:
        gpu = GpuReading(uuid="GPU-1", index=0, memory_total_bytes=24 * GIB, memory_free_bytes=20 * GIB)
        readings = Readings(number=1, at=datetime.now(UTC), driver=DriverState.SERVING, gpus=(gpu,))
        whole = Resources.whole(1, readings, interval_ms=2000)
        self.resources: Resources | None = replace(whole, age_ms=300)

    def change(self, free: int) -> None:
        assert self.resources is not None
        assert self.resources.readings is not None
        readings = self.resources.readings
        gpus = (replace(readings.gpus[0], memory_free_bytes=free),)
        self.resources = Resources.whole(self.resources.number + 1, replace(readings, gpus=gpus))


def heart(world: World, told: Told, folder: Path) -> Heart:
    def compose(seq: int, is_goodbye: bool) -> Beat:
        return Beat(
            nodename=W,
            incarnation="life",
            host="a",
            pool="prefork",
            pid=1,
            seq=seq,
            sent_at=datetime.now(UTC),
            state=WorkerState.RUNNING,
            applied=Edition(1, 1),
            applied_at=None,
            is_goodbye=is_goodbye,
            resources=told.resources,
        )

    return Heart(
        namespace=world.namespace,
        nodename=W,
        interval_s=0.05,
        connect=lambda: connect(server_at(world.redis_url, "redis")),
        compose=compose,
        memory=Memory(folder, world.namespace, W),
    )


def free(plane: ControlPlane) -> int | None:
    """Of the worker's GPU, as the control plane knows it; None where it does not."""
    for worker in plane.parts.reading.workers():
        if (resources := worker.beat.resources) is not None and resources.readings is not None:
            return resources.readings.gpus[0].memory_free_bytes
    return None


def written(world: World, key: str) -> dict[str, Any]:
    raw: bytes = world.redis.get(key) or b"{}"
    found: dict[str, Any] = json.loads(raw)
    return found


def test_readings_are_told_whole_once_and_named_in_every_heartbeat(world: World, tmp_path: Path) -> None:
    told, plane = Told(), world.replica()
    beating = heart(world, told, tmp_path)
    beating.start()
    try:
        eventually(lambda: free(plane) == 20 * GIB)
        said = written(world, beat_key(world.namespace, W))["resources"]
        assert (said["sameAs"], said["ageMs"], said["intervalMs"]) == (1, 300, 2000)
        assert set(said) == {"sameAs", "sha256", "ageMs", "intervalMs"}
        # It is not asked for again, so that it may be gone.
        world.redis.delete(resources_key(world.namespace, W))
        assert free(plane) == 20 * GIB
        told.change(free=GIB)
        eventually(lambda: free(plane) == GIB)
        assert written(world, resources_key(world.namespace, W))["number"] == 2
    finally:
        beating.say_goodbye()


def test_what_was_lost_or_written_over_is_unknown_and_no_number(world: World, tmp_path: Path) -> None:
    told, plane = Told(), world.replica()
    assert told.resources is not None
    world.beat(W, resources=told.resources)
    assert free(plane) is None
    key = resources_key(world.namespace, W)
    other = Told()
    other.change(free=0)
    assert other.resources is not None
    for raw in (other.resources.encode(), told.resources.encode()[:-9], b"junk"):
        world.redis.set(key, raw)
        assert free(plane) is None
    world.redis.set(key, told.resources.encode())
    assert free(plane) == 20 * GIB


def test_a_heartbeat_whose_resources_are_nonsense_counts_all_the_same(world: World) -> None:
    plane = world.replica()
    raw = json.loads(world.beat(W).encode()) | {"resources": {"sameAs": -1}}
    world.leave(W, json.dumps(raw).encode())
    (worker,) = plane.parts.reading.workers()
    assert (worker.state, worker.beat.resources) == (WorkerState.RUNNING, None)


def test_the_rules_of_a_worker_in_redis_let_it_tell(world: World) -> None:
    """Also those that were made for an earlier version: the key stands below the heartbeat's."""
    rules = worker_rules(world.namespace)
    assert f"~{beat_key(world.namespace, '*')}" in rules
    assert resources_key(world.namespace, W).startswith(beat_key(world.namespace, ""))
