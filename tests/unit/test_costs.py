"""What a task has cost: keys that are the same when a message comes again, and no task that fails for it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import fakeredis
import pytest
from redis.exceptions import ConnectionError as Lost

from sluicegate import report_cost
from sluicegate.control.governors.costs import read
from sluicegate.schemas.errors import InvalidInput
from sluicegate.schemas.names import costs_key
from sluicegate.workers import checkpoints
from sluicegate.workers.costs import open_purse
from sluicegate.workers.purse import Purse


@dataclass
class Request:
    id: str = "t1"
    retries: int = 0
    delivery_info: dict[str, Any] = field(default_factory=dict)


@dataclass
class Running:
    name: str = "app.work"
    request: Request = field(default_factory=Request)


class Post:
    """A station that knows the task that runs."""

    def __init__(self, task: Running | None) -> None:
        self.task = task

    def current_task(self) -> Any:
        return self.task


@pytest.fixture
def redis() -> Any:
    return fakeredis.FakeRedis()


def told(redis: Any) -> list[dict[str, Any]]:
    return [json.loads(fields[b"cost"]) for _, fields in redis.xrange(costs_key("n"))]


def purse(redis: Any) -> Purse:
    return Purse("n", lambda: redis, about={"host": "h", "worker": "w@h", "labels": {"gpu": "a"}})


def keys_of_a_run(redis: Any, task: Running, count: int = 2) -> list[str]:
    before = len(told(redis))
    with checkpoints.station_for_a_while(Post(task), [0]):  # type: ignore[arg-type]
        open_purse(purse(redis))
        try:
            for _ in range(count):
                report_cost("0.1")
        finally:
            open_purse(None)
    return [said["key"] for said in told(redis)[before:]]


def test_a_message_that_comes_again_reports_the_same_keys_and_a_retry_others(redis: Any) -> None:
    first = keys_of_a_run(redis, Running())
    again = keys_of_a_run(redis, Running())
    retried = keys_of_a_run(redis, Running(request=Request(retries=1)))
    assert first == again
    assert len({*first, *retried}) == 4


def test_outside_of_a_task_and_without_the_plugin_nothing_happens(redis: Any) -> None:
    report_cost(1)
    with checkpoints.station_for_a_while(Post(None), [0]):  # type: ignore[arg-type]
        open_purse(purse(redis))
        report_cost(1)
        open_purse(None)
    assert told(redis) == []


def test_what_cannot_be_told_is_kept_for_the_next_report_and_fails_no_task() -> None:
    """In its order, each once."""
    redis: Any = fakeredis.FakeRedis()
    add = redis.xadd

    def away(*args: Any, **more: Any) -> Any:
        raise Lost

    redis.xadd = away
    mine = purse(redis)
    mine.report(Running(), "0.1", "a", "USD")
    mine.report(Running(), "0.2", "b", "USD")
    redis.xadd = add
    mine.report(Running(), "0.3", "c", "USD")
    assert [(said["key"], said["amount"]) for said in told(redis)] == [("a", "0.1"), ("b", "0.2"), ("c", "0.3")]


@pytest.mark.parametrize("amount", ["NaN", "inf", "-1", "x", 1e300])
def test_a_figure_that_is_none_is_refused_by_its_reader(amount: object) -> None:
    """It was told all the same: an alarm is worth more than a task that fails."""
    raw = json.dumps({"key": "k", "amount": amount, "currency": "USD"}).encode()
    with pytest.raises(InvalidInput):
        read(b"1767225600000-0", raw)


@pytest.mark.parametrize("raw", [b"", b"[]", b"{}", b"\xff", b"[" * 9000, b'{"key": 1.5, "amount": 1}'])
def test_what_is_no_report_is_refused(raw: bytes) -> None:
    with pytest.raises(InvalidInput):
        read(b"1767225600000-0", raw)
