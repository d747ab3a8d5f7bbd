"""What is read from the broker's own log: popped last is popped last, whoever was told of it."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
import redis

from sluicegate.control.embedded import EmbeddedValkey
from tests.fleet.broker import UNACKED
from tests.fleet.broker_log import BrokerLog

IDS = [f"00000000-0000-4000-8000-{number:012}" for number in range(6)]
FIRST, SECOND, THIRD, FOURTH, FIFTH, SIXTH = IDS


def message(task_id: str) -> str:
    """As kombu spells it."""
    return json.dumps({"body": "", "headers": {"id": task_id, "root_id": SIXTH}, "properties": {}})


def test_popped_last_is_what_nobody_stored_or_put_back(tmp_path: Path) -> None:
    """Through a kill and a new start of the server; what lay in the queue was in its order."""
    with EmbeddedValkey(tmp_path / "valkey", options=["--appendfsync", "always"]) as server:
        with redis.Redis.from_url(server.url) as client:
            client.lpush("queue", message(SIXTH))
            log = BrokerLog(tmp_path / "valkey")
            log.keep(client)
            client.delete("queue")
            for task_id in (FIRST, SECOND, THIRD, FOURTH, FIFTH):
                client.lpush("queue", message(task_id))
            before = int(time.time())
            for task_id in (FIRST, SECOND, THIRD):
                _, raw = client.brpop(["queue"], timeout=1)
                assert task_id.encode() in raw
            client.hset(UNACKED, "tag", json.dumps([json.loads(message(SECOND)), "", "queue"]))
            client.hdel(UNACKED, "tag")
            client.eval("return redis.call('RPUSH', KEYS[1], ARGV[1])", 1, "queue", message(THIRD))
            assert list(log.popped_last()) == [FIRST]
            client.set("something", "else")
        server.kill()
        log.note_end()
        server.start()
        with redis.Redis.from_url(server.url) as client:
            assert client.rpop("queue", 2) == [message(THIRD).encode(), message(FOURTH).encode()]
            popped = log.popped_last()
            assert sorted(popped) == [FIRST, THIRD, FOURTH]
            assert before <= popped[FIRST].second <= popped[FOURTH].second <= time.time()
            # The others were popped; SECOND was stored and let go, THIRD put back, and the last set something else.
            assert popped[FIRST].before_end == 6
            assert popped[FOURTH].before_end is None


def test_what_is_not_followed_is_said(tmp_path: Path) -> None:
    """A queue that is changed in another way would be followed wrongly."""
    with EmbeddedValkey(tmp_path / "valkey") as server, redis.Redis.from_url(server.url) as client:
        log = BrokerLog(tmp_path / "valkey")
        client.lpush("queue", "1")
        client.lrem("queue", 1, "1")
        with pytest.raises(AssertionError, match="LREM"):
            log.popped_last()
