"""Which server is talked to when sentinels are asked, and a Redis Cluster that is told from a Redis.

What the sentinels say is put in their mouth here; tests/fleet/test_sentinels.py has real ones.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from sluicegate.control.embedded import EmbeddedValkey
from sluicegate.control.links import state_redis
from sluicegate.control.links.state_redis import Bus
from sluicegate.control.publishing import signing_key
from sluicegate.schemas.adapters import redis_client
from sluicegate.schemas.adapters.trusted_keys import TrustedKeys
from sluicegate.schemas.beats import Beat, WorkerState
from sluicegate.schemas.errors import InvalidSetting, Unavailable
from sluicegate.schemas.holds.hold import Holds
from sluicegate.schemas.names import beat_key, snapshot_key
from sluicegate.schemas.redis_urls import Sentinels, server_at
from sluicegate.schemas.snapshots import NOTHING, Edition, Sign, Snapshot, seal
from sluicegate.workers.follower import Follower, Pace
from sluicegate.workers.heart import Heart
from sluicegate.workers.memory import Memory
from tests.integration.world import World, eventually

PLACE = Sentinels(addresses=(("127.0.0.1", 1),), master_name="m")
PACE = Pace(poll_s=0.1, republish_s=0.1, stale_after_s=60, is_stale_closed=False, needs_fresh_boot=True)


@dataclass
class Named:
    """The server that the sentinels name; `asked` counts how often they were asked."""

    server: EmbeddedValkey
    asked: int = 0

    def point(self, client: Redis) -> Redis:
        def discover(name: str) -> tuple[str, int]:
            self.asked += 1
            return "127.0.0.1", port_of(self.server)

        manager: Any = client.connection_pool.sentinel_manager  # type: ignore[attr-defined]
        manager.discover_master = discover
        return client


def port_of(server: EmbeddedValkey) -> int:
    return int(server.url.rpartition(":")[2].partition("/")[0])


@contextmanager
def client_at(server: EmbeddedValkey) -> Iterator[Any]:
    with Redis.from_url(server.url) as client:
        yield client


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[EmbeddedValkey, EmbeddedValkey]]:
    with EmbeddedValkey(tmp_path / "one") as one, EmbeddedValkey(tmp_path / "two") as two:
        yield one, two


@pytest.fixture
def key(tmp_path: Path) -> Any:
    signing_key.create(tmp_path / "key")
    return signing_key.load(tmp_path / "key")


def beat(seq: int, is_goodbye: bool) -> Beat:
    return Beat(
        nodename="w@h",
        incarnation="life",
        host="h",
        pool="prefork",
        pid=1,
        seq=seq,
        sent_at=datetime.now(UTC),
        state=WorkerState.RUNNING,
        applied=Edition(1, 1),
        applied_at=None,
        is_goodbye=is_goodbye,
    )


def put(server: EmbeddedValkey, key: Sign, version: int, publication: int) -> None:
    snapshot = Snapshot(
        namespace="n", epoch=1, holds=Holds(version=version), publication=publication, issued_at=datetime.now(UTC)
    )
    with client_at(server) as client:
        client.set(snapshot_key("n"), seal(snapshot, key))


def test_l2_a_follower_leaves_a_master_that_answers_and_that_nobody_writes_to_any_more(
    pair: tuple[EmbeddedValkey, EmbeddedValkey], key: Any
) -> None:
    """It was cut off from its sentinels, not from us: its connection stays well, and the state there old."""
    old, new = pair
    named = Named(old)
    taken: list[Edition] = []
    follower = Follower(
        namespace="n",
        keys=TrustedKeys({key.kid: key.public_bytes}),
        pace=PACE,
        connect=lambda: named.point(redis_client.connect(PLACE)),
        fence=NOTHING,
        on_state=lambda state: taken.append(state.edition),
        on_stale=lambda reason: None,
    )
    put(old, key, 1, 1)
    follower.start()
    try:
        beats = itertools.count(2)

        def republished(server: EmbeddedValkey, version: int) -> bool:
            put(server, key, version, next(beats))
            return bool(taken) and taken[-1] == (1, version)

        eventually(lambda: republished(old, 1))
        named.server = new
        eventually(lambda: republished(new, 2), within_s=5)
    finally:
        follower.stop()
    assert taken == [(1, 1), (1, 2)]


def test_a_heart_and_a_bus_leave_a_master_that_was_demoted_under_them(
    pair: tuple[EmbeddedValkey, EmbeddedValkey], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It answers that it is read-only, and closes nothing."""
    old, new = pair
    named = Named(old)
    heart = Heart(
        namespace="n",
        nodename="w@h",
        interval_s=0.1,
        connect=lambda: named.point(redis_client.connect(PLACE)),
        compose=beat,
        memory=Memory(tmp_path, "n", "w@h"),
    )
    connect = redis_client.connect
    monkeypatch.setattr(state_redis, "connect", lambda place: named.point(connect(place)))
    bus = Bus(PLACE, "n", most_workers=5_000)
    heart.start()
    try:
        assert bus.replace_slot(bus.read_slot(), b"first", b"hint")
        with client_at(old) as client:
            eventually(lambda: client.exists(beat_key("n", "w@h")))
            client.execute_command("REPLICAOF", "127.0.0.1", str(port_of(new)))
        with pytest.raises(Unavailable):
            bus.replace_slot(bus.read_slot(), b"second", b"hint")
        named.server = new
        with client_at(new) as client:
            eventually(lambda: client.exists(beat_key("n", "w@h")), within_s=3)
        assert bus.replace_slot(bus.read_slot(), b"second", b"hint")
    finally:
        heart.say_goodbye()
        bus.close()
        # In order it would end only when it has tried to reach its master.
        old.kill()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedValkey]:
    folder = tmp_path_factory.mktemp("cluster")
    with EmbeddedValkey(folder / "node", options=["--cluster-enabled", "yes"]) as node:
        yield node


@pytest.mark.parametrize("setting", ["SLUICEGATE_REDIS_URL", "SLUICEGATE_BROKER_URL"])
def test_a_control_plane_refuses_a_redis_cluster_at_its_start(
    world: World, cluster: EmbeddedValkey, setting: str
) -> None:
    with pytest.raises(InvalidSetting, match="Redis Cluster") as caught:
        world.start(**{setting: cluster.url})
    assert caught.value.field == setting


def test_a_worker_refuses_a_redis_cluster_and_no_other_server(cluster: EmbeddedValkey, valkey: EmbeddedValkey) -> None:
    """One that is away is not refused: a worker starts all the same, and is shut."""
    with pytest.raises(InvalidSetting, match="Redis Cluster") as caught:
        redis_client.refuse_cluster(server_at(cluster.url, "x"), "SLUICEGATE_REDIS_URL")
    assert caught.value.field == "SLUICEGATE_REDIS_URL"
    redis_client.refuse_cluster(server_at(valkey.url, "x"), "SLUICEGATE_REDIS_URL")
    redis_client.refuse_cluster(server_at("redis://127.0.0.1:1/0", "x"), "SLUICEGATE_REDIS_URL")


def test_asking_sentinels_that_are_all_silent_takes_about_a_second(pair: tuple[EmbeddedValkey, EmbeddedValkey]) -> None:
    """Each of them takes the connection and answers nothing, as a machine that hangs does."""
    for server in pair:
        server.freeze()
    addresses = tuple(("127.0.0.1", port_of(server)) for server in pair)
    began = time.monotonic()
    with pytest.raises(Exception, match="No master found"):
        redis_client.connect(Sentinels(addresses=addresses, master_name="m")).get("x")
    assert 0.9 < time.monotonic() - began < 2.5
