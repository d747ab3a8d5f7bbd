"""Governors on a real Postgres: rows, rounds of the leader, holds of their own, and nobody else's."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from sluicegate.control.process.plane import ControlPlane
from sluicegate.schemas import names
from sluicegate.schemas.errors import Unavailable
from sluicegate.schemas.health.readings import DriverState, GpuReading, Readings
from sluicegate.schemas.health.resources import Resources
from tests.integration.world import PAUSE, RESUME, World, check_one_event_per_version, eventually

NIGHTLY = {"cron": "0 2 * * *", "duration": "2h"}
ALWAYS = {"cron": "* * * * *", "duration": "10m"}


def leading(world: World, **overrides: str) -> ControlPlane:
    """A replica without loops, which leads for the length of the test."""
    plane = world.replica(**overrides)
    plane.leader.look()
    assert plane.leader.term is not None
    return plane


def round_of(plane: ControlPlane) -> None:
    plane.leader.look()
    plane.leader.run_when_leading(plane.rounds.judge_all)()


def put(plane: ControlPlane, kind: str, name: str, spec: dict[str, Any], version: int | None = None) -> int:
    from sluicegate.schemas.governors.decisions import Kind

    done = plane.parts.governors.put(Kind(kind), name, spec, version=version, reason="test", actor="alice")
    return done.shown.stored.version


def held(world: World) -> set[tuple[str, str, str]]:
    rows = world.sql("select scope, cause, source from holds where released_at is null")
    return {tuple(row) for row in rows}


def test_a_window_places_its_hold_and_releases_it_with_one_event_per_edge(world: World) -> None:
    """However many rounds are made in between."""
    plane = leading(world)
    version = put(plane, "window", "nightly", ALWAYS | {"scope": "queue:reports", "mode": "quiesce"})
    for _ in range(5):
        round_of(plane)
    assert held(world) == {("queue:reports", "window", "nightly")}
    put(plane, "window", "nightly", ALWAYS | {"scope": "queue:reports", "invert": True}, version)
    for _ in range(5):
        round_of(plane)
    assert held(world) == set()
    assert [event["action"] for event in world.events(cause="window")] == [
        "governor_created",
        "window_paused",
        "governor_changed",
        "window_resumed",
    ]
    (paused,) = world.events(action="window_paused")
    assert paused["mode"] == "quiesce"
    assert paused["details"]["decision"]["shouldPause"] is True
    assert paused["details"]["governorVersion"] == 1
    check_one_event_per_version(world)


def test_no_other_causes_hold_is_touched(world: World) -> None:
    """A manual one at the same scope stays when the window closes, and the window's when the manual one is resumed."""
    plane = leading(world)
    version = put(plane, "window", "w", ALWAYS)
    round_of(plane)
    world.change(plane, **PAUSE)
    assert held(world) == {("global", "window", "w"), ("global", "manual", "")}
    assert world.change(plane, **RESUME, forceResume=True)["remaining"] == ["window"]
    world.change(plane, **PAUSE)
    plane.parts.governors.delete("window", "w", version=version, reason="over", actor="alice")  # type: ignore[arg-type]
    round_of(plane)
    assert held(world) == {("global", "manual", "")}


def test_a_hold_of_a_workers_own_capacity_is_no_governors(world: World) -> None:
    """Its source is a rule's name; no governor has made it, and none releases it."""
    plane = leading(world)
    world.change(plane, **PAUSE)
    world.sql("update holds set cause = 'capacity', source = 'capacity.gpu_memory', scope = 'worker:celery@a'")
    for _ in range(3):
        round_of(plane)
    assert held(world) == {("worker:celery@a", "capacity", "capacity.gpu_memory")}


def test_a_window_whose_scope_changes_moves_its_hold(world: World) -> None:
    """The old one is released, the new one placed; the old scope is not forgotten."""
    plane = leading(world)
    version = put(plane, "window", "w", ALWAYS | {"scope": "queue:a"})
    round_of(plane)
    put(plane, "window", "w", ALWAYS | {"scope": "queue:b"}, version)
    round_of(plane)
    assert held(world) == {("queue:b", "window", "w")}


