"""The REST API: shapes, rights, and errors of one form."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from sluicegate.control.access import tokens
from sluicegate.control.access.admission import Access
from sluicegate.control.access.denials import Attempt
from sluicegate.control.embedded import EmbeddedPostgres, EmbeddedValkey
from sluicegate.schemas.api.audit import AuditAnswer
from sluicegate.schemas.api.pausing import ChangeAnswer, PauseAnswer
from sluicegate.schemas.beats import RunningTask, WorkerState
from sluicegate.schemas.errors import InvalidInput, NotAuthenticated, NotFound, Refused
from sluicegate.schemas.snapshots import Edition
from sluicegate.schemas.times import from_wire, to_wire
from tests.integration.world import PAUSE, RESUME, World, eventually

PATH = "/api/system/worker-pause"
FORGET = "/api/workers/celery@a/forget"


def error_of(answer: httpx.Response) -> dict[str, Any]:
    """The error, after a check of the form that every error has."""
    body = answer.json()
    assert set(body["error"]) <= {"code", "message", "field"}
    assert "Traceback" not in answer.text
    assert answer.headers["content-type"] == "application/json"
    error: dict[str, Any] = body["error"]
    return error


def test_the_state_has_exactly_the_promised_shape(world: World) -> None:
    """R-A6: camelCase, UTC with microseconds, the newest five events."""
    world.beat(
        "celery@a", running=(RunningTask(id="t", name="app.work"),)
    )  # with nothing to wait for, a receipt could stand among the events
    client = world.client(world.start())
    for count in range(6):
        client.post(PATH, json=PAUSE | {"reason": f"reason {count}"})
    body = client.get(PATH).json()
    PauseAnswer.model_validate(body)
    assert set(body) == {"system", "metrics", "audit"}
    assert set(body["system"]) == {
        "workersPaused",
        "mode",
        "reason",
        "version",
        "epoch",
        "requestedByUserId",
        "requestedAt",
        "updatedAt",
        "holds",
    }
    assert set(body["metrics"]) == {
        "queued",
        "running",
        "staleRunning",
        "waiting",
        "isDrained",
        "isQuiesced",
        "ahead",
        "workers",
        "strangers",
        "metricsSource",
        "setAside",
        "setAsideByQueue",
        "unread",
        "unsigned",
        "forged",
        "isPausedByCapacity",
        "capacityPercentage",
        "capacityThreshold",
        "lastCapacityCheck",
    }
    assert [event["reason"] for event in body["audit"]["latest"]] == [f"reason {n}" for n in (5, 4, 3, 2, 1)]
    assert set(body["audit"]["latest"][0]) == {"id", "action", "mode", "reason", "actorUserId", "createdAt"}
    for moment in (body["system"]["updatedAt"], body["audit"]["latest"][0]["createdAt"]):
        assert to_wire(from_wire(moment, "moment")) == moment


def test_a_change_answers_with_the_state_and_what_it_did(world: World) -> None:
    """The actor is the token's owner, whatever the body says."""
    client = world.client(world.start(), name="alice")
    body = client.post(PATH, json=PAUSE).json()
    ChangeAnswer.model_validate(body)
    assert (body["outcome"], body["published"], body["remaining"]) == ("applied", True, [])
    assert body["system"]["requestedByUserId"] == body["audit"]["latest"][0]["actorUserId"] == "alice"
    assert error_of(client.post(PATH, json=PAUSE | {"actor": "mallory"}))["field"] == "actor"


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b"", "body"),
        (b"{", "body"),
        (b"[]", "body"),
        (b"[" * 5000, "body"),
        (b'{"action":"\xff"}', "body"),
        (b"{}", "action"),
        (b'{"action":"pauze","mode":"drain","reason":"x"}', "action"),
        (b'{"action":"pause","mode":"drane","reason":"x"}', "mode"),
        (b'{"action":"pause","mode":"drain","reason":""}', "reason"),
        (b'{"action":"pause","mode":"drain","reason":"\\ud800"}', "reason"),
        (b'{"action":"pause","mode":"drain","reason":"x","scope":"q"}', "scope"),
        (b'{"action":"pause","mode":"drain","reason":"x","forceresume":true}', "forceresume"),
        (b'{"action":"pause","mode":"drain","reason":"x","\\ud800":true}', None),
        (b'{"action":"resume","reason":"x","forceResume":"perhaps"}', "forceResume"),
        (b'{"action":"pause","mode":"drain","reason":"x","idempotencyKey":7}', "idempotencyKey"),
        (b'{"action":"pause","mode":"drain","reason":"' + b"x" * 70_000 + b'"}', "body"),
    ],
)
def test_bad_input_is_one_clear_error_and_changes_nothing(world: World, body: bytes, field: str | None) -> None:
    """R-A4: 422 with the field named as the caller spells it; not a row is different."""
    client = world.client(world.start())
    client.get(PATH)
    before = world.dump()
    answer = client.post(PATH, content=body, headers={"Content-Type": "application/json"})
    error = error_of(answer)
    assert (answer.status_code, error["code"]) == (422, "invalid_input")
    assert field is None or error["field"] == field
    assert world.dump() == before


