"""What a worker finds that is not as foreseen in its Celery and its app, when it starts."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery, Task, bootsteps
from celery.app import trace
from celery.worker import strategy
from celery.worker.request import Request
from kombu import Queue

from sluicegate.schemas.errors import InvalidSetting
from sluicegate.workers.celery_inside.consumer import look_before_strategies
from sluicegate.workers.celery_inside.self_check import Finding, Seen, judge, read, refuse_strategies, say
from sluicegate.workers.install import install


class Own(Task):  # type: ignore[type-arg]
    """Hands its messages over by itself."""

    name = "shop.own"

    def Strategy(self, task: Any, app: Any, consumer: Any) -> Callable[..., None]:  # type: ignore[override]
        raise NotImplementedError

    def run(self) -> None:
        raise NotImplementedError


class OwnStart(Own):
    """The same, by another way in."""

    name = "shop.own_start"
    Strategy = Task.Strategy  # type: ignore[assignment]

    def start_strategy(self, app: Any, consumer: Any, **options: Any) -> Any:
        raise NotImplementedError


class Loud(Request):
    """Says when it is acknowledged."""

    def acknowledge(self) -> None:
        super().acknowledge()


class Events(bootsteps.ConsumerStep):
    """Handles messages of its own."""


class AskingEvents(Events):
    """And asks the gate."""

    asks_gate = True


class Probe(bootsteps.StartStopStep):
    """Handles no messages."""


@pytest.fixture
def app() -> Iterator[Celery]:
    app = Celery("shop", broker="memory://", set_as_current=False)
    install(app, {})

    @app.task(name="shop.plain", shared=False)
    def plain() -> None:
        """As any other."""

    yield app
    app.close()


def worker_of(app: Celery) -> Any:
    return SimpleNamespace(app=app)


def test_nothing_is_found_in_an_app_that_has_nothing_of_its_own(app: Celery) -> None:
    app.steps["consumer"].update({AskingEvents, Probe})
    assert judge(read(worker_of(app))) == []


@pytest.mark.parametrize("own", [Own, OwnStart])
def test_a_task_with_a_strategy_of_its_own_is_refused_by_its_name_and_that_of_the_strategy(
    app: Celery, own: type[Task[Any, Any]]
) -> None:
    app.register_task(own())
    with pytest.raises(InvalidSetting, match=rf"^task: {own.name} hands its messages over .*test_self_check\.Own"):
        say(judge(read(worker_of(app))))


@pytest.mark.parametrize("same", ["celery.worker.strategy:default", strategy.default])
def test_celery_s_own_strategy_is_known_however_it_is_named(app: Celery, same: Any) -> None:
    task = app.tasks["shop.plain"]
    task.Strategy = same
    assert judge(read(worker_of(app))) == []


def test_all_that_is_refused_is_told_at_once() -> None:
    found = judge(Seen(strategies={"b": "x.B", "a": "x.A"}))
    assert [one.is_refused for one in found] == [True, True]
    with pytest.raises(InvalidSetting, match=r"a hands .*; b hands "):
        say(found)


def test_a_task_that_is_registered_late_is_refused_before_its_strategy_is_built(app: Celery) -> None:
    built: list[bool] = []
    consumer = SimpleNamespace(app=app, task_consumer=None, update_strategies=lambda: built.append(True))
    starts: list[bool] = []

    def look(is_starting: bool) -> None:
        starts.append(is_starting)
        refuse_strategies(app)

    look_before_strategies(consumer, look)
    consumer.update_strategies()
    assert built == [True]
    app.register_task(Own())
    consumer.task_consumer = object()
    with pytest.raises(InvalidSetting):
        consumer.update_strategies()
    assert built == [True]
    assert starts == [True, False]


def test_a_library_s_tracer_is_named_and_no_warning(app: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
    def build_tracer(*args: Any, **options: Any) -> Any:
        raise NotImplementedError

    monkeypatch.setattr(trace, "build_tracer", build_tracer)
    (found,) = judge(read(worker_of(app)))
    assert (found.what, found.level) == ("build_tracer", logging.INFO)
    assert "build_tracer" in found.says


def test_a_request_class_that_stands_before_what_is_relied_on_is_named(app: Celery) -> None:
    app.tasks["shop.plain"].Request = Loud  # type: ignore[assignment]
    (found,) = judge(read(worker_of(app)))
    assert "shop.plain" in found.says
    assert "acknowledge:" in found.says


def test_a_queue_without_acknowledgements_is_named(app: Celery) -> None:
    app.conf.task_queues = [Queue("safe"), Queue("metrics", no_ack=True)]
    (found,) = judge(read(worker_of(app)))
    assert (found.what, found.says.split()[0]) == ("queue", "metrics")


def test_a_step_that_handles_messages_and_does_not_ask_is_named(app: Celery) -> None:
    app.steps["consumer"].update({Events, AskingEvents, Probe})
    (found,) = judge(read(worker_of(app)))
    assert found.says.startswith(f"{__name__}.Events ")


def test_a_version_that_was_never_read_is_named() -> None:
    (found,) = judge(Seen(versions={"celery": "9.1.0", "kombu": "5.7.1"}))
    assert (found.what, found.says.split()[0]) == ("celery", "9.1.0")


def test_each_finding_is_one_line_of_the_log(caplog: pytest.LogCaptureFixture) -> None:
    say([Finding(what="queue", says="a"), Finding(what="task", says="b", level=logging.DEBUG)])
    assert caplog.messages == ["sluicegate: not as foreseen: queue: a"]