def test_one_that_is_switched_off_releases_its_hold_and_keeps_its_row(world: World) -> None:
    """Of itself (`enabled`), and of its kind (SLUICEGATE_GOVERNORS)."""
    plane = leading(world)
    version = put(plane, "window", "w", ALWAYS)
    round_of(plane)
    put(plane, "window", "w", ALWAYS | {"enabled": False}, version)
    round_of(plane)
    assert held(world) == set()
    put(plane, "window", "w", ALWAYS, version + 1)
    round_of(plane)
    assert held(world) == {("global", "window", "w")}
    plane.leader.resign()
    other = leading(world, SLUICEGATE_GOVERNORS="budget")
    round_of(other)
    assert held(world) == set()
    assert len(other.parts.governors.all()) == 1


def test_a_zero_budget_holds_and_a_raised_one_releases(world: World) -> None:
    """With the decision on record (R-E3)."""
    plane = leading(world)
    version = put(plane, "budget", "gpu", {"daily": 0})
    round_of(plane)
    assert held(world) == {("global", "budget", "gpu")}
    put(plane, "budget", "gpu", {"daily": "10"}, version)
    round_of(plane)
    assert held(world) == set()
    (paused,), (resumed,) = world.events(action="budget_paused"), world.events(action="budget_resumed")
    decision = paused["details"]["decision"]
    assert decision["capacity"]["currentPercentage"] is None
    assert set(decision) >= {"shouldPause", "reason", "timeWindow", "capacity", "nextResetTime"}
    assert resumed["details"]["decision"]["shouldPause"] is False


def test_what_is_adjusted_counts_once_and_nine_times_a_tenth_of_one_is_nine_tenths(world: World) -> None:
    """In binary fractions it is less."""
    plane = leading(world)
    put(plane, "budget", "gpu", {"daily": "1.0", "dayHours": "0-23", "nightHours": []})
    for number in range(9):
        assert held(world) == set()
        for _ in range(2):
            plane.parts.governors.adjust("gpu", amount=0.1, reason="test", key=str(number), actor="alice")
        round_of(plane)
    assert held(world) == {("global", "budget", "gpu")}
    (paused,) = world.events(action="budget_paused")
    assert paused["reason"] == "Capacity threshold exceeded (90.0% >= 90.0%)"
    assert len(world.events(action="budget_adjusted", outcome="applied")) == 9


def test_an_override_lasts_until_its_condition_turns_false(world: World) -> None:
    """It releases the hold, is on record, and does not survive the condition."""
    plane = leading(world)
    version = put(plane, "budget", "gpu", {"daily": 0})
    round_of(plane)
    governors = plane.parts.governors
    kind = governors.all()[0].stored.kind
    governors.override(kind, "gpu", for_s=3600, reason="month's end", actor="bob")
    round_of(plane)
    assert held(world) == set()
    version = put(plane, "budget", "gpu", {"daily": "5"}, version)
    round_of(plane)
    (ended,) = world.events(action="override_ended")
    assert ended["reason"] == "its condition turned false"
    put(plane, "budget", "gpu", {"daily": 0}, version)
    round_of(plane)
    assert held(world) == {("global", "budget", "gpu")}


def test_an_override_ends_at_its_time(world: World) -> None:
    """The hold comes back, since its condition never went."""
    plane = leading(world)
    put(plane, "window", "w", ALWAYS)
    round_of(plane)
    governors = plane.parts.governors
    governors.override(governors.all()[0].stored.kind, "w", for_s=4, reason="one more", actor="bob")
    round_of(plane)
    assert held(world) == set()

    def is_held_again() -> bool:
        round_of(plane)
        return held(world) == {("global", "window", "w")}

    eventually(is_held_again)
    assert [event["reason"] for event in world.events(action="override_ended")] == ["its time is over"]


