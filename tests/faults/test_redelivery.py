"""Redis is killed while somebody has kombu's lock over redelivery: it comes back with the data, its holder does not."""

from __future__ import annotations

import pytest
from redis.lock import Lock

from sluicegate.control.process.stack import Stack
from tests.fleet.harness import Fleet
from tests.fleet.waiting import until

MUTEX = "unacked_mutex"


@pytest.mark.long
def test_s1_s5_s6_a_lock_left_behind_by_a_killed_redis_is_told_of(stack: Stack) -> None:
    """It halts nothing but redelivery: the fleet pauses and resumes, and each worker says what is the matter."""
    with Fleet(stack) as fleet:
        fleet.watch()
        worker = fleet.start()
        fleet.wait_open()
        fleet.send_naps(40, 0.02)
        fleet.wait_started(5)
        fleet.pause()
        fleet.wait_drained()
        # As kombu takes it, by somebody who will not live to give it back.
        assert Lock(fleet.redis, MUTEX, timeout=300).acquire(blocking=False)
        stack.valkey.kill()
        stack.valkey.start()
        until("the lock is back", lambda: fleet.redis.exists(MUTEX))
        fleet.wait_more_starts_after(fleet.resume)
        until(
            "it says so", lambda: "redelivery is halted: the same holder has had unacked_mutex" in worker.process.output
        )
        fleet.wait_done()
        fleet.redis.delete(MUTEX)
        until("it says so", lambda: "redelivery goes on" in worker.process.output)
        verdict = fleet.check()
    assert verdict.broken == {}
