"""The gate of `sluicegate.testing` before a real worker in this process holds as a fleet's does, and leaves nothing."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import pytest
from celery import Celery
from celery.contrib.testing.app import setup_default_app
from celery.contrib.testing.worker import start_worker
from celery.exceptions import TimeoutError as ResultTimeout
from celery.result import _set_task_join_will_block  # type: ignore[attr-defined]

import sluicegate
from sluicegate import checkpoint, resume_cursor
from sluicegate.control.embedded import EmbeddedValkey
from sluicegate.schemas.errors import InvalidInput, InvalidSetting, Refused
from sluicegate.testing import TrialGate, gate

WAIT_S = 10


@dataclass
class Shop:
    """An app with its tasks, and what they did."""

    app: Celery
    done: list[Any] = field(default_factory=list)
    began: threading.Event = field(default_factory=threading.Event)
    may_go_on: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        app, done = self.app, self.done

        @app.task(shared=False, name="shop.note")
        def note(word):
            done.append(word)

        @app.task(shared=False, name="shop.other")
        def other(word):
            done.append(word)

        @app.task(shared=False, name="shop.long")
        def long():
            self.began.set()
            assert self.may_go_on.wait(WAIT_S)
            done.append("long")

        def walk():
            step = resume_cursor() or 0
            while step < 3:
                done.append(step)
                step += 1
                self.began.set()
                assert self.may_go_on.wait(WAIT_S)
                checkpoint(step)

        self.note, self.other, self.long = note, other, long
        self.walk_yields = app.task(shared=False, name="shop.walk", on_quiesce="yield")(walk)
        self.walk_waits = app.task(shared=False, name="shop.stay", on_quiesce="wait", acks_late=True)(walk)


@contextmanager
def opened(broker: str) -> Iterator[Shop]:
    """A shop on this broker. What a worker makes of its app, the current one, is undone."""
    app = Celery("shop", broker=broker, backend="cache+memory://", set_as_current=False)
    # Queues in memory are the whole process's.
    app.conf.task_default_queue = f"q-{uuid4()}"
    with setup_default_app(app):
        yield Shop(app)
    # Whoever makes a worker sets this for the whole process; one that started takes it back.
    _set_task_join_will_block(False)


@pytest.fixture
def shop() -> Iterator[Shop]:
    with opened("memory://") as shop:
        sluicegate.install(shop.app, {})
        yield shop


@pytest.fixture(params=["solo", "threads"])
def work(request: pytest.FixtureRequest, shop: Shop) -> Callable[[], Any]:
    """Start a worker of the shop."""
    return lambda: start_worker(shop.app, pool=request.param, perform_ping_check=False)


def finished(*results: Any) -> None:
    for result in results:
        result.get(timeout=WAIT_S)


def test_what_is_sent_in_a_pause_starts_after_the_resume_and_in_its_order(shop, work):
    with gate(shop.app) as orders, work():
        finished(shop.note.delay("before"))
        orders.pause(reason="stock-taking")
        orders.wait_drained()
        held = [shop.note.delay(n) for n in range(10)]
        later = shop.note.apply_async(("eta",), countdown=0.01)
        with pytest.raises(ResultTimeout):
            later.get(timeout=0.3)
        assert shop.done == ["before"]
        orders.resume(reason="done")
        finished(*held, later)
    assert sorted(shop.done[1:], key=str) == [*range(10), "eta"]


def test_what_runs_at_the_pause_ends_and_what_was_fetched_goes_back_in_its_order(shop):
    with gate(shop.app) as orders, start_worker(shop.app, pool="threads", perform_ping_check=False):
        first = shop.long.delay()
        assert shop.began.wait(WAIT_S)
        # The worker has these in hand, behind the one that runs.
        held = [shop.note.delay(n) for n in range(6)]
        eta = shop.note.apply_async(("eta",), countdown=3600)
        orders.pause()
        orders.wait_paused()
        assert [task.name for task in orders.running] == ["shop.long"]
        with pytest.raises(TimeoutError, match=r"still runs what is held after 0\.1 s: shop\.long"):
            orders.wait_drained(timeout_s=0.1)
        shop.may_go_on.set()
        orders.wait_drained()
        finished(first)
        assert shop.done == ["long"]
        orders.resume()
        finished(*held)
        assert shop.done == ["long", *range(6)]
        eta.revoke()


def test_one_queue_is_held_and_the_other_goes_on(shop):
    with gate(shop.app) as orders, start_worker(shop.app, queues=["aside", "ahead"], perform_ping_check=False):
        orders.pause(scope="queue:aside")
        orders.wait_paused()
        held = shop.note.apply_async(("held",), queue="aside")
        finished(shop.note.apply_async(("free",), queue="ahead"))
        assert shop.done == ["free"]
        orders.resume(scope="queue:aside")
        finished(held)


@pytest.mark.parametrize("scope", ["task:shop.note", "label:zone=a", "global", "worker:w1@here", "host:here"])
def test_each_kind_of_scope_is_obeyed(shop, scope):
    worker = start_worker(shop.app, hostname="w1@here", perform_ping_check=False)
    with gate(shop.app, labels={"zone": "a"}) as orders, worker:
        orders.pause(scope=scope)
        orders.wait_paused()
        held = shop.note.delay("held")
        if scope.startswith("task:"):
            finished(shop.other.delay("free"))
        assert not held.ready()
        orders.resume(scope=scope)
        finished(held)


def test_a_task_that_yields_stops_and_goes_on_from_its_cursor(shop, work):
    with gate(shop.app) as orders, work():
        result = shop.walk_yields.delay()
        assert shop.began.wait(WAIT_S)
        orders.pause(mode="quiesce")
        shop.may_go_on.set()
        orders.wait_drained()
        assert orders.running == ()
        assert (shop.done, orders.cursor_of(result.id)) == ([0], 1)
        orders.resume()
        finished(result)
        assert (shop.done, orders.cursor_of(result.id)) == ([0, 1, 2], None)


def test_a_task_that_waits_is_seen_to_and_goes_on_in_place(shop, work):
    with gate(shop.app) as orders, work():
        result = shop.walk_waits.delay()
        assert shop.began.wait(WAIT_S)
        orders.pause(mode="quiesce")
        shop.may_go_on.set()
        orders.wait_drained()
        assert [(task.name, task.is_waiting) for task in orders.running] == [("shop.stay", True)]
        orders.resume()
        finished(result)
    assert shop.done == [0, 1, 2]


def test_a_task_that_waits_when_its_worker_stops_goes_on_in_the_next_one(shop, work):
    """Nothing of the first worker is left on the task: its cursor is the second one's."""
    with gate(shop.app) as orders:
        with work():
            result = shop.walk_waits.delay()
            assert shop.began.wait(WAIT_S)
            orders.pause(mode="quiesce")
            shop.may_go_on.set()
            orders.wait_drained()
        with pytest.raises(Refused, match="no worker"):
            orders.wait_paused()
        orders.resume()
        with work():
            orders.wait_resumed()
            finished(result)
    assert shop.done == [0, 1, 2]


