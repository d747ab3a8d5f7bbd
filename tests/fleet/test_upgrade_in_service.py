"""Control plane and database are upgraded under a fleet (docs/upgrades.md): no order refused, nothing missed."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from sluicegate.control.audit import verification
from sluicegate.control.embedded.ports import LOOPBACK, free_port
from sluicegate.control.embedded.process import ServerProcess
from sluicegate.control.process.stack import CONTROL_ROLE, Stack
from sluicegate.control.store import grants, migrate
from sluicegate.schemas import settings
from tests import next_version
from tests.fleet import revision_0005
from tests.fleet.checker import Call
from tests.fleet.harness import ROOT, Feeder, Fleet
from tests.fleet.records import microseconds
from tests.fleet.revision_0005 import OldControlPlane
from tests.fleet.under_load import Orders, Recording
from tests.fleet.waiting import until
from tests.next_version import NextVersion

INTERVAL_S = int(settings.REPUBLISH_INTERVAL_MS.default or 0) / 1000
MISSED_S = 3 * INTERVAL_S
"""A gap of so long is a missed publication: a follower then takes its Redis for one that nobody writes to."""

BEFORE_NONCES = {"SLUICEGATE_BOOT_POLICY": "advancing"}
"""A control plane of then answers no worker that starts: docs/decisions/0037-boot-nonce.md."""


@dataclass
class Replica:
    """A second control plane on the stack's database and Redis, at an address of its own."""

    stack: Stack
    port: int
    process: ServerProcess | None = None

    @property
    def url(self) -> str:
        return f"http://{LOOPBACK}:{self.port}"

    def start(self, environ: Mapping[str, str]) -> None:
        """Starts it with `environ` beside the stack's settings, and returns when it is ready."""
        own = {**environ, **self.stack.control_environ, settings.BIND.name: f"{LOOPBACK}:{self.port}"}
        command = [sys.executable, "-P", "-m", "sluicegate.control.cli", "serve"]
        self.process = ServerProcess(command, self.stack.state_dir / "replica.log", signal.SIGKILL, environ=own)
        self.process.wait_until(lambda: is_ready(self.url), 40)

    def stop(self, signum: signal.Signals = signal.SIGTERM) -> None:
        if self.process is not None:
            self.process.stop(signum)


def is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz", timeout=2, trust_env=False).is_success
    except httpx.HTTPError:
        time.sleep(0.02)
        return False


@pytest.fixture
def own_stack(tmp_path: Path) -> Iterator[Stack]:
    """A stack that no other test gets: its database is brought to other revisions."""
    with Stack(tmp_path / "stack", durable=False) as stack:
        yield stack


@contextmanager
def replica_of(stack: Stack) -> Iterator[Replica]:
    replica = Replica(stack, free_port())
    replica.start({"PYTHONPATH": str(ROOT / "src")})
    try:
        yield replica
    finally:
        replica.stop(signal.SIGKILL)


def verify_chain(stack: Stack) -> None:
    """Raises AuditBroken."""
    verification.verify(stack.postgres.url, None, lambda done, total: None)


