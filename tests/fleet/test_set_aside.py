"""What a task hold sets aside: counted, purged with its queue, plain Celery's when switched off, never thrown away."""

from __future__ import annotations

import json
import sys
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any
from uuid import uuid4

import pytest

from sluicegate.control.process.stack import Stack
from sluicegate.schemas.errors import SluicegateError
from sluicegate.schemas.settings import BROKER_URL, ENABLED
from tests.fleet import newer_tasks
from tests.fleet.harness import Fleet
from tests.fleet.rabbit import Rabbit
from tests.fleet.waiting import stays, until
from tests.marks import long

HELD = "task:fleet.stubborn"
SWEPT_TWICE_S = 11.0
"""Workers look at what is set aside every 5 s."""
THOUSANDS = 15_000


@contextmanager
def held(fleet: Fleet, scope: str) -> Iterator[None]:
    """Every worker of the fleet obeys a hold on `scope`."""
    fleet.client.pause(mode="drain", reason="test", scope=scope)
    try:
        version = fleet.client.read().body.system.version
        until("the hold is in force", lambda: all(word.edition[1] >= version for word in fleet.words()))
        yield
    finally:
        with suppress(SluicegateError):
            fleet.client.resume(reason="test", scope=scope, force=True)


def send_held(fleet: Fleet, count: int) -> list[int]:
    return [fleet.send("stubborn", 0, 0.0) for _ in range(count)]


def count_aside(fleet: Fleet) -> int:
    return int(fleet.redis.execute_command("LLEN", f"sluicegate.aside:{fleet.queue}"))


def wait_aside(fleet: Fleet, count: int, *, within_s: float = 40.0) -> None:
    """All of them, and none in any worker's hands."""
    until(
        f"{count} are set aside",
        lambda: count_aside(fleet) == count and not fleet.count_unacked() and not fleet.depth(),
        within_s=within_s,
    )


def order_of(fleet: Fleet, numbers: Sequence[int]) -> list[int]:
    return [r.seq for r in fleet.read_records() if r.event == "start" and r.seq in numbers]


def run_ours(fleet: Fleet, *arguments: str) -> str:
    done = fleet.run([sys.executable, "-m", "sluicegate.control.cli", *arguments])
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_what_is_set_aside_is_in_the_figures_and_a_purge_of_its_queue_takes_it(stack: Stack) -> None:
    with Fleet(stack) as fleet:
        fleet.watch()
        fleet.start(slots=1)
        fleet.wait_open()
        with held(fleet, HELD):
            send_held(fleet, 10)
            wait_aside(fleet, 10)
            scope = f"queue:{fleet.queue}"
            metrics = fleet.client.read(scope).raw["metrics"]
            assert (metrics["queued"], metrics["setAside"]) == (0, 10)
            assert fleet.client.preview(scope).raw["queues"] == [{"name": fleet.queue, "ready": 0, "setAside": 10}]
            purged = fleet.run([sys.executable, "-m", "celery", "-A", "tests.fleet.app", "purge", "-f"])
            assert "Purged 10 messages" in purged.stdout
            assert fleet.client.read(scope).raw["metrics"]["setAside"] == 0
        fleet.send("nap", 0.0)
        fleet.wait_started(1)
        fleet.stays_still(for_s=1.0)
        assert fleet.count_starts() == 1


def test_the_command_line_counts_purges_and_hands_back_where_no_worker_has_the_package(stack: Stack) -> None:
    with Fleet(stack) as fleet:
        fleet.watch()
        fleet.start(slots=1)
        fleet.wait_open()
        broker = ("--broker", stack.environ[BROKER_URL.name])
        with held(fleet, HELD):
            send_held(fleet, 3)
            wait_aside(fleet, 3)
            assert run_ours(fleet, "aside", "list", *broker).splitlines()[1].split() == [fleet.queue, "3"]
            run_ours(fleet, "aside", "purge", "--queue", fleet.queue, *broker)
            assert count_aside(fleet) == 0
            back = send_held(fleet, 4)
            wait_aside(fleet, 4)
            fleet.workers["w1"].stop()
            run_ours(fleet, "aside", "hand-back", *broker)
            assert [message.seq for message in fleet.contents().queued] == back


@pytest.mark.parametrize("pool", ["prefork", long("gevent")])
def test_a_worker_that_is_switched_off_gets_back_what_was_set_aside(stack: Stack, pool: str) -> None:
    """The hold is still in force: plain Celery knows of none."""
    with Fleet(stack, pool=pool) as fleet:
        fleet.watch()
        fleet.start(slots=1)
        fleet.wait_open()
        with held(fleet, HELD):
            aside = send_held(fleet, 10)
            wait_aside(fleet, 10)
            fleet.workers["w1"].stop()
            plain = fleet.start("w2", slots=1, environ={ENABLED.name: "false"})
            until("all have run", lambda: fleet.ended() == set(aside))
            assert order_of(fleet, aside) == aside
            assert plain.process.output.count("10 tasks that were set aside") == 1


