"""What is read from the broker's own log: popped last is popped last, whoever was told of it."""

from __future__ import annotations

import json
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
    with EmbeddedValkey(tmp_path / "valkey") as server:
        with redis.Redis.from_url(server.url) as client:
            client.lpush("queue", message(SIXTH))
            log = BrokerLog(tmp_path / "valkey")
            log.configure(client)
            client.delete("queue")
            for task_id in (FIRST, SECOND, THIRD, FOURTH, FIFTH):
                client.lpush("queue", message(task_id))
            for task_id in (FIRST, SECOND, THIRD):
                _, raw = client.brpop(["queue"], timeout=1)
                assert task_id.encode() in raw
            client.hset(UNACKED, "tag", json.dumps([json.loads(message(SECOND)), "", "queue"]))
            client.hdel(UNACKED, "tag")
            client.eval("return redis.call('RPUSH', KEYS[1], ARGV[1])", 1, "queue", message(THIRD))
            assert log.popped_last() == {FIRST: None}
            client.set("something", "else")
        server.kill()
        log.note_kill()
        server.start()
        with redis.Redis.from_url(server.url) as client:
            assert client.rpop("queue", 2) == [message(THIRD).encode(), message(FOURTH).encode()]
            # After FIRST: two more were popped, one stored and let go, one put back, and something else was set.
            assert log.popped_last() == {FIRST: (0, 6), THIRD: None, FOURTH: None}


@pytest.mark.parametrize("torn", [b"*3\r\n$5\r\nLPU", b"*1\r\n$5\r\nMULTI\r\n*2\r\n$4\r\nRPOP\r\n$5\r\nqueue\r\n"])
def test_what_a_killed_server_did_not_write_whole_it_has_not_done(tmp_path: Path, torn: bytes) -> None:
    """It drops that when it starts, and goes on in its place."""
    with EmbeddedValkey(tmp_path / "valkey") as server:
        with redis.Redis.from_url(server.url) as client:
            log = BrokerLog(tmp_path / "valkey")
            client.lpush("queue", message(FIRST))
        server.kill()
        (path,) = (tmp_path / "valkey" / "appendonlydir").glob("*.incr.aof")
        with path.open("ab") as file:
            file.write(torn)
        log.note_kill()
        server.start()
        assert log.popped_last() == {}
        with redis.Redis.from_url(server.url) as client:
            assert client.rpop("queue") == message(FIRST).encode()
        assert log.popped_last() == {FIRST: None}


def test_what_is_not_followed_is_said(tmp_path: Path) -> None:
    """A queue that is changed in another way would be followed wrongly."""
    with EmbeddedValkey(tmp_path / "valkey") as server, redis.Redis.from_url(server.url) as client:
        log = BrokerLog(tmp_path / "valkey")
        client.lpush("queue", "1")
        client.lrem("queue", 1, "1")
        with pytest.raises(AssertionError, match="LREM"):
            log.popped_last()
