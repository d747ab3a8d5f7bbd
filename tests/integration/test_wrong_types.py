"""What a worker's credential can put in the place of heartbeats, and how it goes away again."""

from __future__ import annotations

import json
import logging
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from sluicegate.control.fleet.words import Words
from sluicegate.control.links.redis_acl import control_rules
from sluicegate.control.links.state_redis import Bus
from sluicegate.schemas import names
from sluicegate.schemas.redis_urls import server_at
from tests.integration.test_namesakes import W, beating, heart
from tests.integration.world import World, eventually

JUNK: dict[str, Any] = {
    "a text": ("SET", "x"),
    "a list": ("RPUSH", "x"),
    "a hash": ("HSET", "x", "y"),
    "an index": ("ZADD", 1, "x"),
    "lives that are none": ("SET", json.dumps({"a": 1, "b": {"at": "x", "beat": 1}, "c": {"beat": "", "at": []}})),
}


@pytest.mark.parametrize("junk", JUNK.values(), ids=JUNK.keys())
def test_l4_no_junk_in_redis_keeps_a_worker_from_beating(world: World, tmp_path: Path, junk: tuple[Any, ...]) -> None:
    """Whatever is put under whichever of its keys, it is seen again."""
    keys = (names.beats_key(world.namespace), names.beat_key(world.namespace, W), names.lives_key(world.namespace, W))
    bus = Bus(server_at(world.redis_url, "redis"), world.namespace, most_workers=5_000)

    def is_heard(after: int) -> bool:
        words = Words(world.namespace)
        seen = [words.told(one, one.seen_at).seen for one in bus.heartbeats().heard if one.nodename == W]
        return any(one is not None and one.beat.seq > after for one in seen)

    with beating(heart(world, "one", tmp_path)):
        eventually(lambda: world.redis.get(keys[1]))
        for key in keys:
            before = int(json.loads(world.redis.get(keys[1]))["seq"])
            pipe = world.redis.pipeline(transaction=True)
            pipe.delete(key)
            pipe.execute_command(junk[0], key, *junk[1:])
            pipe.execute()
            eventually(partial(is_heard, before + 1))
    bus.close()


def test_the_control_plane_takes_a_broken_index_away_and_says_so_once(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """Also where no worker lives that would; under the rules of its own user, and what is no junk stays."""
    key = names.beats_key(world.namespace)
    world.redis.execute_command("ACL", "SETUSER", "mender", "on", "nopass", *control_rules(world.namespace))
    bus = Bus(
        server_at(world.redis_url.replace("redis://", "redis://mender:x@"), "redis"),
        world.namespace,
        most_workers=5_000,
    )
    try:
        world.beat(W)
        assert [one.nodename for one in bus.heartbeats().heard] == [W]
        world.redis.set(key, "x")
        with caplog.at_level(logging.ERROR, "sluicegate.control"):
            assert bus.heartbeats().heard == []
            assert bus.heartbeats().heard == []
        assert caplog.text.count("ALARM wrong_type") == 1
        assert not world.redis.exists(key)
    finally:
        bus.close()
        world.redis.execute_command("ACL", "DELUSER", "mender")
