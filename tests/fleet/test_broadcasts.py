"""Broadcasts (`kombu.common.Broadcast`): each worker has its own copy, and what a pause does with it."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from kombu import Exchange

from sluicegate.control.process.stack import Stack
from tests.fleet import app as fleet_app
from tests.fleet.harness import Fleet
from tests.fleet.rabbit import Rabbit
from tests.fleet.waiting import stays, until

QUIET = ("--without-mingle", "--without-gossip")
ALL = f"all-{os.getpid()}"
HOLD = "task:fleet.nap"


@pytest.fixture(params=["redis", "rabbitmq"])
def fleet(request: pytest.FixtureRequest, stack: Stack) -> Iterator[Fleet]:
    """Two workers that hear broadcasts, open."""
    rabbit: Rabbit | None = request.getfixturevalue("rabbit") if request.param == "rabbitmq" else None
    with Fleet(stack, environ={fleet_app.BROADCAST: ALL}, rabbit=rabbit) as made:
        made.watch()
        for name in ("w1", "w2"):
            start(made, name)
        made.wait_open()
        yield made


def start(fleet: Fleet, name: str) -> None:
    fleet.start(name, slots=1, arguments=(*QUIET, "-Q", f"{fleet.queue},{ALL}"))


def broadcast(fleet: Fleet, number: int) -> None:
    """A nap for everybody; the checker knows nothing of it."""
    # Celery gives its queue the default routing key, and by that Redis tells who listens.
    exchange = Exchange(ALL, type="fanout")
    fleet.sender.send_task("fleet.nap", args=(number, 0.01), queue=ALL, declare=[exchange])


def started(fleet: Fleet) -> dict[int, list[str]]:
    """Which workers have started each number."""
    found: dict[int, list[str]] = {}
    for record in fleet.read_records():
        if record.event == "start":
            found.setdefault(record.seq, []).append(record.nodename)
    return {seq: sorted(nodenames) for seq, nodenames in found.items()}


def everybody_starts(fleet: Fleet, *numbers: int) -> None:
    names = sorted(worker.nodename for worker in fleet.workers.values())
    wanted = dict.fromkeys(numbers, names)
    until(f"every worker has started {numbers}, once", lambda: started(fleet) == wanted)


def test_s1_s5_l3_broadcasts_sent_in_a_pause_start_at_the_resume_and_later_ones_are_heard(fleet: Fleet) -> None:
    """On Redis the workers were deaf to all that came after a pause, and what was sent in it was gone."""
    broadcast(fleet, 1)
    everybody_starts(fleet, 1)
    for pause in (1, 2):
        fleet.pause()
        fleet.wait_acknowledged()
        broadcast(fleet, 10 * pause)
        broadcast(fleet, 10 * pause + 1)
        stays("none of them starts", lambda: max(started(fleet)) < 10 * pause, for_s=0.5)  # noqa: B023
        fleet.resume()
        fleet.wait_open()
        broadcast(fleet, 10 * pause + 2)
        everybody_starts(fleet, 1, *(10 * p + n for p in range(1, pause + 1) for n in range(3)))
    in_order = [record.seq for record in fleet.read_records() if record.event == "start"]
    assert all(in_order.index(10 * p) < in_order.index(10 * p + 1) for p in (1, 2))
    if fleet.rabbit_queue is None:
        log = fleet.workers["w1"].process.output
        assert log.count("a broadcast came on") == 2, "said once in each pause"


def test_s1_s5_l3_a_broadcast_whose_task_is_held_starts_at_the_release(fleet: Fleet) -> None:
    """On Redis it was dropped."""
    fleet.client.pause(mode="drain", reason="test", scope=HOLD)
    until("both obey", lambda: all("held at version" in w.process.output for w in fleet.workers.values()))
    broadcast(fleet, 1)
    own = fleet.send("told", str(fleet.directory))
    until("what is not held goes on", lambda: own in fleet.ended())
    assert 1 not in started(fleet)
    fleet.client.resume(reason="test", scope=HOLD, force=True)
    until("every worker starts it", lambda: len(started(fleet).get(1, ())) == 2)
    broadcast(fleet, 2)
    until("they hear the next one", lambda: len(started(fleet).get(2, ())) == 2)
    assert len(started(fleet)[1]) == 2


@pytest.mark.long
@pytest.mark.parametrize("pool", ["threads", "gevent", "solo"])
def test_broadcasts_over_a_pause_on_every_pool(stack: Stack, pool: str) -> None:
    with Fleet(stack, environ={fleet_app.BROADCAST: ALL}, pool=pool) as fleet:
        fleet.watch()
        start(fleet, "w1")
        fleet.wait_open()
        broadcast(fleet, 1)
        everybody_starts(fleet, 1)
        fleet.pause()
        fleet.wait_acknowledged()
        broadcast(fleet, 2)
        stays("it does not start", lambda: 2 not in started(fleet), for_s=0.5)
        fleet.resume()
        fleet.wait_open()
        broadcast(fleet, 3)
        everybody_starts(fleet, 1, 2, 3)


def test_a_worker_that_is_started_in_a_pause_hears_what_is_sent_in_it(stack: Stack) -> None:
    with Fleet(stack, environ={fleet_app.BROADCAST: ALL}) as fleet:
        fleet.watch()
        fleet.pause()
        start(fleet, "w1")
        fleet.wait_acknowledged()
        broadcast(fleet, 1)
        stays("it does not start", lambda: not started(fleet), for_s=0.5)
        fleet.resume()
        everybody_starts(fleet, 1)