def test_a_refusal_carries_what_stands_in_the_way(world: World) -> None:
    """R-A7: 409 with `metrics` and `remaining` beside the error."""
    client = world.client(world.start())
    world.beat("celery@a", running=(RunningTask(id="t", name="app.work"),))
    client.post(PATH, json=PAUSE)
    answer = client.post(PATH, json=RESUME)
    assert (answer.status_code, error_of(answer)["code"]) == (409, "refused")
    assert answer.json()["metrics"]["running"] == 1
    assert answer.json()["remaining"] == []
    assert client.post(PATH, json=RESUME | {"forceResume": True}).status_code == 200


@pytest.mark.parametrize(
    ("right", "method", "path", "body", "status", "action", "scope"),
    [
        (None, "GET", PATH, None, 401, "read", None),
        (None, "GET", "/api/workers", None, 401, "read", None),
        (None, "GET", "/api/audit", None, 401, "read", None),
        (None, "POST", PATH, PAUSE, 401, "change", None),
        (None, "POST", PATH, PAUSE | {"scope": "queue:mail"}, 401, "change", None),
        (None, "POST", PATH, "x" * 70_000, 401, "change", None),
        (None, "POST", FORGET, {"reason": "x"}, 401, "worker_forgotten", "worker:celery@a"),
        ("viewer", "POST", PATH, PAUSE | {"scope": "host:a"}, 403, "pause", "host:a"),
        ("viewer", "POST", PATH, RESUME, 403, "resume", "global"),
        ("viewer", "POST", PATH, RESUME | {"scope": "<script>"}, 403, "resume", None),
        ("viewer", "POST", PATH, RESUME | {"scope": ["global"]}, 403, "resume", None),
        ("viewer", "POST", PATH, {"nonsense": 1}, 403, "change", "global"),
        ("viewer", "POST", PATH, ["global"], 403, "change", None),
        ("viewer", "POST", PATH, "x" * 70_000, 403, "change", None),
        ("viewer", "POST", FORGET, {"reason": "x"}, 403, "worker_forgotten", "worker:celery@a"),
    ],
)
def test_an_unauthorised_attempt_changes_nothing_and_is_audited(
    world: World, right: str | None, method: str, path: str, body: Any, status: int, action: str, scope: str | None
) -> None:
    """S8: on every route, with what was tried on which scope, however wrong or large the request is beside.

    Of a stranger's request no body is read: there the route alone says what was tried.
    """
    plane = world.start()
    world.change(plane, **PAUSE)
    client = world.client(plane, right, name="eve")
    tables = ("namespaces", "holds", "idempotency_keys", "tokens", "workers")
    before = world.dump(*tables)
    answer = client.request(method, path, json=body)
    assert (answer.status_code, error_of(answer)["code"]) == (
        status,
        "not_authenticated" if status == 401 else "not_allowed",
    )
    assert world.dump(*tables) == before
    (denied,) = world.events(outcome="denied")
    assert (denied["action"], denied["scope"], denied["actor"], denied["version"]) == (
        action,
        scope,
        "eve" if right else "anonymous",
        None,
    )
    assert (denied["details"]["path"], denied["details"]["client"]) == (path, "127.0.0.1")


