"""Whoever has a worker's credential for Redis writes cursors: a task may begin anew, and skips nothing."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import redis

from sluicegate.control.links import redis_acl
from sluicegate.control.process.stack import Stack
from sluicegate.schemas.names import cursor_key, sealed_cursor_key
from sluicegate.schemas.settings import NAMESPACE, REDIS_URL
from tests.fleet.harness import Fleet
from tests.fleet.waiting import until

ITEMS = 12


def _has_done(fleet: Fleet, count: int) -> bool:
    return len(fleet.items()) >= count


@pytest.mark.parametrize("is_changed", [False, True], ids=["written", "changed"])
def test_a_forged_cursor_makes_a_task_begin_anew_and_skip_nothing(stack: Stack, is_changed: bool) -> None:
    """All its items are done, and the log of its worker says what was found."""
    namespace = stack.environ[NAMESPACE.name]
    admin: Any = redis.Redis.from_url(stack.environ[REDIS_URL.name])
    admin.execute_command("ACL", "SETUSER", "thief", "on", ">pw", *redis_acl.worker_rules(namespace))
    thief: Any = redis.Redis.from_url(stack.environ[REDIS_URL.name], username="thief", password="pw")
    try:
        with Fleet(stack, acks_late=True) as fleet:
            fleet.watch()
            worker = fleet.start(slots=1)
            fleet.wait_open()
            first = fleet.send("steps_yield", ITEMS, 0.1)
            until("some items are done", partial(_has_done, fleet, 3))
            fleet.pause(mode="quiesce")
            fleet.wait_acknowledged()
            until("it is back in its queue", lambda: len(fleet.contents().queued) == 1)
            (task_id,) = (message.task_id for message in fleet.contents().queued)
            forged = b"999"
            if is_changed:
                forged = thief.get(sealed_cursor_key(namespace, task_id)).replace(b"\n", b"\n99")
            thief.set(sealed_cursor_key(namespace, task_id), forged)
            thief.set(cursor_key(namespace, task_id), b"999")
            fleet.resume()
            until("it is done", lambda: fleet.ended() == {first})
            assert {(done.seq, done.item) for done in fleet.items()} == {(first, item) for item in range(ITEMS)}
            assert "the task begins anew" in worker.process.output
    finally:
        thief.close()
        admin.execute_command("ACL", "DELUSER", "thief")
        admin.close()