def test_a_replica_that_starts_publishes_nothing_before_the_governors_were_judged(world: World) -> None:
    """R-G2: a window that opened while nobody ran holds before a worker that starts can see a publication."""
    plane = leading(world)
    put(plane, "window", "w", ALWAYS)
    plane.leader.resign()
    other = world.replica()
    other.publisher.republish()
    assert world.published() is None
    assert other.publisher.publish_now(world.edition()) is False
    other.leader.look()
    other.publisher.republish()
    assert world.published() is None
    round_of(other)
    other.publisher.republish()
    published = world.published()
    assert published is not None
    assert [hold.cause for hold in published.holds.active] == ["window"]


def test_with_no_governors_a_replica_publishes_at_once(world: World) -> None:
    plane = world.replica()
    plane.publisher.republish()
    assert world.published() is not None


def test_what_a_term_begins_with_is_done_again_where_it_failed(
    world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The database was away for that moment: the file of governors is applied all the same, by the next round."""
    file = tmp_path / "governors.toml"
    file.write_text('[window.always]\ncron = "* * * * *"\nduration = "10m"\n')
    plane = leading(world, SLUICEGATE_GOVERNORS_FILE=str(file))

    def away(*_: object, **__: object) -> None:
        raise Unavailable("away")

    with monkeypatch.context() as patched:
        patched.setattr(plane.parts.governors, "manage", away)
        with pytest.raises(Unavailable):
            plane.leader.run_when_leading(plane.rounds.judge_all)()
    assert held(world) == set()
    round_of(plane)
    assert held(world) == {("global", "window", "always")}


def test_what_a_deposed_leader_decides_is_not_stored(world: World) -> None:
    """Its term ended between its look and its write."""
    plane = leading(world)
    put(plane, "window", "w", ALWAYS)

    def deposed() -> None:
        world.sql("update leaders set term = term + 1, replica = gen_random_uuid()")
        plane.rounds.judge_all()

    plane.leader.run_when_leading(deposed)()
    assert held(world) == set()


def test_an_edge_is_at_its_second_and_not_at_the_next_poll(world: World) -> None:
    """A control plane that runs: the hold is placed within a tenth of a second of the full minute's lead."""
    plane = world.start()
    eventually(lambda: plane.leader.term)
    ((now,),) = world.sql("select clock_timestamp()")
    edge = (now + timedelta(seconds=3.37)).astimezone(UTC)
    minute = edge.replace(second=0, microsecond=0) + timedelta(minutes=1)
    lead = minute - edge
    spec = {"cron": f"{minute.minute} {minute.hour} * * *", "duration": "1m", "lead": f"{round(lead.total_seconds())}s"}
    put(plane, "window", "soon", spec)
    wanted = minute - timedelta(seconds=round(lead.total_seconds()))
    eventually(lambda: world.events(action="window_paused"), within_s=8)
    ((at,),) = world.sql("select created_at from holds where cause = 'window'")
    assert timedelta(0) <= at - wanted < timedelta(seconds=0.25), at - wanted


def test_rest_changes_are_versioned_and_a_file_managed_one_answers_409(world: World, tmp_path: Any) -> None:
    """If-Match; and what the file names is changed there alone."""
    file = tmp_path / "governors.toml"
    file.write_text('[window.nightly]\ncron = "0 2 * * *"\nduration = "2h"\nzone = "Europe/Berlin"\n')
    plane = world.start(SLUICEGATE_GOVERNORS_FILE=str(file))
    admin, viewer = world.client(plane, "admin"), world.client(plane, "viewer")
    eventually(lambda: viewer.get("/api/governors").json()["governors"])
    refused = admin.put(
        "/api/governors/window/nightly", json={"spec": NIGHTLY, "reason": "x"}, headers={"If-Match": "1"}
    )
    assert refused.status_code == 409, refused.text
    assert "file" in refused.json()["error"]["message"]

    path = "/api/governors/budget/gpu"
    made = admin.put(path, json={"spec": {"daily": "12.5"}, "reason": "new"})
    assert made.status_code == 200, made.text
    assert made.headers["etag"] == '"1"'
    assert admin.put(path, json={"spec": {"daily": 13}, "reason": "up"}).status_code == 409
    assert admin.put(path, json={"spec": {"daily": 13}, "reason": "up"}, headers={"If-Match": '"2"'}).status_code == 409
    assert admin.put(path, json={"spec": {"daily": 13}, "reason": "up"}, headers={"If-Match": '"1"'}).status_code == 200
    assert viewer.get(path).json()["spec"]["daily"] == "13.00"
    wrong = admin.put(path, json={"spec": {"daily": "NaN"}, "reason": "up"}, headers={"If-Match": '"2"'})
    assert (wrong.status_code, wrong.json()["error"]["field"]) == (422, "daily")
    assert viewer.put(path, json={"spec": {"daily": 1}, "reason": "up"}, headers={"If-Match": '"2"'}).status_code == 403
    gone = admin.request("DELETE", path, json={"reason": "done"}, headers={"If-Match": '"2"'})
    assert gone.status_code == 200, gone.text
    assert viewer.get(path).status_code == 404
    actions = [event["action"] for event in world.events(cause="budget") if event["outcome"] == "applied"]
    assert actions == ["governor_created", "governor_changed", "governor_deleted"]


def test_the_metrics_tell_of_the_budget_that_holds(world: World) -> None:
    """R-E7, in what GET answers; null where there is none."""
    plane = world.start()
    client = world.client(plane, "viewer")
    assert client.get("/api/system/worker-pause").json()["metrics"]["capacityPercentage"] is None
    put(plane, "budget", "gpu", {"daily": "10", "dayHours": "0-23", "nightHours": []})
    plane.parts.governors.adjust("gpu", amount="9.5", reason="test", key=None, actor="alice")

    def told() -> dict[str, Any]:
        metrics: dict[str, Any] = client.get("/api/system/worker-pause").json()["metrics"]
        return metrics

    eventually(lambda: told()["isPausedByCapacity"])
    assert (told()["capacityPercentage"], told()["capacityThreshold"]) == (95.0, 0.9)
    assert told()["lastCapacityCheck"] is not None


def test_what_is_asked_for_is_decided_and_nothing_is_stored(world: World) -> None:
    plane = world.start()
    client = world.client(plane, "viewer")
    asked = {"spec": {"daily": 100, "zone": "Europe/Berlin"}, "reading": {"spent": "92"}}
    for at, should_pause in (
        ("2026-03-02T17:59:59+01:00", True),
        ("2026-03-02T18:00:00+01:00", False),
        ("2026-03-02T22:00:00+01:00", False),
    ):
        answer = client.post("/api/governors/budget/test", json=asked | {"at": at})
        assert answer.status_code == 200, answer.text
        assert answer.json()["shouldPause"] is should_pause, at
    nan = client.post("/api/governors/budget/test", json=asked | {"reading": {"spent": "NaN"}}).json()
    assert nan["shouldPause"] is None
    assert "NaN" in nan["alarm"]
    assert client.get("/api/governors").json()["governors"] == []


@pytest.mark.parametrize(
    "bad", ["[window.x]\ncron = '61 * * * *'\nduration = '1h'\n", "[nothing.x]\n", "=", "window = 1"]
)
def test_a_file_that_cannot_be_used_stops_the_start(world: World, tmp_path: Any, bad: str) -> None:
    from sluicegate.schemas.errors import InvalidSetting

    file = tmp_path / "governors.toml"
    file.write_text(bad)
    with pytest.raises(InvalidSetting, match="SLUICEGATE_GOVERNORS_FILE"):
        world.replica(SLUICEGATE_GOVERNORS_FILE=str(file))


_ = (datetime, time)


def test_what_tasks_report_counts_once_and_what_is_no_figure_is_on_record(world: World) -> None:
    """Read from Redis, stored, and taken away there; the same key again counts nothing."""
    plane = leading(world)
    put(plane, "budget", "gpu", {"daily": "1", "dayHours": "0-23", "nightHours": [], "scope": "label:gpu=a"})
    key = names.costs_key(world.namespace)

    def tell(**said: Any) -> None:
        world.redis.xadd(key, {"cost": json.dumps({"currency": "USD", "labels": {"gpu": "a"}} | said)})

    def take_in() -> None:
        plane.leader.look()
        plane.leader.run_when_leading(plane.intake.turn)()
        round_of(plane)

    tell(key="one", amount="0.5")
    tell(key="one", amount="0.5")
    tell(key="elsewhere", amount="9", labels={"gpu": "b"})
    tell(key="pounds", amount="9", currency="GBP")
    tell(key="nan", amount="NaN")
    take_in()
    assert held(world) == set()
    tell(key="one", amount="0.5")
    tell(key="two", amount="0.4")
    take_in()
    assert held(world) == {("label:gpu=a", "budget", "gpu")}
    assert world.redis.xlen(key) == 0
    (refused,) = world.events(action="costs_refused")
    assert "NaN" in refused["reason"]


def test_with_reports_that_cannot_be_read_a_hold_stays_and_an_alarm_says_so(world: World) -> None:
    """Fails open: the last figures are judged for ten minutes, and then nothing new is held."""
    plane = leading(world)
    put(plane, "budget", "gpu", {"daily": "1"})
    world.redis.set(names.costs_key(world.namespace), "no stream")
    with pytest.raises(Unavailable):
        plane.leader.run_when_leading(plane.intake.turn)()
    round_of(plane)
    (alarmed,) = world.events(action="governor_alarmed")
    assert "cannot be read" in alarmed["reason"]
    assert held(world) == set()


def test_a_capacity_gate_holds_where_nobody_is_online_and_not_before_it_has_looked(world: World) -> None:
    """After its grace; a worker that says nothing of what it has is no room either."""
    plane = leading(world)
    put(plane, "capacity", "fleet", {})
    round_of(plane)
    assert held(world) == set()
    (shown,) = plane.parts.governors.all()
    assert (shown.stored.decision or {})["shouldPause"] is None
    assert "no worker is online" in (shown.stored.decision or {})["reason"]


def test_a_capacity_gate_holds_while_all_workers_are_below_by_their_own_heartbeats(world: World) -> None:
    """Not before all who are online were heard since the leader took over."""
    plane = leading(world, PAUSE_POLLING_INTERVAL_SECONDS="1")
    put(plane, "capacity", "fleet", {})

    def beat(name: str, free: int, seq: int) -> None:
        gpu = GpuReading(uuid="GPU-1", memory_total_bytes=100, memory_free_bytes=free)
        readings = Readings(number=seq, at=datetime.now(UTC), driver=DriverState.SERVING, had_gpus=True, gpus=(gpu,))
        said = replace(Resources.whole(seq, readings, interval_ms=2000), age_ms=0)
        world.redis.set(names.resources_key(world.namespace, name), said.encode())
        world.beat(name, seq=seq, resources=said)

    beat("celery@a", 10, 1)
    beat("celery@b", 10, 1)
    round_of(plane)
    assert held(world) == set()
    seq = iter(range(2, 1000))

    def holds(free_of_b: int) -> bool:
        number = next(seq)
        beat("celery@a", 10, number)
        beat("celery@b", free_of_b, number)
        round_of(plane)
        return held(world) == {("global", "capacity", "fleet:fleet")}

    eventually(lambda: holds(10))
    (paused,) = world.events(action="capacity_paused")
    assert "gpu_memory 10% < 20%" in paused["reason"]
    assert paused["details"]["decision"]["workers"] == 2