def test_every_route_below_api_asks_who_is_there(world: World) -> None:
    """S8: a route that somebody adds without its right is found here, not by a stranger."""
    plane = world.start()
    description = httpx.get(f"{plane.url}/openapi.json").json()
    routes = [(method, path) for path, methods in description["paths"].items() for method in methods]
    assert {path for _, path in routes if not path.startswith("/api/")} == {"/healthz", "/readyz"}
    asked = [(method, path.replace("{nodename}", "celery@a")) for method, path in routes if path.startswith("/api/")]
    assert len(asked) >= 5
    for method, path in asked:
        assert httpx.request(method, plane.url + path).status_code == 401, path
    assert len(world.events(outcome="denied")) == len(asked)


def test_each_right_includes_the_ones_below_it(world: World) -> None:
    """Viewers read, operators change, admins do everything."""
    plane = world.start()
    assert world.client(plane, "viewer").get("/api/workers").status_code == 200
    for right in ("operator", "admin"):
        client = world.client(plane, right)
        assert client.get("/api/audit").status_code == 200
        assert client.post(PATH, json=PAUSE | {"reason": right}).status_code == 200


def test_an_unknown_and_a_revoked_token_are_refused(world: World) -> None:
    """A revoked one at once."""
    plane = world.start()
    client = world.client(plane, name="alice")
    assert client.get(PATH).status_code == 200
    tokens.revoke(world.database_url, "alice")
    assert client.get(PATH).status_code == 401
    for header in ("Bearer sg_nobody", "Basic abc", "Bearer", "sg_x"):
        assert httpx.get(plane.url + PATH, headers={"Authorization": header}).status_code == 401
    assert [e["action"] for e in world.events(namespace=None)] == ["token_created", "token_revoked"]
    with pytest.raises(NotFound):
        tokens.revoke(world.database_url, "alice")


def test_a_flood_of_wrong_tokens_fills_no_table_and_locks_nobody_out(world: World) -> None:
    """Denials are counted, not all recorded; a real token from the same address is listened to."""
    plane = world.start()
    good = world.client(plane)
    bad = world.client(plane, None)
    bad.headers["Authorization"] = "Bearer sg_guess"
    statuses = [bad.get(PATH).status_code for _ in range(40)]
    assert set(statuses) == {401, 429}
    assert statuses[-1] == 429
    assert len(world.events(outcome="denied")) <= 12
    assert good.post(PATH, json=PAUSE).status_code == 200


def test_every_denial_is_recorded_or_counted(world: World) -> None:
    """The first record after a flood says how many were left out, those answered 429 included."""
    plane = world.start()
    access = Access(plane.database, world.namespace)

    def knock(client: str) -> None:
        attempt = Attempt(action="read", client=client, scope=None, details={})
        with pytest.raises(NotAuthenticated):
            access.authenticate("Bearer sg_guess", attempt)

    for _ in range(40):
        knock("203.0.113.1")
    knock("203.0.113.2")
    denied = world.events(outcome="denied")
    left_out = sum(event["details"].get("unrecordedBefore", 0) for event in denied)
    assert left_out >= 28
    assert len(denied) + left_out == 41


