"""A slow network between the workers and Valkey, which carries both the state and the tasks."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import pytest

from sluicegate.control.embedded.ports import LOOPBACK
from sluicegate.control.process.stack import BROKER_DATABASE, Stack
from sluicegate.schemas.settings import BROKER_URL, REDIS_URL
from tests.faults.proxy import DelayingProxy
from tests.fleet import app as fleet_app
from tests.fleet.harness import Fleet
from tests.fleet.waiting import until

APPLIED_WITHIN_S = 10.0
"""One poll with its jitter, a read, a hand-back and a heartbeat at 200 ms a round trip, on a machine that is busy."""


@pytest.fixture
def proxy(stack: Stack) -> Iterator[DelayingProxy]:
    with DelayingProxy(urlsplit(stack.valkey.url).port or 0) as made:
        yield made


def _through(proxy: DelayingProxy) -> dict[str, str]:
    state, broker = (f"redis://{LOOPBACK}:{proxy.port}/{number}" for number in (0, BROKER_DATABASE))
    return {REDIS_URL.name: state, BROKER_URL.name: broker, fleet_app.BROKER: broker}


@contextmanager
def _fleet_behind(proxy: DelayingProxy, stack: Stack, count: int) -> Iterator[Fleet]:
    """A worker that works, with everything that it says and hears going through the proxy."""
    with Fleet(stack) as fleet:
        fleet.watch()
        fleet.start(environ=_through(proxy))
        fleet.wait_open()
        fleet.send_naps(count, 0.05)
        fleet.wait_started(4)
        yield fleet


@pytest.mark.parametrize("delay_s", [0.0, 0.05])
def test_the_proxy_delays_what_it_hands_on_and_changes_nothing(stack: Stack, delay_s: float) -> None:
    """A fault that is not there would let every test pass."""
    with (
        DelayingProxy(urlsplit(stack.valkey.url).port or 0) as proxy,
        socket.create_connection((LOOPBACK, proxy.port), timeout=5) as line,
    ):
        proxy.delay_s = delay_s
        began = time.monotonic()
        line.sendall(b"PING\r\nECHO " + b"x" * 100_000 + b"\r\n")
        wanted = b"+PONG\r\n$100000\r\n" + b"x" * 100_000 + b"\r\n"
        got = b""
        while len(got) < len(wanted) and (data := line.recv(65_536)):
            got += data
        assert got == wanted
        assert time.monotonic() - began >= 2 * delay_s


@pytest.mark.long
def test_s1_s5_s6_l1_l3_everything_is_100_ms_late(stack: Stack, proxy: DelayingProxy) -> None:
    """L1: a pause is a hint, a read and a heartbeat away, each of which is late. The rest holds as ever."""
    with _fleet_behind(proxy, stack, 24) as fleet:
        proxy.delay_s = 0.1
        fleet.pause()
        fleet.wait_acknowledged(within_s=APPLIED_WITHIN_S)
        fleet.wait_drained()
        fleet.stays_still(for_s=0.5)
        assert len(fleet.started()) < 24
        fleet.resume()
        fleet.wait_done()
        verdict = fleet.check()
    assert verdict.broken == {}


def test_s1_s5_s6_s9_l2_answers_that_come_after_every_timeout(stack: Stack, proxy: DelayingProxy) -> None:
    """S9: to a follower that waits a second, an answer after 1.6 s is silence, and silence opens nothing.

    L2: when the network is itself again, so is the fleet, within a poll.
    """
    with _fleet_behind(proxy, stack, 30) as fleet:
        fleet.pause()
        fleet.wait_drained()
        proxy.delay_s = 0.8
        until("it says so", lambda: "the state cannot be read" in fleet.workers["w1"].process.output)
        fleet.resume()
        fleet.stays_still(for_s=3.0)
        proxy.delay_s = 0.0
        fleet.wait_open(within_s=10)
        fleet.wait_done()
        verdict = fleet.check()
    assert verdict.broken == {}
