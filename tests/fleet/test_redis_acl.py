"""A worker under the documented ACL does all that it must, and whoever has its password can do nothing else."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
import redis

from sluicegate.control.links import redis_acl
from sluicegate.control.links.state_redis import Bus
from sluicegate.control.process.stack import BROKER_DATABASE, Stack
from sluicegate.schemas import names
from sluicegate.schemas.errors import Unavailable
from sluicegate.schemas.redis_urls import server_at
from sluicegate.schemas.settings import BROKER_URL, NAMESPACE, REDIS_URL
from tests.fleet import app as fleet_app
from tests.fleet.harness import Fleet

PASSWORD = "pw"


def sign_in(url: str, user: str) -> str:
    return url.replace("://", f"://{user}:{PASSWORD}@")


@pytest.fixture
def admin(stack: Stack) -> Iterator[Any]:
    """The server's own user. The others are gone after the test."""
    client: Any = redis.Redis.from_url(stack.environ[REDIS_URL.name], decode_responses=True)
    yield client
    client.execute_command("ACL", "DELUSER", redis_acl.WORKER, redis_acl.CONTROL, redis_acl.BROKER)
    client.close()


def add_user(admin: Any, user: str, rules: tuple[str, ...]) -> None:
    admin.execute_command("ACL", "SETUSER", user, "reset", "on", f">{PASSWORD}", *rules)


def denials(admin: Any) -> list[tuple[str, str, str]]:
    """What the server refused to our users, if anything: who, why, what."""
    return [(entry["username"], entry["reason"], entry["object"]) for entry in admin.acl_log()]


SNAPSHOT, HINT = names.snapshot_key("{ns}"), names.hint_channel("{ns}")
FORBIDDEN: list[tuple[str, ...]] = [
    ("SET", SNAPSHOT, "x"),
    ("SETEX", SNAPSHOT, "10", "x"),
    ("APPEND", SNAPSHOT, "x"),
    ("SETRANGE", SNAPSHOT, "0", "x"),
    ("GETSET", SNAPSHOT, "x"),
    ("GETDEL", SNAPSHOT),
    ("DEL", SNAPSHOT),
    ("UNLINK", SNAPSHOT),
    ("EXPIRE", SNAPSHOT, "1"),
    ("RENAME", SNAPSHOT, "x"),
    ("RENAME", "sluicegate:{ns}:beat:x", SNAPSHOT),
    ("COPY", "sluicegate:{ns}:beat:x", SNAPSHOT, "REPLACE"),
    ("MOVE", SNAPSHOT, "5"),
    ("RESTORE", SNAPSHOT, "0", "x", "REPLACE"),
    ("MIGRATE", "127.0.0.1", "1", SNAPSHOT, "0", "10"),
    ("SORT", "sluicegate:{ns}:beats", "STORE", SNAPSHOT),
    ("ZUNIONSTORE", SNAPSHOT, "1", "sluicegate:{ns}:beats"),
    ("ZADD", SNAPSHOT, "1", "x"),
    ("LPUSH", SNAPSHOT, "x"),
    ("EVAL", "return redis.call('SET', KEYS[1], 'x')", "1", SNAPSHOT),
    ("EVAL", "return redis.call('SET', '" + SNAPSHOT + "', 'x')", "0"),
    ("EVAL", "return redis.call('PUBLISH', '" + HINT + "', 'x')", "0"),
    ("EVAL", "return redis.call('FLUSHALL')", "0"),
    ("FUNCTION", "FLUSH"),
    ("FLUSHALL",),
    ("FLUSHDB",),
    ("SWAPDB", "0", "1"),
    ("PUBLISH", HINT, "x"),
    ("SPUBLISH", HINT, "x"),
    ("CONFIG", "GET", "*"),
    ("CONFIG", "SET", "dir", "/tmp"),
    ("ACL", "LIST"),
    ("ACL", "SETUSER", redis_acl.WORKER, "~*"),
    ("CLIENT", "KILL", "TYPE", "normal"),
    ("CLIENT", "PAUSE", "1"),
    ("CLUSTER", "INFO"),
    ("KEYS", "*"),
    ("SCAN", "0"),
    ("MONITOR",),
    ("REPLICAOF", "NO", "ONE"),
    ("SHUTDOWN", "NOSAVE"),
    ("SAVE",),
    ("MODULE", "LIST"),
]