def test_tokens_are_stored_as_digests_and_names_are_unique(world: World) -> None:
    """The secret is nowhere in the database."""
    secret = tokens.create(world.database_url, "alice", "operator")
    assert secret.startswith("sg_")
    assert secret not in json.dumps([list(map(str, rows)) for rows in world.dump().values()])
    with pytest.raises(Refused):
        tokens.create(world.database_url, "alice", "viewer")
    for name, right, field in (("", "viewer", "name"), ("sluicegate", "viewer", "name"), ("bob", "root", "right")):
        with pytest.raises(InvalidInput) as caught:
            tokens.create(world.database_url, name, right)
        assert caught.value.field == field


def test_the_audit_is_searched_by_every_filter(world: World) -> None:
    """R-C9: newest first; `total` counts all."""
    plane = world.start()
    alice, bob = world.client(plane, name="alice"), world.client(plane, name="bob")
    alice.post(PATH, json=PAUSE)
    bob.post(PATH, json=PAUSE)
    bob.post(PATH, json=RESUME)

    def search(**filters: Any) -> list[tuple[str, str]]:
        body = alice.get("/api/audit", params=filters).json()
        AuditAnswer.model_validate(body)
        return [(event["action"], event["outcome"]) for event in body["events"]]

    assert search(actor="bob") == [("resume", "applied"), ("pause", "noop")]
    assert search(action="pause") == [("pause", "noop"), ("pause", "applied")]
    assert search(action="pause", limit=1, offset=1) == [("pause", "applied")]
    assert search(cause="manual", scope="global", actor="alice") == [("pause", "applied")]
    assert search(worker="celery@a") == search(cause="budget") == []
    page = alice.get("/api/audit", params={"action": "pause", "limit": 1}).json()
    assert (page["total"], page["limit"], page["offset"]) == (2, 1, 0)
    moment = alice.get("/api/audit", params={"action": "resume"}).json()["events"][0]["createdAt"]
    assert search(since=moment) == [("resume", "applied")]
    assert ("resume", "applied") not in search(until=moment)
    for name, value in [
        ("limit", "0"),
        ("limit", "1001"),
        ("limit", "x"),
        ("offset", "-1"),
        ("since", "yesterday"),
        ("until", "2026-01-01T00:00:00"),
        ("actor", "a\x00"),
        ("actr", "a"),
    ]:
        answer = alice.get("/api/audit", params={name: value})
        assert (answer.status_code, error_of(answer)["field"]) == (422, name)


def test_workers_are_listed_with_what_they_were_told_and_have_applied(world: World) -> None:
    """R-C3, in the documented shape."""
    client = world.client(world.start())
    client.post(PATH, json=PAUSE)
    world.beat("celery@b", state=WorkerState.PAUSED, applied=Edition(1, 2))
    world.beat("celery@a", running=(RunningTask(id="t", name="app.work"),), reserved=3)
    first, second = client.get("/api/workers").json()["workers"]
    assert (first["nodename"], first["host"], first["desiredVersion"], first["appliedVersion"]) == (
        "celery@a",
        "a",
        2,
        1,
    )
    assert first["running"] == [{"id": "t", "name": "app.work", "startedAt": None, "waiting": False, "queue": None}]
    assert (second["nodename"], second["state"], second["appliedVersion"]) == ("celery@b", "paused", 2)
    lease = from_wire(first["leaseExpiresAt"], "lease") - from_wire(first["lastSeenAt"], "seen")
    assert lease.total_seconds() == 10


