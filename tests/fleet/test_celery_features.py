"""What else a Celery worker can do, with a pause in the middle of it (R-B2)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest

from sluicegate.control.process.stack import Stack
from tests.fleet import app as fleet_app
from tests.fleet import broker
from tests.fleet.harness import Fleet
from tests.fleet.waiting import until
from tests.marks import long

QUIET = ("--without-mingle", "--without-gossip")


@pytest.mark.parametrize(
    ("arguments", "environ"),
    [
        long(("--autoscale=4,1",), {}),
        long(("--max-tasks-per-child=3",), {}),
        (("-O", "fair"), {}),
        ((), {fleet_app.PREFETCH: "0"}),
    ],
    ids=["autoscale", "max-tasks-per-child", "fair", "prefetch-0"],
)
def test_s1_s5_s6_however_its_pool_is_run_a_worker_drains_in_order(
    stack: Stack, arguments: Sequence[str], environ: dict[str, str]
) -> None:
    """S1, S5, S6. With prefetch 0 the worker has fetched the whole queue when the pause comes."""
    is_autoscaled = "--autoscale=4,1" in arguments
    naps = 960 if is_autoscaled else 160
    with Fleet(stack, environ=environ, prefetch=int(environ.get(fleet_app.PREFETCH, "4"))) as fleet:
        fleet.watch()
        fleet.start(slots=4 if is_autoscaled else 2, arguments=(*QUIET, *arguments))
        fleet.wait_open()
        fleet.send_naps(naps, 0.02)
        for pause in (1, 2):
            fleet.wait_started(30 * pause)
            fleet.pause()
            assert fleet.wait_drained().contents.queued
            fleet.resume()
        fleet.wait_done()
        verdict = fleet.check()
    # How many slots an autoscaled worker has at which moment is not known to the checker: it judges order by them.
    judged = {what: n for what, n in verdict.broken.items() if not (is_autoscaled and what == "displaced")}
    assert judged == {}
    assert verdict.ended == naps


def send(fleet: Fleet, queue: str, numbers: Sequence[int], seconds: float = 0.01, **options: Any) -> None:
    """Naps to a queue of the test's own, which the checker knows nothing of."""
    for number in numbers:
        fleet.sender.send_task("fleet.nap", args=(number, seconds), queue=queue, **options)


def waiting(fleet: Fleet, queue: str) -> list[int]:
    """What lies there, next to be taken first."""
    return [message.seq for message in broker.read(fleet.redis, queue).queued]


def starts(fleet: Fleet) -> Counter[int]:
    """How often each task has started."""
    return Counter(record.seq for record in fleet.read_records() if record.event == "start")


def test_s5_s6_each_of_several_queues_gets_its_own_back_in_its_order(stack: Stack) -> None:
    with Fleet(stack) as fleet:
        other = f"{fleet.queue}-b"
        fleet.watch()
        fleet.start(slots=1, arguments=(*QUIET, "-Q", f"{fleet.queue},{other}"))
        fleet.wait_open()
        send(fleet, fleet.queue, range(30), 0.05)
        send(fleet, other, range(100, 130), 0.05)
        fleet.wait_started(6)
        fleet.pause()
        fleet.wait_acknowledged()
        until("nothing runs", lambda: not fleet.running())
        began = starts(fleet)
        assert waiting(fleet, fleet.queue) == [n for n in range(30) if n not in began]
        assert waiting(fleet, other) == [n for n in range(100, 130) if n not in began]
        fleet.resume()
        until("all are done", lambda: len(fleet.ended()) == 60)
        assert set(starts(fleet).values()) == {1}


def test_s1_s4_a_queue_that_is_added_while_paused_is_consumed_after_the_resume(stack: Stack) -> None:
    """S1, S4: `add_consumer` is obeyed, and nothing of the new queue starts before the resume."""
    with Fleet(stack) as fleet:
        added = f"{fleet.queue}-added"
        fleet.watch()
        worker = fleet.start()
        fleet.wait_open()
        fleet.pause()
        fleet.wait_acknowledged()
        answers = fleet.sender.control.add_consumer(added, destination=[worker.nodename], reply=True, timeout=5)
        assert "add consumer" in str(answers)
        send(fleet, added, range(10))
        fleet.stays_still(for_s=0.7)
        assert waiting(fleet, added) == list(range(10))
        fleet.resume()
        until("they are done", lambda: fleet.ended() == set(range(10)))
        answers = fleet.sender.control.cancel_consumer(added, destination=[worker.nodename], reply=True, timeout=5)
        fleet.pause()
        fleet.wait_acknowledged()
        send(fleet, added, range(10, 15))
        fleet.resume()
        fleet.wait_open()
        fleet.stays_still(for_s=0.7)
        # In any order: a reply that was out when Celery cancelled puts its message at the tail, with us or without.
        assert sorted(waiting(fleet, added)) == list(range(10, 15)), "cancel_consumer stays in force"


def test_s5_s6_priorities_keep_their_lists_over_a_pause(stack: Stack) -> None:
    """Each priority step is a list of its own, and gets its own back."""
    with Fleet(stack, environ={fleet_app.PRIORITIES: "1"}) as fleet:
        fleet.watch()
        fleet.start(slots=1)
        fleet.wait_open()
        for number in range(60):
            send(fleet, fleet.queue, [number], 0.03, priority=(0, 3, 6, 9)[number % 4])
        fleet.wait_started(5)
        fleet.pause()
        fleet.wait_acknowledged()
        until("nothing runs", lambda: not fleet.running())
        began = starts(fleet)
        rest = [n for n in range(60) if n not in began]
        assert waiting(fleet, fleet.queue) == sorted(rest, key=lambda n: (n % 4, n))
        fleet.resume()
        until("all are done", lambda: len(fleet.ended()) == 60)
        assert set(starts(fleet).values()) == {1}
