"""Holds that are not for everybody: they act on their scope, and on nothing else (R-B8, R-G1)."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from functools import partial

import pytest

from sluicegate.control.process.stack import Stack
from sluicegate.schemas.errors import InvalidInput
from sluicegate.schemas.settings import LABELS
from tests.fleet import broker
from tests.fleet.harness import Fleet
from tests.fleet.waiting import until
from tests.marks import long

QUIET = ("--without-mingle", "--without-gossip")


def hold(fleet: Fleet, scope: str, mode: str = "drain") -> list[str]:
    """Place a hold on `scope`; the warnings."""
    return fleet.client.pause(mode=mode, reason="test", scope=scope).body.warnings


def release(fleet: Fleet, scope: str) -> None:
    """Release it."""
    fleet.client.resume(reason="test", scope=scope, force=True)


def wait_applied(fleet: Fleet, *names: str) -> None:
    """Return once these workers say that the newest order is in force."""
    version = fleet.client.read().body.system.version
    until(
        f"version {version} is in force",
        lambda: (
            all(word.edition[1] >= version for word in fleet.words(*names))
            and len(fleet.words(*names)) == len(names or fleet.workers)
        ),
    )


def send(fleet: Fleet, numbers: Iterable[int], *, task: str = "nap", queue: str | None = None) -> None:
    for number in numbers:
        args = (number, 0.02) if task == "nap" else (number, 0, 0.0)
        fleet.sender.send_task(f"fleet.{task}", args=args, queue=queue or fleet.queue)


def started_at(fleet: Fleet, since_us: int) -> set[str]:
    """The workers on which something has started since."""
    return {r.nodename.partition("@")[0] for r in fleet.read_records() if r.event == "start" and r.at_us > since_us}


def is_drained(fleet: Fleet, scope: str) -> bool:
    return fleet.client.read(scope).body.metrics.is_drained


def go_on(fleet: Fleet, since_us: int, names: set[str]) -> bool:
    return started_at(fleet, since_us) >= names


def now_us() -> int:
    return int(time.time() * 1e6)


def test_s1_host_worker_and_label_holds_stop_those_and_no_others(stack: Stack) -> None:
    """S1 of a part of the fleet; a restarted worker under its own hold consumes nothing (R-B3)."""
    with Fleet(stack) as fleet:
        fleet.watch()
        fleet.start("w1", environ={"SLUICEGATE_HOST": "rack-1"}, wait=False)
        fleet.start("w2", environ={LABELS.name: "gpu=h100,rack=2"}, wait=False)
        fleet.start("w3", wait=False)
        fleet.wait_ready()
        fleet.wait_open()
        try:
            scopes = ["host:rack-1", f"worker:{fleet.workers['w3'].nodename}", "label:gpu=h100"]
            held: list[str] = []
            for scope, name in zip(scopes, ("w1", "w3", "w2"), strict=True):
                assert hold(fleet, scope) == []
                held.append(name)
                wait_applied(fleet)
                since = now_us()
                others = {"w1", "w2", "w3"} - set(held)
                send(fleet, range(30))
                if others:
                    until("the others go on", partial(go_on, fleet, since, others))
                else:
                    fleet.stays_still(for_s=0.3)
                assert not started_at(fleet, since) & set(held)
                until("it has drained", partial(is_drained, fleet, scope))
            fleet.workers["w3"].kill()
            fleet.restart("w3")
            wait_applied(fleet, "w3")
            fleet.stays_still(for_s=0.5)
            with pytest.raises(InvalidInput, match="wildcards"):
                fleet.client.pause(mode="drain", reason="r", scope="queue:a*")
            assert hold(fleet, "host:nobody") == ["no worker is in host:nobody now; one that comes will obey"]
            release(fleet, "host:nobody")
        finally:
            for scope in scopes:
                release(fleet, scope)
        until("all goes on", lambda: not fleet.contents().queued and not fleet.running())


def test_s1_s5_a_queue_hold_stops_that_queue_alone_on_a_worker_that_consumes_two(stack: Stack) -> None:
    """What was prefetched of it goes back in its order, and comes first after the release."""
    with Fleet(stack) as fleet:
        other = f"{fleet.queue}-b"
        fleet.watch()
        fleet.start(slots=1, arguments=(*QUIET, "-Q", f"{fleet.queue},{other}"))
        fleet.wait_open()
        send(fleet, range(40))
        send(fleet, range(100, 140), queue=other)
        fleet.wait_started(6)
        hold(fleet, f"queue:{other}")
        try:
            wait_applied(fleet)
            at = now_us()
            began = {r.seq for r in fleet.read_records() if r.event == "start"}
            until("the free queue runs dry", lambda: fleet.ended() >= set(range(40)))
            late = [r.seq for r in fleet.read_records() if r.event == "start" and r.at_us > at and r.seq >= 100]
            assert late == []
            rest = [n for n in range(100, 140) if n not in began]
            assert [m.seq for m in broker.read(fleet.redis, other).queued] == rest
            until("it has drained", lambda: fleet.client.read(f"queue:{other}").body.metrics.is_drained)
            assert not fleet.client.read().body.system.workers_paused
        finally:
            release(fleet, f"queue:{other}")
        until("all are done", lambda: len(fleet.ended()) == 80)
        assert fleet.count_starts() == 80
        order = [r.seq for r in fleet.read_records() if r.event == "start" and r.at_us > at and r.seq >= 100]
        assert order == rest


def order_of(fleet: Fleet, numbers: Sequence[int]) -> list[int]:
    return [r.seq for r in fleet.read_records() if r.event == "start" and r.seq in numbers]


@pytest.mark.parametrize("pool", ["prefork", long("threads")])
def test_s1_s5_a_task_hold_sets_that_task_aside_and_lets_the_rest_of_its_queue_run(stack: Stack, pool: str) -> None:
    """Set aside durably, in their order, and back at the head on release, also when the worker that did it is gone."""
    with Fleet(stack, pool=pool) as fleet:
        fleet.watch()
        fleet.start(slots=1)
        fleet.wait_open()
        for number in range(0, 120, 2):
            send(fleet, [number])
            send(fleet, [number + 1], task="stubborn")
        fleet.wait_started(4)
        hold(fleet, "task:fleet.stubborn")
        try:
            wait_applied(fleet)
            at = now_us()
            until("the other task is done", lambda: fleet.ended() >= set(range(0, 120, 2)))
            late = [r.seq for r in fleet.read_records() if r.event == "start" and r.at_us > at and r.seq % 2]
            assert late == []
            until("the queue is empty", lambda: not fleet.contents().queued and not fleet.contents().unacked)
            held = sorted({*range(1, 120, 2)} - fleet.started())
            assert len(held) >= 5
            fleet.workers["w1"].kill()
        finally:
            release(fleet, "task:fleet.stubborn")
        fleet.restart()
        until("all are done", lambda: fleet.ended() == set(range(120)))
        assert order_of(fleet, held) == held
        assert fleet.count_starts() == 120


def test_a_quiesced_task_waits_while_another_of_its_worker_goes_on(stack: Stack) -> None:
    """The children look the scope up: only the task that is meant stops at its checkpoint."""
    with Fleet(stack) as fleet:
        fleet.watch()
        fleet.start(slots=2)
        fleet.wait_open()
        waits = fleet.send("steps_wait", 20, 0.1)
        yields = fleet.send("steps_yield", 20, 0.1)
        until("both are under way", lambda: {done.seq for done in fleet.items()} == {waits, yields})
        hold(fleet, "task:fleet.steps_wait", mode="quiesce")
        try:
            wait_applied(fleet)
            # Of the queue, which is this test's own: other tests' dead workers might run a task of this name.
            until("it waits", lambda: fleet.client.read(f"queue:{fleet.queue}").body.metrics.waiting == 1)
            until("the other one ends", lambda: fleet.ended() == {yields})
            until("it is quiet", lambda: fleet.client.read(f"queue:{fleet.queue}").body.metrics.is_quiesced)
        finally:
            release(fleet, "task:fleet.steps_wait")
        until("both have ended", lambda: fleet.ended() == {waits, yields})
        assert len(fleet.items()) == 40


def test_overlapping_holds_release_each_its_own(stack: Stack) -> None:
    """R-G1: a scope is held while at least one matching hold is active."""
    with Fleet(stack) as fleet:
        fleet.watch()
        fleet.start()
        fleet.wait_open()
        hold(fleet, f"queue:{fleet.queue}")
        fleet.pause()
        fleet.wait_acknowledged()
        send(fleet, range(5))
        fleet.client.resume(reason="test", force=True)
        try:
            wait_applied(fleet)
            fleet.stays_still(for_s=0.5)
        finally:
            release(fleet, f"queue:{fleet.queue}")
        until("all are done", lambda: fleet.ended() == set(range(5)))