@pytest.mark.parametrize("protocol", [1, 2])
def test_a_held_task_is_set_aside_once_whatever_the_protocol_of_its_message(stack: Stack, protocol: int) -> None:
    with Fleet(stack) as fleet:
        fleet.sender.conf.task_protocol = protocol
        fleet.watch()
        fleet.start(slots=1)
        fleet.wait_open()
        with held(fleet, HELD):
            aside = send_held(fleet, 30)
            wait_aside(fleet, 30)
            pushed = _count_pushes(fleet)
            # To move them once takes as many pushes as there are; answers to the roll call are one or two.
            stays(
                "nothing is moved",
                lambda: _count_pushes(fleet) - pushed < len(aside),
                for_s=SWEPT_TWICE_S,
                every_s=0.2,
            )
            others = fleet.send_naps(5, 0.0)
            until("the others run", lambda: fleet.ended() == set(others))
        until("all have run", lambda: fleet.ended() == {*aside, *others})
        assert order_of(fleet, aside) == aside


def _count_pushes(fleet: Fleet) -> int:
    """By anybody, scripts too."""
    stats = fleet.redis.info("commandstats")
    return sum(int(stats.get(f"cmdstat_{name}", {"calls": 0})["calls"]) for name in ("lpush", "rpush"))


@pytest.mark.long
@pytest.mark.parametrize("protocol", [1, 2])
@pytest.mark.timeout(240)
def test_with_thousands_set_aside_other_tasks_go_on_and_redis_is_left_alone(stack: Stack, protocol: int) -> None:
    with Fleet(stack) as fleet:
        fleet.sender.conf.task_protocol = protocol
        fleet.send("stubborn", 0, 0.0)
        (one,) = fleet.redis.lrange(fleet.queue, 0, -1)
        fleet.redis.delete(fleet.queue)
        fleet.watch()
        fleet.start("w1", slots=1, wait=False)
        fleet.start("w2", slots=1, wait=False)
        fleet.wait_ready()
        fleet.wait_open()
        with held(fleet, HELD):
            for _ in range(THOUSANDS // 1000):
                fleet.redis.lpush(fleet.queue, *(_copy(json.loads(one)) for _ in range(1000)))
            wait_aside(fleet, THOUSANDS, within_s=200.0)
            reads = _count_reads(fleet)
            others = fleet.send_naps(20, 0.0)
            until("the others run", lambda: fleet.ended() == set(others), within_s=10.0)
            stays("no list is read", lambda: _count_reads(fleet) == reads, for_s=SWEPT_TWICE_S, every_s=0.5)
            assert count_aside(fleet) == THOUSANDS
            fleet.workers["w1"].kill()
            fleet.workers["w2"].kill()


def _copy(raw: Any) -> str:
    """The same task once more, as another sender would have sent it: a thousand times faster than Celery does."""
    new = str(uuid4())
    raw["properties"] |= {"correlation_id": new, "delivery_tag": str(uuid4())}
    body = json.loads(b64decode(raw["body"]))
    if "id" in raw["headers"]:
        raw["headers"] |= {"id": new, "root_id": new}
    else:
        body["id"] = new
    return json.dumps(raw | {"body": b64encode(json.dumps(body).encode()).decode()})


def _count_reads(fleet: Fleet) -> int:
    """How often a list has been read, by anybody."""
    return int(fleet.redis.info("commandstats").get("cmdstat_lrange", {"calls": 0})["calls"])


@pytest.mark.parametrize("pool", ["prefork", long("threads"), long("solo"), long("gevent")])
def test_a_held_task_that_a_worker_does_not_know_waits_for_one_that_does(stack: Stack, pool: str) -> None:
    """As a rolling deploy brings it: held until the last old worker is gone."""
    with Fleet(stack, pool=pool) as fleet:
        _deploy(fleet, lambda: wait_aside(fleet, 5))


@pytest.mark.parametrize("pool", ["prefork", long("threads"), long("solo"), long("gevent")])
@pytest.mark.parametrize("queue_type", ["classic", long("quorum")])
def test_a_held_task_that_a_worker_does_not_know_stays_unacknowledged_on_rabbitmq(
    stack: Stack, rabbit: Rabbit, pool: str, queue_type: str
) -> None:
    with Fleet(stack, pool=pool, rabbit=rabbit, queue_type=queue_type) as fleet:
        _deploy(fleet, lambda: until("all are in hand", lambda: fleet.count_unacked() == 5 and not fleet.depth()))


def _deploy(fleet: Fleet, wait_held: Callable[[], object]) -> None:
    fleet.watch()
    fleet.start("w1")
    fleet.wait_open()
    with held(fleet, f"task:fleet.{newer_tasks.UNKNOWN}"):
        new = [fleet.send(newer_tasks.UNKNOWN, 1, 0.0) for _ in range(5)]
        others = fleet.send_naps(5, 0.0)
        until("the others run", lambda: fleet.ended() == set(others))
        wait_held()
        fleet.start("w2", module=newer_tasks.MODULE, slots=1)
        fleet.wait_open("w2")
        fleet.workers["w1"].stop()
    until("all have run", lambda: fleet.ended() == {*new, *others})
    assert order_of(fleet, new) == new