def allowed(url: str, namespace: str, more: list[tuple[str, ...]]) -> list[str]:
    """Which of the forbidden commands, and of `more`, the server did not deny to this user."""
    client: Any = redis.Redis.from_url(url)
    commands = [[word.replace("{ns}", namespace) for word in words] for words in [*FORBIDDEN, *more]]
    try:
        return [f"{command}: {answer}" for command in commands if (answer := _answer(client, command)) is not None]
    finally:
        client.close()


def _answer(client: Any, command: list[str]) -> str | None:
    """What came of it; None where it was denied."""
    try:
        return str(client.execute_command(*command))
    except redis.ResponseError as error:
        return None if re.search(r"(?i)no permissions|ACL failure", str(error)) else str(error)


def test_a_worker_under_the_acl_obeys_and_its_passwords_are_good_for_nothing_else(stack: Stack, admin: Any) -> None:
    """docs/security.md: pauses and resumes with nothing denied; then every command that would hurt is."""
    namespace = stack.environ[NAMESPACE.name]
    state_url = sign_in(stack.environ[REDIS_URL.name], redis_acl.WORKER)
    broker_url = sign_in(stack.environ[BROKER_URL.name], redis_acl.BROKER)
    with Fleet(stack) as fleet:
        add_user(admin, redis_acl.WORKER, redis_acl.worker_rules(namespace))
        add_user(admin, redis_acl.BROKER, redis_acl.broker_rules([fleet.queue], BROKER_DATABASE))
        admin.acl_log_reset()
        fleet.watch()
        # With mingle, gossip and events, which have channels of their own.
        urls = {REDIS_URL.name: state_url, fleet_app.BROKER: broker_url, BROKER_URL.name: broker_url}
        fleet.start(environ=urls, arguments=("-E",))
        fleet.wait_open()
        fleet.send_naps(40, 0.02)
        fleet.send("nap", 0.01, countdown_s=1)
        fleet.wait_started(5)
        fleet.pause()
        fleet.wait_drained()
        assert fleet.ping()
        fleet.resume()
        fleet.wait_done()
        verdict = fleet.check()
        assert verdict.broken == {}
        assert denials(admin) == []
        worker: Any = redis.Redis.from_url(state_url, decode_responses=True)
        cursor = names.cursor_key(namespace, "a-task")
        assert worker.set(cursor, "7", ex=60)
        assert worker.get(cursor) == "7"
        assert worker.delete(cursor) == 1
        worker.close()
        beyond = [("GET", "unacked"), ("HGETALL", "unacked"), ("PUBLISH", "/0.celery.pidbox", "x")]
        assert allowed(state_url, namespace, beyond) == []
        # The broker's user, in the database where the state is.
        brokers_url = sign_in(stack.environ[REDIS_URL.name], redis_acl.BROKER)
        beyond = [("GET", SNAPSHOT), ("SET", "sluicegate:{ns}:beat:x", "x"), ("SUBSCRIBE", HINT)]
        assert allowed(brokers_url, namespace, beyond) == []
        assert fleet.words()[0].state == "running"


def test_a_control_plane_under_the_acl_publishes_and_listens(stack: Stack, admin: Any) -> None:
    """Its user can do nothing beside; a worker's user cannot publish."""
    namespace = "under-acl"
    add_user(admin, redis_acl.CONTROL, redis_acl.control_rules(namespace))
    add_user(admin, redis_acl.WORKER, redis_acl.worker_rules(namespace))
    admin.acl_log_reset()
    bus = Bus(server_at(sign_in(stack.environ[REDIS_URL.name], redis_acl.CONTROL), "x"), namespace, most_workers=5_000)
    try:
        bus.ping()
        admin.set(names.beat_key(namespace, "w"), "a beat")
        admin.zadd(names.beats_key(namespace), {"w": 1})
        assert bus.replace_slot(bus.read_slot(), b"envelope", b"hint")
        assert bus.read_slot().content == b"envelope"
        assert [heard.raw for heard in bus.heartbeats().heard] == [b"a beat"]
        assert denials(admin) == []
    finally:
        bus.close()
        admin.delete(names.snapshot_key(namespace), names.beat_key(namespace, "w"), names.beats_key(namespace))
    workers_bus = Bus(
        server_at(sign_in(stack.environ[REDIS_URL.name], redis_acl.WORKER), "x"), namespace, most_workers=5_000
    )
    with pytest.raises(Unavailable, match=r"(?i)no permissions"):
        workers_bus.replace_slot(workers_bus.read_slot(), b"forged", b"hint")
    workers_bus.close()
