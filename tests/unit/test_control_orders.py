"""Orders, limits and bodies of the control plane: what they decide without any server."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluicegate.control.access.limits import RateLimit
from sluicegate.control.access.tokens import Right
from sluicegate.control.links.broker import transport_options
from sluicegate.control.pausing.idempotency import Ask, Effect
from sluicegate.schemas.api.orders import Order, order_of, request_of
from sluicegate.schemas.api.pausing import PauseRequest, SystemBody
from sluicegate.schemas.errors import InvalidInput
from sluicegate.schemas.holds.hold import Cause, Hold, Holds
from sluicegate.schemas.modes import Mode
from sluicegate.schemas.scopes import GLOBAL, Scope

NOW = datetime(2026, 1, 31, 9, 30, tzinfo=UTC)


def hold(cause: Cause, mode: Mode = Mode.DRAIN, scope: Scope = GLOBAL) -> Hold:
    return Hold(id=uuid4(), scope=scope, mode=mode, reason=f"{cause}", actor="a", created_at=NOW, cause=cause)


def system(*active: Hold) -> dict[str, Any]:
    return SystemBody.of(Holds(version=3, active=frozenset(active)), epoch=1, updated_at=NOW).to_json()


def test_an_order_is_what_the_request_says_without_its_blanks() -> None:
    """A client that knows only action, mode and reason is understood."""
    order = order_of(PauseRequest(action="pause", mode="quiesce", reason="  deploy "))
    assert order == Order(action="pause", reason="deploy", scope=GLOBAL, mode=Mode.QUIESCE)


def test_a_resume_may_carry_the_mode_that_the_client_sees() -> None:
    """It means nothing there, and is not judged."""
    assert order_of(PauseRequest(action="resume", mode="drain", reason="done")).mode is None


@given(st.text(max_size=30), st.text(max_size=30))
def test_two_requests_are_the_same_when_their_orders_are(first: str, second: str) -> None:
    """The fingerprint tells any two apart, and has no opinion on the key."""
    one, two = (Ask.of("alice", f"k{n}", {"reason": text}) for n, text in enumerate((first, second)))
    assert (one.fingerprint == two.fingerprint) == (first == second)


def test_a_request_without_a_key_gets_one_of_its_own() -> None:
    """It finds out what became of a commit whose answer was lost."""
    assert Ask.of("alice", None, {}).key != Ask.of("alice", None, {}).key


@pytest.mark.parametrize("key", ["", " ", "k" * 201, "a\nb", "\ud800"])
def test_a_key_that_cannot_be_stored_is_refused(key: str) -> None:
    """With the field as the caller spells it."""
    with pytest.raises(InvalidInput) as caught:
        Ask.of("alice", key, {})
    assert caught.value.field == "idempotencyKey"


KEPT = {
    "outcome": "applied",
    "system": {
        "workersPaused": True,
        "mode": "drain",
        "reason": "deploy",
        "version": 2,
        "epoch": 1,
        "requestedByUserId": "alice",
        "requestedAt": "2026-01-31T09:30:00.000000Z",
        "updatedAt": "2026-01-31T09:30:00.000000Z",
        "holds": [
            {
                "id": "6a6f0f9e-3b5b-4c7e-9d8f-0a1b2c3d4e5f",
                "scope": "global",
                "cause": "manual",
                "source": "",
                "mode": "drain",
                "reason": "deploy",
                "actor": "alice",
                "createdAt": "2026-01-31T09:30:00.000000Z",
                "expiresAt": None,
                "deadline": None,
                "then": None,
                "escalatedAt": None,
                "ramp": None,
                "releasedAt": None,
                "releasedBy": None,
                "releasedReason": None,
            }
        ],
    },
    "audit": {
        "latest": [
            {
                "id": 2,
                "action": "pause",
                "mode": "drain",
                "reason": "deploy",
                "actorUserId": "alice",
                "createdAt": "2026-01-31T09:30:00.000000Z",
            }
        ]
    },
    "remaining": [],
}
"""What a control plane of 0.1 kept of a pause."""


def test_what_another_version_kept_under_a_key_is_read_and_kept_alike() -> None:
    """Replicas of two versions answer one client during an upgrade."""
    effect = Effect.from_wire(KEPT, namespace="n", at=NOW)
    assert (effect.after.edition, effect.latest[0].actor, effect.after.updated_at) == ((1, 2), "alice", NOW)
    assert effect.to_wire() == KEPT


def test_what_was_kept_before_holds_had_ramps_is_read() -> None:
    system = KEPT["system"]
    assert isinstance(system, dict)
    older = {name: value for name, value in system["holds"][0].items() if name not in ("escalatedAt", "ramp")}
    assert Effect.from_wire(KEPT | {"system": system | {"holds": [older]}}, namespace="n", at=NOW).to_wire() == KEPT


def test_an_order_survives_being_asked_for() -> None:
    """What the command line sends is what it checked."""
    for request in (
        PauseRequest(action="pause", mode="drain", reason="x", scope="host:a", deadline_in_s=60, then="requeue"),
        PauseRequest(action="pause", mode="quiesce", reason="x", expires_at="2030-01-01T01:00:00+01:00"),
        PauseRequest(action="resume", reason="x", ramp="10%/s", force_resume=True),
    ):
        order = order_of(request)
        assert order_of(request_of(order)) == order


def test_the_system_block_speaks_of_the_manual_hold_and_lists_all() -> None:
    """R-A6: with several holds, `mode` is the effective one and the manual fields the manual hold's."""
    body = system(hold(Cause.MANUAL), hold(Cause.BUDGET, Mode.QUIESCE))
    assert (body["workersPaused"], body["mode"], body["reason"]) == (True, "quiesce", "manual")
    assert {one["cause"] for one in body["holds"]} == {"manual", "budget"}
    others = system(hold(Cause.BUDGET))
    assert (others["workersPaused"], others["requestedByUserId"], others["requestedAt"]) == (True, None, None)


def test_a_scoped_hold_does_not_pause_the_whole_fleet() -> None:
    """`workersPaused` is about `global`; the hold is listed all the same."""
    body = system(hold(Cause.MANUAL, scope=Scope.parse("queue:emails")))
    assert (body["workersPaused"], body["mode"], body["reason"], len(body["holds"])) == (False, "run", None, 1)


def test_a_rate_limit_lets_a_burst_through_and_refills() -> None:
    """Each client has a bucket of its own."""
    now = [0.0]
    limit = RateLimit(burst=2, per_minute=60, clock=lambda: now[0])
    assert [limit.take("a"), limit.take("a"), limit.take("a"), limit.take("b")] == [True, True, False, True]
    now[0] += 1
    assert [limit.take("a"), limit.take("a")] == [True, False]


def test_each_right_includes_the_ones_below_it() -> None:
    """Ordered, so that a comparison decides."""
    assert [right.word for right in sorted(Right)] == ["viewer", "operator", "admin"]


@pytest.mark.parametrize(
    ("url", "word"),
    [("redis://h/0", "socket_timeout"), ("amqp://h//", "read_timeout"), ("pyamqp://h//", "read_timeout")],
)
def test_a_broker_that_hangs_is_given_up_soon(url: str, word: str) -> None:
    """Each transport spells its timeouts in its own words."""
    assert transport_options(url)[word] <= 1
    assert transport_options("sqs://") == {}
