"""Old, forged and spoofed messages: nothing that anyone can write to Valkey resumes a paused fleet."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import redis
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from sluicegate.control.process.stack import Stack
from sluicegate.schemas.holds.hold import Holds
from sluicegate.schemas.names import hint_channel, snapshot_key
from sluicegate.schemas.public_keys import kid_of
from sluicegate.schemas.settings import NAMESPACE, REDIS_URL
from sluicegate.schemas.snapshots import MAX_EPOCH, MAX_VERSION, Snapshot, seal
from sluicegate.schemas.times import from_wire
from tests.fleet.harness import Fleet
from tests.fleet.waiting import until
from tests.marks import long


class StrangersKey:
    """A key that no worker trusts, under any name it likes."""

    def __init__(self, kid: str | None = None) -> None:
        self._key = Ed25519PrivateKey.generate()
        raw = self._key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        self.kid = kid or kid_of(raw)

    def sign(self, payload: bytes) -> bytes:
        return self._key.sign(payload)


class State:
    """The place in Valkey where workers look."""

    def __init__(self, stack: Stack) -> None:
        self.namespace = stack.environ[NAMESPACE.name]
        self.client = redis.Redis.from_url(stack.environ[REDIS_URL.name])

    def read(self) -> bytes:
        return bytes(self.client.execute_command("GET", snapshot_key(self.namespace)))

    def put(self, envelope: bytes) -> None:
        """Write it, and tell everybody to look."""
        self.client.set(snapshot_key(self.namespace), envelope)
        self.client.publish(hint_channel(self.namespace), b"look")


@pytest.fixture
def state(stack: Stack) -> Iterator[State]:
    place = State(stack)
    yield place
    place.client.close()


@contextmanager
def paused(stack: Stack) -> Iterator[Fleet]:
    """A fleet that is paused with work left; afterwards it is resumed, and must have kept every promise."""
    with Fleet(stack) as fleet:
        fleet.watch()
        fleet.start()
        fleet.wait_open()
        fleet.send_naps(40, 0.02)
        fleet.wait_started(5)
        fleet.pause()
        fleet.wait_drained()
        yield fleet
        fleet.resume()
        fleet.wait_done()
        assert fleet.check().broken == {}


def _stays_shut(fleet: Fleet, for_s: float = 1.5) -> None:
    fleet.stays_still(for_s=for_s)
    (word,) = fleet.words("w1")
    assert word.state == "paused"


def test_s2_an_old_running_state_put_back_opens_nothing(stack: Stack, state: State) -> None:
    """S2: validly signed, and older than what was applied: refused, counted, and overwritten by the truth."""
    old = state.read()
    with paused(stack) as fleet:
        stack.kill_control()
        state.put(old)
        until("it was refused", lambda: fleet.words()[0].refused.get("stale_snapshot"), within_s=10)
        _stays_shut(fleet)
        fleet.workers["w1"].kill()
        fleet.restart()
        fleet.stays_still(for_s=2.0)
        stack.start_control()
        until("the truth is back", lambda: state.read() != old)
        fleet.wait_acknowledged()


@pytest.mark.parametrize("disguise", [long("its own name"), "the trusted key's name"])
def test_s3_a_state_signed_by_a_stranger_opens_nothing(stack: Stack, state: State, disguise: str) -> None:
    """S3: whatever version it claims. The control plane overwrites it, so that it blocks no later order either."""
    with paused(stack) as fleet:
        kid = None if disguise == "its own name" else _kid_in(state.read())
        forged = Snapshot(
            namespace=state.namespace,
            epoch=MAX_EPOCH,
            holds=Holds(version=MAX_VERSION),
            publication=1 << 60,
            issued_at=from_wire("2030-01-01T00:00:00Z", "issuedAt"),
        )
        envelope = seal(forged, StrangersKey(kid))
        began = time.monotonic()
        while time.monotonic() - began < 2.0:
            state.put(envelope)
            assert fleet.words()[0].state == "paused"
            time.sleep(0.05)
        until("it was refused", lambda: fleet.words()[0].refused.get("bad_signature"))
        _stays_shut(fleet, for_s=0.5)
        until("the truth is back", lambda: state.read() != envelope)


@pytest.mark.long
def test_s3_junk_in_the_place_of_the_state_opens_nothing(stack: Stack, state: State) -> None:
    with paused(stack) as fleet:
        for junk in (b"", b"{}", b"running", b"\xff" * 2000, b'{"v":1,"kid":1}'):
            state.put(junk)
            until("the truth is back", lambda junk=junk: state.read() != junk)  # type: ignore[misc]
            assert fleet.words("w1")[0].state == "paused"
        state.client.delete(snapshot_key(state.namespace))
        state.client.lpush(snapshot_key(state.namespace), "not even a string")
        until("the truth is back", lambda: state.client.type(snapshot_key(state.namespace)) == b"string")
        _stays_shut(fleet, for_s=0.5)


def test_s3_spoofed_hints_open_nothing(stack: Stack, state: State) -> None:
    """S3: the push channel only ever means "read again", whatever stands in it."""
    with paused(stack) as fleet:
        for message in (b"resume", b'{"mode":"run","version":999999}', state.read(), b"\x00" * 100):
            for _ in range(20):
                state.client.publish(hint_channel(state.namespace), message)
        _stays_shut(fleet)


def test_s1_s3_spoofed_control_broadcasts_open_nothing(stack: Stack) -> None:
    """Whoever may publish on the broker may run Celery's control commands: none of them makes it consume."""
    with paused(stack) as fleet:
        control = fleet.sender.control
        control.broadcast("sluicegate_hint", arguments={"mode": "run", "version": 999_999, "action": "resume"})
        control.broadcast("add_consumer", arguments={"queue": fleet.queue})
        control.broadcast("pool_grow", arguments={"n": 1})
        control.broadcast("rate_limit", arguments={"task_name": "fleet.nap", "rate_limit": 0})
        until("it answers", fleet.ping)
        _stays_shut(fleet)
        control.broadcast("pool_shrink", arguments={"n": 1})
        until("it answers", fleet.ping)


def _kid_in(envelope: bytes) -> str:
    import json

    return str(json.loads(envelope)["kid"])
