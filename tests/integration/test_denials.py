"""Who is turned away stands in the audit: no stranger fills it, none hides behind another, and none goes uncounted."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from sluicegate.control.access.denials import Attempt, Denials
from sluicegate.control.access.tokens import ANONYMOUS
from sluicegate.control.audit import verification
from sluicegate.schemas.beats import RunningTask
from sluicegate.schemas.errors import Unavailable
from tests.integration.world import PAUSE, World, eventually

PATH = "/api/system/worker-pause"
MOST = 24 * 1024
"""Bytes of one event as Postgres writes it: its details and its columns."""


def largest(world: World) -> int:
    """The bytes of the largest event."""
    found: int = world.sql("select max(octet_length(e::text)) from control_events e")[0][0]
    return found


def denied(world: World, **columns: Any) -> list[dict[str, Any]]:
    """The denials that are on record one by one."""
    return [e for e in world.events(outcome="denied", **columns) if e["action"] != "denials_counted"]


def counted(world: World) -> int:
    """How many are on record by their number alone."""
    details = [event["details"] for event in world.events(outcome="denied")]
    return sum(each.get("unrecorded", 0) + each.get("unrecordedBefore", 0) for each in details)


def test_a_long_path_makes_no_large_row(world: World) -> None:
    """60 kB of a stranger's in a table that is never emptied; what was cut is known by its hash."""
    plane = world.start()
    answer = world.client(plane, None).post("/api/workers/" + "x" * 60_000 + "/forget", json={"reason": "?"})
    assert answer.status_code == 401
    (event,) = denied(world)
    assert "… (cut: 60020 characters, SHA-256 " in event["details"]["path"]
    assert largest(world) < MOST


def test_a_worker_with_a_heap_of_tasks_is_forgotten_in_a_small_row(world: World) -> None:
    """What a worker says of itself is a stranger's word too: a row of 11.7 MB was seen."""
    plane = world.start()
    running = tuple(RunningTask(id=f"{n:036}", name="x" * 200) for n in range(5000))
    world.beat("celery@a", age_s=3600, running=running)
    answer = world.client(plane).post("/api/workers/celery@a/forget", json={"reason": "gone"})
    assert answer.status_code == 200
    (event,) = world.events(action="worker_forgotten")
    assert (event["details"]["worker"], event["reason"]) == ("celery@a", "gone")
    assert largest(world) < MOST


def test_a_path_that_postgres_cannot_keep_is_on_record_all_the_same(world: World) -> None:
    """A NUL in it kept the whole denial off the record."""
    plane = world.start()
    viewer = world.client(plane, "viewer", name="eve")
    assert viewer.post("/api/workers/a%00b/forget", json={"reason": "?"}).status_code == 403
    (event,) = denied(world)
    assert (event["actor"], event["details"]["path"]) == ("eve", "/api/workers/a\\x00b/forget")
    assert counted(world) == 0


def test_nobody_hides_behind_wrong_requests_of_one_address(world: World) -> None:
    """Neither the owner of a token behind strangers, nor an order behind reads, nor one owner behind another."""
    plane = world.start()
    stranger = world.client(plane, None)
    eve, mallory = (world.client(plane, "viewer", name=name) for name in ("eve", "mallory"))
    for _ in range(30):
        stranger.get(PATH)
        stranger.get(PATH, headers={"Authorization": "Bearer sg_guess"})
        eve.post("/api/workers/a/forget", json={"reason": "?"})
    # Of a stranger no body is read, so that it is not known which change was tried.
    for client, actor, action in (
        (eve, "eve", "pause"),
        (mallory, "mallory", "pause"),
        (stranger, ANONYMOUS, "change"),
    ):
        assert client.post(PATH, json=PAUSE).status_code in {401, 403}
        assert [event["actor"] for event in denied(world, action=action, actor=actor)] == [actor]


def test_a_flood_from_many_addresses_hides_no_owner_of_a_token(world: World) -> None:
    """Strangers together have a limit, and the others do not share it."""
    denials = Denials(world.replica().database, world.namespace)
    for number in range(100):
        read = Attempt(action="read", client=f"203.0.113.{number}", scope=None, details={})
        denials.note(ANONYMOUS, read, "no token")
    denials.note("eve", Attempt(action="read", client="203.0.113.1", scope=None, details={}), "needs more")
    assert len(denied(world, actor="eve")) == 1
    assert 60 <= len(denied(world, actor=ANONYMOUS)) <= 62
    assert len(denied(world)) + counted(world) == 101


def test_what_was_only_counted_is_on_record_without_another_denial(world: World) -> None:
    """The flood ends, or the control plane does: the number stands, and is exact."""
    plane = world.start()
    stranger = world.client(plane, None)
    for _ in range(25):
        stranger.get(PATH)
    eventually(lambda: len(denied(world)) + counted(world) == 25)
    for _ in range(25):
        stranger.get(PATH)
    plane.stop()
    assert len(denied(world)) + counted(world) == 50
    numbers = world.events(action="denials_counted")
    assert numbers
    assert {event["actor"] for event in numbers} == {"sluicegate"}
    assert sum(event["details"]["unrecordedByAction"]["read"] for event in numbers) == counted(world)
    verification.verify(world.database_url, None, lambda done, total: None)


def test_a_flood_that_lasts_is_counted_now_and_then(world: World) -> None:
    """The count itself must not fill the audit: one event in ten seconds."""
    now = [0.0]
    denials = Denials(world.replica().database, world.namespace, now=lambda: now[0])
    attempt = Attempt(action="read", client="203.0.113.1", scope=None, details={})
    total = 0
    for _ in range(100):
        now[0] += 1
        for _ in range(5):
            denials.note(ANONYMOUS, attempt, "no token")
            total += 1
        denials.tell_counts()
    assert 9 <= len(world.events(action="denials_counted")) <= 11
    denials.tell_counts(at_once=True)
    assert len(denied(world)) + counted(world) == total


def test_denials_are_not_forgotten_while_the_database_is_away(world: World) -> None:
    """Turned away all the same, counted, and told when it is back."""
    database = world.replica().database
    denials = Denials(database, world.namespace)
    attempt = Attempt(action="pause", client="203.0.113.1", scope=None, details={})
    world.sql("alter table control_events rename to away")
    denials.note(ANONYMOUS, attempt, "no token")
    denials.note(ANONYMOUS, attempt, "no token")
    with pytest.raises(Unavailable):
        denials.tell_counts()
    world.sql("alter table away rename to control_events")
    denials.tell_counts()
    (event,) = world.events(outcome="denied")
    assert event["details"] == {"unrecorded": 2, "unrecordedByAction": {"pause": 2}}


def test_a_change_that_cannot_be_recorded_is_not_made(world: World) -> None:
    """The event and the change are one transaction: where nothing can be chained, nothing is ordered."""
    plane = world.start()
    operator: httpx.Client = world.client(plane)
    operator.post(PATH, json=PAUSE)
    # Nobody is there, so that it drains at once: the last event of it.
    eventually(lambda: world.events(action="drain_completed"))
    before = world.dump("holds", "namespaces", "control_events")
    world.sql("delete from audit_chain")
    answer = operator.post(PATH, json=PAUSE | {"reason": "unseen", "scope": "queue:a"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "unavailable")
    assert "audit_chain has lost its row" in answer.json()["error"]["message"]
    assert world.dump("holds", "namespaces", "control_events") == before
    world.sql("insert into audit_chain values (true)")
    assert operator.post(PATH, json=PAUSE | {"reason": "seen", "scope": "queue:a"}).status_code == 200