def test_forgetting_needs_a_silent_worker_and_a_reason(world: World) -> None:
    """R-C3: audited; a living one would only look quiet, so that is refused."""
    client = world.client(world.start(), name="alice")
    client.post(PATH, json=PAUSE)
    world.beat("celery@dead", age_s=11, running=(RunningTask(id="t", name="app.work"),))
    world.beat("celery@alive", state=WorkerState.PAUSED, applied=Edition(1, 2))

    def forget(nodename: str, reason: str = "host died") -> httpx.Response:
        return client.post(f"/api/workers/{nodename}/forget", json={"reason": reason})

    assert client.get(PATH).json()["metrics"]["isDrained"] is False
    assert (forget("celery@dead", " ").status_code, forget("celery@nobody").status_code) == (422, 404)
    assert forget("celery@alive").status_code == 409
    assert forget("celery@dead").status_code == 200
    assert forget("celery@dead").status_code == 404
    assert [worker["nodename"] for worker in client.get("/api/workers").json()["workers"]] == ["celery@alive"]
    assert client.get(PATH).json()["metrics"]["isDrained"] is True
    (event,) = world.events(action="worker_forgotten", outcome="applied")
    assert (event["actor"], event["reason"], event["version"]) == ("alice", "host died", None)
    assert event["details"]["running"][0]["id"] == "t"
    found = client.get("/api/audit", params={"worker": "celery@dead"}).json()["events"]
    assert [one["action"] for one in found] == ["worker_forgotten"]
    world.beat("celery@dead")
    assert len(client.get("/api/workers").json()["workers"]) == 2


def test_health_and_readiness(world: World, valkey: EmbeddedValkey, postgres: EmbeddedPostgres) -> None:
    """Alive is not ready; 503 says which part is not well, and nobody needs a token to ask."""
    plane = world.start()
    client = world.client(plane, None)
    assert client.get("/healthz").json() == {"status": "ok"}
    assert client.get("/readyz").json() == {"status": "ready", "parts": {"redis": "ok", "postgres": "ok"}}
    valkey.stop()
    try:
        answer = client.get("/readyz")
    finally:
        valkey.start()
    assert (answer.status_code, error_of(answer)["code"]) == (503, "unavailable")
    assert answer.json()["parts"]["postgres"] == "ok"
    postgres.stop()
    try:
        assert client.get("/healthz").status_code == 200
        answer = client.get("/readyz")
        assert (answer.status_code, answer.json()["parts"]["redis"]) == (503, "ok")
        denied = client.get(PATH, headers={"Authorization": "Bearer sg_x"})
        assert (denied.status_code, error_of(denied)["code"]) == (503, "unavailable")
    finally:
        postgres.start()
    eventually(lambda: client.get("/readyz").status_code == 200)
    world.sql("update alembic_version set version_num = '0005'")
    assert error_of(client.get("/readyz"))["code"] == "not_migrated"


def test_unknown_routes_and_methods_answer_in_json(world: World) -> None:
    """Also beside the API."""
    client = world.client(world.start())
    for method, path, status in (("GET", "/nope", 404), ("GET", "/api/nope", 404), ("DELETE", PATH, 405)):
        answer = client.request(method, path)
        assert (answer.status_code, bool(error_of(answer)["code"])) == (status, True)


def test_an_error_that_nobody_foresaw_shows_no_traceback(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The log has it; the caller has one line."""
    plane = world.start()
    client = world.client(plane)
    monkeypatch.setattr(plane.parts.reading, "state", lambda scope: 1 / 0)
    answer = client.get(PATH)
    assert (answer.status_code, error_of(answer)["code"]) == (500, "error")
    assert "division" not in answer.text


def test_the_api_describes_itself(world: World) -> None:
    """Every guarded route names the right that it needs, and docs/rest.md has every route."""
    client = world.client(world.start(), None)
    paths = client.get("/openapi.json").json()["paths"]
    rights = {(path, verb): route.get("x-right") for path, verbs in paths.items() for verb, route in verbs.items()}
    assert rights[PATH, "get"] == "viewer"
    assert rights[PATH, "post"] == "operator"
    assert all(right for (path, _), right in rights.items() if path.startswith("/api/"))
    documented = (Path(__file__).parents[2] / "docs" / "rest.md").read_text()
    for path, verb in rights:
        assert f"`{verb.upper()} {path}`" in documented
