"""Tasks that are revoked, or expire, while they wait in a worker for a slot."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest

from sluicegate.control.process.stack import Stack
from tests.fleet.harness import Fleet
from tests.fleet.waiting import until
from tests.marks import long

MANY = 800
"""Twice what plain Celery survives. (Of 5,000 there is a test of the slots alone, tests/unit/test_prefork_slots.py.)"""
EXPIRES_S = 15.0


def send_many(fleet: Fleet, expires: datetime | None) -> list[str]:
    """Naps that the checker knows nothing of, and their ids."""
    with fleet.sender.producer_pool.acquire(block=True) as producer:
        return [
            str(fleet.sender.send_task("fleet.nap", args=(number + 10, 0.0), expires=expires, producer=producer).id)
            for number in range(MANY)
        ]


def revoke(fleet: Fleet, ids: Sequence[str]) -> None:
    fleet.sender.control.revoke(list(ids))
    last = ids[-1]
    until("the worker knows", lambda: last in str(fleet.sender.control.inspect(timeout=2.0).revoked()), every_s=0.1)


@pytest.mark.parametrize(
    ("why", "is_paused"),
    [("expired", False), long("revoked", False), long("expired", True), long("revoked", True)],
)
def test_s5_a_worker_survives_any_number_that_are_revoked_or_expire_while_they_wait(
    stack: Stack, why: str, is_paused: bool
) -> None:
    """Each leaves the slot to the next one: with so many that was one call within another, and the worker died of it.

    With a pause in between they are handed back, and are dropped as they come again.
    """
    with Fleet(stack, prefetch=MANY + 10) as fleet:
        worker = fleet.start(slots=1)
        fleet.watch()
        fleet.wait_open()
        end = fleet.directory / "end"
        blocker = fleet.send("told", str(end))
        fleet.wait_started(1)
        expires_at = datetime.now(UTC) + timedelta(seconds=EXPIRES_S)
        ids = send_many(fleet, expires=expires_at if why == "expired" else None)
        until("all wait in hand", lambda: fleet.redis.hlen("unacked") == MANY, within_s=EXPIRES_S)
        if is_paused:
            fleet.pause()
            until("all are handed back", lambda: fleet.depth() == MANY)
        if why == "revoked":
            revoke(fleet, ids)
        until("they have expired", lambda: why == "revoked" or datetime.now(UTC) > expires_at)
        after = fleet.send("nap", 0.01)
        end.touch()
        until("the slot is free", lambda: blocker in fleet.ended())
        if is_paused:
            fleet.wait_acknowledged()
            fleet.resume()
        until("what comes after them has run", lambda: after in fleet.ended(), within_s=60)
        until("the broker has none left", lambda: not fleet.depth() and not fleet.redis.hlen("unacked"))
        assert worker.is_running
        assert fleet.started() == {blocker, after}
        log = worker.process.output
    assert "RecursionError" not in log
    assert log.count("Discarding revoked task") == MANY
