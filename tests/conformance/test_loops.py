"""What every loop does: it calls `tend` on the consumer's own thread when somebody woke it, and entries in time."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from types import SimpleNamespace
from typing import Any, Protocol

import pytest
from kombu.asynchronous.hub import Hub

from sluicegate.workers.celery_inside.loops import DrainLoop, HubLoop
from sluicegate.workers.ports import Loop
from tests.fleet.waiting import until


class Rig(Protocol):
    """A loop on what it stands on in a worker."""

    loop: Loop

    def attach(self, tend: Callable[[], None]) -> None:
        """As for a new broker connection."""

    def turn(self) -> None:
        """Let the consumer's thread do what is due; returns soon."""

    def close(self) -> None: ...


class OnHub:
    """kombu's event loop, as prefork, threads and solo workers have it."""

    def __init__(self) -> None:
        self.hub: Any = Hub()
        self.loop: Loop = HubLoop(SimpleNamespace(hub=self.hub))
        # The hub polls for a second where nothing comes: here something always has.
        self._ready, other = socket.socketpair()
        other.close()

    def attach(self, tend: Callable[[], None]) -> None:
        self.loop.attach(SimpleNamespace(), tend)
        self.hub.reset()
        self.hub.add_reader(self._ready.fileno(), lambda: None)
        self.loop.register(self.hub)

    def turn(self) -> None:
        self.hub.run_once()

    def close(self) -> None:
        self.loop.close()
        self.hub.close()
        self._ready.close()


class OnDrains:
    """A connection on which nothing comes, as a gevent worker drains it."""

    def __init__(self) -> None:
        self.loop: Loop = DrainLoop()

    def attach(self, tend: Callable[[], None]) -> None:
        def drain_events(timeout: float) -> None:
            threading.Event().wait(timeout)
            raise TimeoutError

        self.connection: Any = SimpleNamespace(drain_events=drain_events)
        self.loop.attach(SimpleNamespace(connection=self.connection), tend)

    def turn(self) -> None:
        with suppress(TimeoutError):
            self.connection.drain_events(timeout=0.01)

    def close(self) -> None:
        self.loop.close()


@pytest.fixture(params=[OnHub, OnDrains])
def rig(request: pytest.FixtureRequest) -> Iterator[Rig]:
    made = request.param()
    yield made
    made.close()


def turning(rig: Rig, is_done: Callable[[], object]) -> Callable[[], object]:
    """Let the loop turn, and look."""

    def look() -> object:
        rig.turn()
        return is_done()

    return look


def attached(rig: Rig) -> list[int]:
    """Attach, and let pass what a new connection brings by itself; the threads on which `tend` is called from then."""
    calls: list[int] = []
    rig.attach(lambda: calls.append(threading.get_ident()))
    rig.turn()
    calls.clear()
    return calls


def test_whoever_wakes_it_tend_is_called_on_the_consumer_s_thread(rig: Rig) -> None:
    calls = attached(rig)
    other = threading.Thread(target=rig.loop.wake)
    other.start()
    other.join()
    rig.turn()
    assert calls == [threading.get_ident()]


def test_nothing_is_called_where_nobody_asked(rig: Rig) -> None:
    calls = attached(rig)
    rig.turn()
    assert calls == []


def test_many_wakes_at_once_are_one(rig: Rig) -> None:
    calls = attached(rig)
    for _ in range(1000):
        rig.loop.wake()
    rig.turn()
    rig.turn()
    assert len(calls) == 1


def test_a_wake_while_tend_runs_is_not_lost(rig: Rig) -> None:
    """Something was held after `tend` had looked for it."""
    calls: list[str] = []

    def tend() -> None:
        calls.append("tend")
        if len(calls) < 3:
            rig.loop.wake()

    rig.attach(tend)
    rig.loop.wake()
    for _ in range(4):
        rig.turn()
    assert len(calls) == 3


def test_a_wake_before_the_first_connection_is_not_lost(rig: Rig) -> None:
    """The follower may put a state into force before there is a consumer."""
    calls: list[str] = []
    rig.loop.wake()
    rig.attach(lambda: calls.append("tend"))
    rig.turn()
    assert calls == ["tend"]


def test_on_a_new_connection_its_own_tend_is_called_and_the_old_one_no_more(rig: Rig) -> None:
    old = attached(rig)
    new = attached(rig)
    rig.loop.wake()
    rig.turn()
    assert (len(old), len(new)) == (0, 1)


def test_an_entry_is_called_on_that_thread_once_and_not_before_its_time(rig: Rig) -> None:
    attached(rig)
    called: list[tuple[float, int]] = []
    asked_at = time.monotonic()
    rig.loop.call_later(0.03, lambda: called.append((time.monotonic(), threading.get_ident())))
    until("the entry is called", turning(rig, lambda: called), every_s=0)
    ((at, thread),) = called
    # kombu's timer looks a little ahead, by less than a clock's tick.
    assert at - asked_at > 0.029
    assert thread == threading.get_ident()
    for _ in range(3):
        rig.turn()
    assert len(called) == 1


def test_a_canceled_entry_is_not_called_and_the_next_one_is(rig: Rig) -> None:
    attached(rig)
    called: list[str] = []
    rig.loop.call_later(0.0, lambda: called.append("first")).cancel()
    rig.loop.call_later(0.0, lambda: called.append("second"))
    until("the second entry is called", turning(rig, lambda: called), every_s=0)
    assert called == ["second"]


def test_an_entry_may_ask_for_the_next_one(rig: Rig) -> None:
    """That is how the barrier is looked at."""
    attached(rig)
    called: list[int] = []

    def look() -> None:
        called.append(len(called))
        if len(called) < 3:
            rig.loop.call_later(0.001, look)

    rig.loop.call_later(0.001, look)
    until("all three are called", turning(rig, lambda: len(called) == 3), every_s=0)
