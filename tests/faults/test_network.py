"""The cable between the workers and Valkey is cut without a word, in both directions or in one, or loses packets.

The workers are in a network namespace, and the packets are dropped there (iptables): no connection is closed and
nothing fails, as when a switch dies.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import pytest
import redis

from sluicegate.control.embedded.ports import LOOPBACK
from sluicegate.control.process.stack import BROKER_DATABASE, Stack
from sluicegate.schemas.settings import BROKER_URL, REDIS_URL
from tests.faults import network
from tests.faults.account import is_drained, seen
from tests.faults.conftest import need
from tests.faults.network import Direction, Network
from tests.fleet import app as fleet_app
from tests.fleet.harness import Fleet
from tests.fleet.waiting import until
from tests.marks import long

LEASE_S = 10
PATIENCE_S = 60
"""TCP waits twice as long after each packet that it lost; 3 of some 80 pauses and resumes took more than 30 s."""
BOTH: tuple[Direction, ...] = ("to workers", "from workers")


@pytest.fixture(scope="session")
def may_cut() -> None:
    """What is not installed fails in CI; what the machine does not allow is skipped everywhere, with its reason."""
    need(network.missing())
    if (why := network.forbidden()) is not None:
        pytest.skip(why)


@pytest.fixture
def cable(may_cut: None) -> Iterator[Network]:
    with Network() as made:
        yield made


@pytest.fixture
def reachable(stack: Stack, cable: Network) -> Iterator[str]:
    """Valkey's address at our end of the cable, where it listens as long as the test lasts."""
    with redis.Redis.from_url(stack.valkey.url) as admin:
        admin.config_set("protected-mode", "no")
        admin.config_set("bind", f"{LOOPBACK} {cable.host}")
        yield f"redis://{cable.host}:{urlsplit(stack.valkey.url).port}"
        admin.config_set("bind", LOOPBACK)
        admin.config_set("protected-mode", "yes")


@contextmanager
def _fleet_at_the_end(stack: Stack, cable: Network, address: str) -> Iterator[Fleet]:
    """A worker at the other end that works, with work left."""
    state, broker = f"{address}/0", f"{address}/{BROKER_DATABASE}"
    environ = {REDIS_URL.name: state, BROKER_URL.name: broker, fleet_app.BROKER: broker}
    with Fleet(stack) as fleet:
        fleet.watch()
        fleet.start(environ=environ, prefix=cable.prefix)
        fleet.wait_open()
        fleet.send_naps(60, 0.05)
        fleet.wait_started(5)
        yield fleet


def _says(fleet: Fleet, text: str) -> None:
    until(f"it says: {text}", lambda: text in fleet.workers["w1"].process.output)


@pytest.mark.parametrize("directions", [BOTH, long(("to workers",)), long(("from workers",))], ids=" and ".join)
def test_s1_s5_s6_s9_l2_l4_a_paused_worker_is_cut_off(
    stack: Stack, cable: Network, reachable: str, directions: tuple[Direction, ...]
) -> None:
    """S9: a resume that cannot reach it does not open it. L4: nor is it counted as quiet once its lease has run out.

    L2: when the cable is whole again it has the order within a poll, and S5, S6: nothing was lost or run twice.
    """
    with _fleet_at_the_end(stack, cable, reachable) as fleet:
        fleet.pause()
        fleet.wait_drained()
        cable.drop(*directions)
        _says(fleet, "the state cannot be read")
        fleet.resume()
        fleet.stays_still(for_s=2.0)
        if directions == BOTH:
            until(
                "it is unknown",
                lambda: [worker.state for worker in seen(fleet)] == ["unknown"],
                within_s=LEASE_S + 5,
                every_s=0.1,
            )
            assert not is_drained(fleet)
            fleet.stays_still(for_s=0.5)
        cable.heal()
        fleet.wait_open(within_s=10)
        fleet.wait_done()
        verdict = fleet.check()
    assert verdict.broken == {}


def test_s2_s5_s6_s9_l2_a_running_worker_is_cut_off_and_paused_meanwhile(
    stack: Stack, cable: Network, reachable: str
) -> None:
    """S9: it goes on with what it has, and nobody says that it is paused before it is."""
    with _fleet_at_the_end(stack, cable, reachable) as fleet:
        cable.drop(*BOTH)
        _says(fleet, "the state cannot be read")
        call = fleet.pause()
        assert not is_drained(fleet)
        assert fleet.words()[0].edition < call.edition
        cable.heal()
        fleet.wait_acknowledged(within_s=10)
        fleet.wait_drained()
        fleet.stays_still(for_s=0.5)
        fleet.resume()
        fleet.wait_done()
        verdict = fleet.check()
    assert verdict.broken == {}


@pytest.mark.long
@pytest.mark.timeout(300)
def test_s1_s5_s6_l1_l3_three_packets_of_ten_are_lost(stack: Stack, cable: Network, reachable: str) -> None:
    """L1: what is lost is sent again, by TCP or by the next poll; a pause takes seconds, and the rest holds as ever."""
    with _fleet_at_the_end(stack, cable, reachable) as fleet:
        cable.drop(*BOTH, share=0.3)
        for _ in range(2):
            fleet.pause()
            fleet.wait_acknowledged(within_s=PATIENCE_S)
            fleet.wait_drained(back_within_s=PATIENCE_S)
            fleet.stays_still(for_s=0.5)
            fleet.wait_more_starts_after(fleet.resume, within_s=PATIENCE_S)
            # Where its word of the resume was never heard, what starts now would be held against the pause before.
            fleet.wait_open(within_s=PATIENCE_S)
        cable.heal()
        # A connection that has lost one packet several times tries again after most of a minute.
        fleet.wait_done(within_s=2 * PATIENCE_S)
        verdict = fleet.check()
    assert verdict.broken == {}
