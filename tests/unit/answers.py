"""Answers of a control plane, as JSON, for the tests of the client and the commands."""

from __future__ import annotations

from typing import Any

AT = "2026-01-31T09:30:00.000000Z"
TOKEN = "sg_this-very-token-must-never-be-shown"


def hold(**changes: Any) -> dict[str, Any]:
    return {
        "id": "6a6f0f9e-3b5b-4c7e-9d8f-0a1b2c3d4e5f",
        "scope": "global",
        "cause": "manual",
        "source": "",
        "mode": "drain",
        "reason": "deploying",
        "actor": "alice",
        "createdAt": AT,
        "expiresAt": None,
        "deadline": None,
        "then": None,
        "releasedAt": None,
        "releasedBy": None,
        "releasedReason": None,
    } | changes


def state(
    *, version: int = 7, paused: bool = True, holds: list[dict[str, Any]] | None = None, **metrics: Any
) -> dict[str, Any]:
    """`GET /api/system/worker-pause`."""
    active = ([hold()] if paused else []) if holds is None else holds
    manual = next((h for h in active if (h["cause"], h["scope"]) == ("manual", "global")), None)
    return {
        "system": {
            "workersPaused": paused,
            "mode": "drain" if paused else "run",
            "reason": manual and manual["reason"],
            "version": version,
            "epoch": 1,
            "requestedByUserId": manual and manual["actor"],
            "requestedAt": AT if manual else None,
            "updatedAt": AT,
            "holds": active,
        },
        "metrics": {
            "queued": 12,
            "running": 0,
            "staleRunning": 0,
            "isDrained": True,
            "metricsSource": "broker",
        }
        | metrics,
        "audit": {"latest": []},
    }


def change(
    *, outcome: str = "applied", published: bool = True, remaining: list[str] | None = None, **rest: Any
) -> dict[str, Any]:
    """`POST /api/system/worker-pause`."""
    return state(**rest) | {"outcome": outcome, "published": published, "remaining": remaining or []}


def worker(nodename: str = "w1@host", **changes: Any) -> dict[str, Any]:
    return {
        "nodename": nodename,
        "incarnation": "11111111-1111-1111-1111-111111111111",
        "host": "host",
        "pool": "prefork",
        "state": "paused",
        "desiredVersion": 7,
        "appliedVersion": 7,
        "desiredEpoch": 1,
        "appliedEpoch": 1,
        "appliedAt": AT,
        "running": [],
        "reserved": 0,
        "queues": ["celery"],
        "stale": False,
        "refused": {},
        "lastSeenAt": AT,
        "leaseExpiresAt": "2026-01-31T09:30:10.000000Z",
    } | changes


def task(name: str = "tasks.work", id: str = "t1", started_at: str | None = AT) -> dict[str, Any]:
    return {"id": id, "name": name, "startedAt": started_at}


def event(**changes: Any) -> dict[str, Any]:
    return {
        "id": 3,
        "action": "pause",
        "outcome": "applied",
        "epoch": 1,
        "version": 7,
        "scope": "global",
        "cause": "manual",
        "source": "",
        "mode": "drain",
        "reason": "deploying",
        "actor": "alice",
        "holdId": None,
        "details": {},
        "createdAt": AT,
    } | changes


def error(code: str, message: str, field: str | None = None, **more: Any) -> dict[str, Any]:
    return {"error": {"code": code, "message": message, **({"field": field} if field else {})}, **more}


def story(*, at_pause: bool = True, **changes: Any) -> dict[str, Any]:
    """`GET /api/holds/{id}`."""
    ran = task(name="tasks.train") | {"queue": "gpu", "waiting": False}
    then = {
        "at": AT,
        "source": "broker",
        "queues": [{"name": "gpu", "ready": 12}],
        "workers": [
            {
                "nodename": "w1@host",
                "incarnation": "i1",
                "state": "running",
                "seenAt": AT,
                "reserved": 3,
                "running": [ran],
            }
        ],
    }
    receipt = {
        "holdVersion": 7,
        "ending": "drained",
        "seconds": 4.2,
        "finished": 1,
        "yielded": 0,
        "waiting": 0,
        "forced": 0,
        "lost": 1,
    }
    ended = {"version": 7, "begunAt": AT, "endedAt": AT, "ending": "drained", "receipt": receipt}
    return {
        "hold": hold(),
        "atPause": then if at_pause else None,
        "tasks": [
            ran | {"nodename": "w1@host", "incarnation": "i1", "fate": "finished", "how": None},
            ran | {"nodename": "w2@host", "incarnation": "i1", "id": "t2", "fate": "lost", "how": "it was replaced"},
        ],
        "drains": [ended],
    } | changes


def preview(**changes: Any) -> dict[str, Any]:
    """`GET /api/system/worker-pause/preview`."""
    known = task(id="t1") | {"queue": "gpu", "waiting": False, "elapsedSeconds": 12.0, "usualSeconds": 60.0}
    row = {"nodename": "w1@host", "state": "running", "enforces": True, "reserved": 3, "running": [known]}
    return {
        "scope": "global",
        "running": 1,
        "etaSeconds": 48.0,
        "withoutEstimate": [],
        "queues": [{"name": "gpu", "ready": 12}],
        "workers": [row],
        "heldBy": [],
        "warnings": [],
    } | changes


def forgotten(nodename: str = "w1@host") -> dict[str, Any]:
    """`POST /api/workers/{nodename}/forget`."""
    return {"nodename": nodename, "lastSeenAt": AT, "forgotten": True}