def test_a_pause_is_in_force_for_a_worker_that_starts_later(shop, work):
    with gate(shop.app) as orders:
        orders.pause()
        held = shop.note.delay("held")
        with work():
            orders.wait_drained()
            assert not held.ready()
            orders.resume()
            finished(held)


def test_after_the_block_the_app_and_its_tasks_are_as_they_were(shop, work):
    def marks() -> list[Any]:
        tasks = shop.app.tasks.values()
        return [(task.name, task.run, task.Request, type(task).before_start, task.__trace__) for task in tasks]

    steps = {kind: set(shop.app.steps[kind]) for kind in ("worker", "consumer")}
    before = marks()
    with gate(shop.app) as orders, work() as worker:
        finished(shop.note.delay("behind"))
        assert worker.sluicegate.report.info()["state"] == "running"
        assert marks() != before
        orders.pause()
    assert marks() == before
    assert {kind: set(shop.app.steps[kind]) for kind in steps} == steps
    with work() as worker:
        finished(shop.note.delay("without"))
        assert not hasattr(worker, "sluicegate")


def test_an_app_that_was_never_installed_gets_a_gate_for_the_block():
    with opened("memory://") as shop:
        with gate(shop.app) as orders, start_worker(shop.app, perform_ping_check=False):
            orders.pause()
            orders.wait_paused()
        assert not shop.app.steps["worker"] | shop.app.steps["consumer"]


def test_a_real_broker_is_held_as_in_a_fleet(valkey: EmbeddedValkey):
    with opened(valkey.url) as shop, gate(shop.app) as orders, start_worker(shop.app, perform_ping_check=False):
        orders.pause()
        orders.wait_paused()
        held = shop.note.delay("held")
        orders.resume()
        finished(held)


def test_what_cannot_be_held_in_a_test_is_refused(shop):
    with (
        gate(shop.app),
        pytest.raises(InvalidSetting, match="-P solo or -P threads"),
        start_worker(shop.app, pool="prefork", perform_ping_check=False),
    ):
        pass


def test_one_worker_at_a_time_stands_at_a_gate(shop):
    second = start_worker(shop.app, perform_ping_check=False)
    with (
        gate(shop.app),
        start_worker(shop.app, perform_ping_check=False),
        pytest.raises(Refused, match="one at a time"),
        second,
    ):
        pass


def test_waiting_for_what_cannot_come_says_so(shop):
    with gate(shop.app) as orders:
        with pytest.raises(Refused, match="nothing is paused"):
            orders.wait_paused()
        orders.pause()
        with pytest.raises(Refused, match="no worker stands at this gate"):
            orders.wait_paused()
        for wrong in ({"mode": "stop"}, {"scope": "queue"}, {"reason": " "}):
            with pytest.raises(InvalidInput):
                orders.pause(**wrong)


def test_resuming_what_is_not_paused_does_nothing(shop):
    with gate(shop.app) as orders, start_worker(shop.app, perform_ping_check=False):
        orders.resume()
        orders.wait_resumed()
        finished(shop.note.delay("open"))
        assert isinstance(orders, TrialGate)