@pytest.mark.timeout(300)
def test_l2_two_replicas_are_upgraded_one_after_the_other_under_load(
    own_stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """L2, S1, S9: orders go on through either replica, every publication follows the one before within its time.

    The next revision is applied under both; the first replica is replaced while the fleet runs, the second while it
    is paused. No worker closes or opens meanwhile but for the order that was given to it.
    """
    stack = own_stack
    expand = next_version.make(tmp_path, usable_from=migrate.head())
    token = stack.environ[settings.TOKEN.name]
    with replica_of(stack) as other, Fleet(stack) as fleet:
        fleet.watch()
        for name in ("w1", "w2"):
            fleet.start(name, wait=False)
        fleet.wait_ready()
        fleet.wait_open()
        with (
            fed(fleet),
            Recording(stack, fleet) as recording,
            Orders([stack.url, other.url], token, "queue:elsewhere") as orders,
        ):
            until("orders are taken", lambda: len(orders.answers) > 4)
            recording.states()
            upgrade_database(stack, expand)
            fleet.wait_more_starts_after(lambda: until_more(orders, 4))
            stack.stop_control()
            monkeypatch.setenv("PYTHONPATH", str(expand.path))
            stack.start_control()
            until_more(orders, 4)
            assert recording.states() == {"running"}
            fleet.pause()
            fleet.wait_drained()
            before = fleet.count_starts()
            recording.states()
            other.stop()
            other.start(expand.environ)
            until_more(orders, 4)
            assert (recording.states(), fleet.count_starts()) == ({"paused"}, before)
            fleet.resume()
            fleet.wait_open()
            fleet.wait_more_starts_after(lambda: until_more(orders, 2))
            seen = recording.publication
            until("it goes on", lambda: recording.publication > seen + 2)
        assert orders.refused == []
        assert {answer.url for answer in orders.answers} == {stack.url, other.url}
        assert recording.longest_gap_s < MISSED_S
        fleet.wait_done()
        verdict = fleet.check()
    assert verdict.broken == {}
    verify_chain(stack)


def fed(fleet: Fleet) -> Feeder:
    """There is always something that could start."""

    def send(count: int) -> None:
        fleet.send_naps(count, 0.1)

    return Feeder(fleet, 20, send)


def until_more(orders: Orders, count: int) -> None:
    """Returns once `count` more orders were given."""
    wanted = len(orders.answers) + count
    until("orders go on", lambda: len(orders.answers) >= wanted, within_s=30)


def upgrade_database(stack: Stack, version: NextVersion) -> None:
    """As docs/upgrades.md has it: `db upgrade` and `db grant` of the new version, as the owner."""
    owner = {settings.DATABASE_URL.name: stack.postgres.url}
    for arguments in (("db", "upgrade"), ("db", "grant", CONTROL_ROLE)):
        run = version.run(*arguments, environ=owner)
        assert run.returncode == 0, run.stderr
    assert migrate.current(stack.postgres.url).number == next_version.REVISION


def upgrade_from_0005(stack: Stack) -> None:
    """As docs/upgrades.md has it: the control plane is down for this one upgrade."""
    migrate.upgrade(stack.postgres.url)
    grants.grant(stack.postgres.url, CONTROL_ROLE)
    stack.start_control()


@pytest.mark.timeout(200)
def test_s1_s9_a_database_of_revision_0005_is_upgraded_under_a_paused_fleet(own_stack: Stack) -> None:
    """The pause of before stands, what it drained is put on record by the new code, and the chain is whole."""
    stack = own_stack
    stack.stop_control()
    revision_0005.make_database(stack, held=True)
    with Fleet(stack, environ=BEFORE_NONCES) as fleet:
        fleet.watch()
        fleet.calls.append(Call(at_us=microseconds(time.time()), edition=(1, 2), is_paused=True))
        fleet.send_naps(20, 0.02)
        with OldControlPlane(stack):
            fleet.start()
            fleet.wait_acknowledged()
        with Recording(stack, fleet) as recording:
            until("it is recorded", lambda: recording.states() == {"paused"})
            seen = recording.publication
            upgrade_from_0005(stack)
            until("it is published again", lambda: recording.publication > seen + 2)
            until("the drain is on record", lambda: drains_completed(fleet) == [2])
            assert recording.states() == {"paused"}
            assert fleet.count_starts() == 0
        fleet.resume()
        fleet.wait_done()
        verdict = fleet.check()
    assert verdict.broken == {}
    verify_chain(stack)


def drains_completed(fleet: Fleet) -> list[object]:
    """The versions of holds whose drains are on record."""
    events = fleet.client.audit({"limit": 20}).body.events
    return [event.details["holdVersion"] for event in events if event.action == "drain_completed"]


@pytest.mark.timeout(200)
def test_s9_a_database_of_revision_0005_is_upgraded_under_a_running_fleet(own_stack: Stack) -> None:
    """Nobody closes for want of a control plane, and afterwards orders are obeyed as before."""
    stack = own_stack
    stack.stop_control()
    revision_0005.make_database(stack, held=False)
    with Fleet(stack, environ=BEFORE_NONCES) as fleet:
        fleet.watch()
        with OldControlPlane(stack):
            fleet.start()
            fleet.wait_open()
        with fed(fleet):
            with Recording(stack, fleet) as recording:
                until("it is recorded", lambda: recording.states() == {"running"})
                seen = recording.publication
                fleet.wait_more_starts_after(lambda: upgrade_from_0005(stack))
                until("it is published again", lambda: recording.publication > seen + 2)
                assert recording.states() == {"running"}
            fleet.pause()
            fleet.wait_drained()
            fleet.stays_still(for_s=0.5)
            fleet.resume()
            fleet.wait_more_starts_after(fleet.wait_open)
        fleet.wait_done()
        verdict = fleet.check()
    assert verdict.broken == {}
    verify_chain(stack)
