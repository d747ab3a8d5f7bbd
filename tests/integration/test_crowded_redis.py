"""A Redis that is full of heartbeats, whoever wrote them: orders take the time that they take beside an empty one."""

from __future__ import annotations

import time

import httpx
import pytest

from sluicegate.schemas import names
from tests.integration.test_bounds import FORCED, PATH
from tests.integration.world import PAUSE, World

ROUNDS = 25


def timed(client: httpx.Client) -> list[float]:
    """How long each of some pauses and forced resumes took, in seconds, the shortest first."""
    took_s = []
    for number in range(2 * ROUNDS):
        begun_at = time.monotonic()
        answer = client.post(PATH, json=FORCED if number % 2 else PAUSE)
        took_s.append(time.monotonic() - begun_at)
        assert answer.status_code == 200, answer.text
        assert answer.json()["published"] is True
    return sorted(took_s)


def crowd(world: World, number: int) -> None:
    """Writes so many heartbeats, each of a worker of its own that runs something."""
    raw = world.beat("junk@0", queues=("q",)).encode()
    seconds, _ = world.redis.time()
    for start in range(0, number, 5000):
        some = [f"junk@{one}" for one in range(start, min(start + 5000, number))]
        world.redis.mset({names.beat_key(world.namespace, one): raw.replace(b"junk@0", one.encode()) for one in some})
        world.redis.zadd(names.beats_key(world.namespace), dict.fromkeys(some, seconds))


@pytest.mark.alone
@pytest.mark.long
def test_orders_do_not_depend_on_looking(world: World) -> None:
    """100,000 heartbeats, 50 of a megabyte and one of 15: a pause and a forced resume are in force and answered."""
    plane = world.start(SLUICEGATE_REPUBLISH_INTERVAL_MS="1000")
    client = world.client(plane)
    timed(client)
    clean = timed(client)
    crowd(world, 100_000)
    for number in range(50):
        world.leave(f"large@{number}", b"x" * (1 << 20))
    world.leave("huge@0", b"x" * (15 << 20))
    timed(client)
    crowded = timed(client)
    figures = f"clean {clean[ROUNDS]:.3f}, {clean[-1]:.3f}; crowded {crowded[ROUNDS]:.3f}, {crowded[-1]:.3f}"
    print(figures)
    # A tenth of a second beside: what else computes on the machine is not the same in both.
    assert crowded[ROUNDS] < 2 * clean[ROUNDS] + 0.1, figures
    assert crowded[-1] < 2 * clean[-1] + 0.1, figures
    metrics = client.get(PATH, timeout=30).json()["metrics"]
    assert (metrics["isDrained"], metrics["unread"] > 90_000) == (False, True)
