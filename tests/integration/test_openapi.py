"""What the API says of itself is what it does."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import httpx
from jsonschema import Draft202012Validator, FormatChecker

from sluicegate.control.process.plane import ControlPlane
from sluicegate.schemas.beats import RunningTask, WorkerState
from sluicegate.schemas.health.local_holds import LocalHold
from sluicegate.schemas.holds.hold import Cause
from sluicegate.schemas.scopes import Scope
from sluicegate.schemas.snapshots import Edition
from tests.integration.world import PAUSE, RESUME, World, eventually

PAUSE_PATH = "/api/system/worker-pause"
SINCE = datetime(2026, 3, 1, tzinfo=UTC)
WORK = RunningTask(id="t1", name="app.work", started_at=SINCE, queue="gpu")
Answers = dict[tuple[str, str], list[httpx.Response]]


def answered(world: World) -> tuple[dict[str, Any], Answers]:
    """The description, and what each route answers in a story in which every block of every body says something."""
    plane = world.start()
    client = world.client(plane)
    world.beat("celery@a", running=(WORK,), queues=("gpu",), labels={"zone": "b"}, refused={"stale_snapshot": 1})
    world.beat("celery@dead", age_s=60, running=(WORK,))
    paths = {name: f"/api/{name}" for name in ("workers", "audit")}

    def ask(method: str, path: str, **more: Any) -> httpx.Response:
        response = client.request(method, path, **more)
        assert response.status_code == 200, response.text
        return response

    paused = ask("POST", PAUSE_PATH, json=PAUSE | {"deadlineInS": 600, "then": "requeue", "expiresInS": 900})
    hold = paused.json()["system"]["holds"][0]["id"]
    story = [ask("GET", f"/api/holds/{hold}")]
    preview = ask("GET", f"{PAUSE_PATH}/preview")
    workers = ask("GET", paths["workers"])
    forgotten = ask("POST", "/api/workers/celery@dead/forget", json={"reason": "scrapped"})
    world.beat("celery@a", state=WorkerState.PAUSED, applied=Edition(1, 2), queues=("gpu",))
    eventually(lambda: world.events(action="drain_completed"))
    resumed = ask("POST", PAUSE_PATH, json=RESUME | {"ramp": "1/m", "forceResume": True})
    state = ask("GET", PAUSE_PATH)
    ask("POST", PAUSE_PATH, json=RESUME)
    story.append(ask("GET", f"/api/holds/{hold}"))
    assert story[-1].json()["drains"][0]["receipt"] is not None
    lost = LocalHold(
        rule="gpu.lost", cause=Cause.HEALTH, scope=Scope.parse("worker:celery@sick"), reason="it fell off", since=SINCE
    )
    world.beat("celery@sick", local_holds=(lost,))
    eventually(lambda: world.events(action="own_hold_placed"))
    cleared = ask("POST", "/api/workers/celery@sick/clear-health", json={"reason": "replaced"})
    raised = world.client(plane, "admin").post("/api/system/epoch", json={"reason": "restored", "above": "1.9"})
    assert raised.status_code == 200, raised.text
    return ask("GET", "/openapi.json").json(), governors(world, plane) | {
        ("get", PAUSE_PATH): [state],
        ("post", PAUSE_PATH): [paused, resumed],
        ("get", f"{PAUSE_PATH}/preview"): [preview],
        ("get", "/api/holds/{hold_id}"): story,
        ("get", paths["workers"]): [workers],
        ("post", "/api/workers/{nodename}/forget"): [forgotten],
        ("post", "/api/workers/{nodename}/clear-health"): [cleared],
        ("post", "/api/system/epoch"): [raised],
        ("get", paths["audit"]): [ask("GET", paths["audit"])],
        ("get", "/healthz"): [ask("GET", "/healthz")],
        ("get", "/readyz"): [ask("GET", "/readyz")],
    }


def governors(world: World, plane: ControlPlane) -> Answers:
    """What the routes of governors answer: a budget that holds, and is gone past."""
    client = world.client(plane, "admin")
    path, reason = "/api/governors/budget/gpu", {"reason": "test"}

    def ask(method: str, path: str, body: dict[str, Any] | None = None, seen: str | None = None) -> httpx.Response:
        headers = {} if seen is None else {"If-Match": seen}
        response = client.request(method, path, json=body, headers=headers)
        assert response.status_code == 200, response.text
        return response

    made = ask("PUT", path, reason | {"spec": {"daily": 0}})
    eventually(lambda: client.get(path).json()["isHolding"])
    one = "/api/governors/{kind}/{name}"
    begun = ask("POST", f"{path}/override", reason | {"forS": 60})
    return {
        ("put", one): [made],
        ("post", f"{one}/override"): [begun],
        ("get", one): [ask("GET", path)],
        ("get", "/api/governors"): [ask("GET", "/api/governors")],
        ("delete", f"{one}/override"): [ask("DELETE", f"{path}/override", reason)],
        ("post", "/api/governors/budget/{name}/adjust"): [ask("POST", f"{path}/adjust", reason | {"amount": "1"})],
        ("post", "/api/governors/{kind}/test"): [ask("POST", "/api/governors/budget/test", {"spec": {"daily": 1}})],
        ("delete", one): [ask("DELETE", path, reason, made.headers["etag"])],
    }


def successes(described: dict[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    """The schema of each route's success, by method and path."""
    return {
        (method, path): route["responses"]["200"]["content"]["application/json"]["schema"]
        for path, methods in described["paths"].items()
        for method, route in methods.items()
    }


def test_every_success_is_as_its_schema_says(world: World) -> None:
    """Field for field, nulls included. No route is left out: one that somebody adds must be in the story."""
    described, answers = answered(world)
    schemas = successes(described)
    assert set(answers) == set(schemas)
    for route, responses in answers.items():
        schema = schemas[route] | {"components": described["components"]}
        fields = described["components"]["schemas"][schemas[route]["$ref"].rpartition("/")[2]]["properties"]
        validator = Draft202012Validator(schema, format_checker=FormatChecker())
        for response in responses:
            assert [error.message for error in validator.iter_errors(response.json())] == [], route
            assert set(response.json()) == set(fields), route
