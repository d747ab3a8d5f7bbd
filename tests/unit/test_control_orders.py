"""Orders, limits and bodies of the control plane: what they decide without any server."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluicegate.control.access.limits import RateLimit
from sluicegate.control.access.tokens import Right
from sluicegate.control.holds.namespaces import Truth
from sluicegate.control.links.broker import transport_options
from sluicegate.control.pausing import bodies
from sluicegate.control.pausing.idempotency import Ask
from sluicegate.schemas.api.bodies import PauseRequest
from sluicegate.schemas.api.orders import Order, order_of
from sluicegate.schemas.errors import InvalidInput
from sluicegate.schemas.holds.hold import Cause, Hold, Holds
from sluicegate.schemas.modes import Mode
from sluicegate.schemas.scopes import GLOBAL, Scope

NOW = datetime(2026, 1, 31, 9, 30, tzinfo=UTC)


def hold(cause: Cause, mode: Mode = Mode.DRAIN, scope: Scope = GLOBAL) -> Hold:
    return Hold(id=uuid4(), scope=scope, mode=mode, reason=f"{cause}", actor="a", created_at=NOW, cause=cause)


def truth(*active: Hold) -> Truth:
    return Truth(namespace="n", epoch=1, holds=Holds(version=3, active=frozenset(active)), updated_at=NOW, now=NOW)


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


def test_the_system_block_speaks_of_the_manual_hold_and_lists_all() -> None:
    """R-A6: with several holds, `mode` is the effective one and the manual fields the manual hold's."""
    body = bodies.system(truth(hold(Cause.MANUAL), hold(Cause.BUDGET, Mode.QUIESCE)))
    assert (body["workersPaused"], body["mode"], body["reason"]) == (True, "quiesce", "manual")
    assert {one["cause"] for one in body["holds"]} == {"manual", "budget"}
    others = bodies.system(truth(hold(Cause.BUDGET)))
    assert (others["workersPaused"], others["requestedByUserId"], others["requestedAt"]) == (True, None, None)


def test_a_scoped_hold_does_not_pause_the_whole_fleet() -> None:
    """`workersPaused` is about `global`; the hold is listed all the same."""
    body = bodies.system(truth(hold(Cause.MANUAL, scope=Scope.parse("queue:emails"))))
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
