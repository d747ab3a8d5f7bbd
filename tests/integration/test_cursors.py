"""Cursors on a real Valkey, under the rules that its workers have; those of the version before among them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest
import redis

from sluicegate.control.embedded import EmbeddedValkey
from sluicegate.control.links.redis_acl import worker_rules
from sluicegate.schemas.names import cursor_key, sealed_cursor_key
from sluicegate.schemas.settings import CursorKeys
from sluicegate.workers.cursor_seals import Origin
from sluicegate.workers.cursors import Cursors

MESSAGE = Origin(task="shop.pack", tag="a-tag")
AGAIN = Origin(task="shop.pack", tag="a-tag", is_redelivered=True)
MOST = 1024
STRICT = CursorKeys((b"o" * 32,))


@pytest.fixture
def admin(valkey: EmbeddedValkey) -> Iterator[Any]:
    """The server's own user."""
    client: Any = redis.Redis.from_url(valkey.url)
    yield client
    client.close()


@pytest.fixture(params=[(), ("-getrange",)], ids=["rules", "former rules"])
def worker(request: pytest.FixtureRequest, valkey: EmbeddedValkey, admin: Any) -> Iterator[tuple[str, Any]]:
    """A namespace, and a client with the credential of its workers."""
    namespace = f"test-{uuid4().hex}"
    admin.execute_command("ACL", "SETUSER", namespace, "on", ">pw", *worker_rules(namespace), *request.param)
    client: Any = redis.Redis.from_url(valkey.url.replace("://", f"://{namespace}:pw@"))
    yield namespace, client
    client.close()
    admin.execute_command("ACL", "DELUSER", namespace)


def cursors(worker: tuple[str, Any], keys: CursorKeys | None = STRICT) -> Cursors:
    namespace, client = worker
    return Cursors(namespace, lambda: client, most_bytes=MOST, kept_s=3600, keys=keys)


@pytest.mark.parametrize("keys", [None, STRICT, CursorKeys(STRICT.secrets, takes_unsigned=True)])
def test_a_cursor_is_kept_until_its_task_ends_and_then_for_its_message_alone(
    worker: tuple[str, Any], keys: CursorKeys | None
) -> None:
    ran = cursors(worker, keys)
    ran.store("t1", [1, "é"], MESSAGE)
    assert cursors(worker, keys).load("t1", MESSAGE) == [1, "é"]
    ran.drop("t1")
    assert cursors(worker, keys).load("t1", MESSAGE) is None
    assert cursors(worker, keys).load("t1", AGAIN) == [1, "é"]


@pytest.mark.parametrize("keys", [None, STRICT])
@pytest.mark.parametrize("key_of", [cursor_key, sealed_cursor_key])
def test_what_is_no_cursor_is_none(worker: tuple[str, Any], keys: CursorKeys | None, key_of: Any) -> None:
    namespace, client = worker
    key = key_of(namespace, "t1")
    client.zadd(key, {"x": 1})
    assert cursors(worker, keys).load("t1", AGAIN) is None
    client.set(key, b"7" * (1 << 20))
    assert cursors(worker, keys).load("t1", AGAIN) is None


def test_of_a_value_without_end_no_more_is_fetched_than_a_cursor_may_have(valkey: EmbeddedValkey) -> None:
    admin: Any = redis.Redis.from_url(valkey.url)
    namespace = f"test-{uuid4().hex}"
    key = sealed_cursor_key(namespace, "t1")
    admin.set(key, b"7" * (32 << 20))
    try:
        before = admin.info("stats")["total_net_output_bytes"]
        assert cursors((namespace, admin)).load("t1", AGAIN) is None
        assert admin.info("stats")["total_net_output_bytes"] - before < 1 << 20
    finally:
        admin.delete(key)
        admin.close()
