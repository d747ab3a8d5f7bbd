"""What is set aside on Redis: found without being read, handed back as it was, purged with its queue."""

from __future__ import annotations

import json
import logging
from base64 import b64encode
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest
from click.testing import CliRunner, Result
from kombu import Connection, Exchange, Queue
from redis import Redis

from sluicegate.control.cli.root import sluicegate
from sluicegate.control.embedded import EmbeddedValkey
from sluicegate.control.links.broker import Broker
from sluicegate.schemas.adapters import aside
from sluicegate.schemas.exits import Exit
from sluicegate.workers.celery_inside import purges
from sluicegate.workers.celery_inside.switched_off import LeftAside


def message(number: int, task: str | None = "app.work") -> str:
    """As kombu keeps one; `task` None: of protocol 1, whose headers do not say it."""
    headers = {} if task is None else {"task": task, "id": str(number)}
    body = b64encode(json.dumps([[number], {}, {}]).encode()).decode()
    return json.dumps({"body": body, "headers": headers, "properties": {"delivery_tag": str(number)}})


class Shelf:
    """One queue's list, and what is set aside of it."""

    def __init__(self, valkey: EmbeddedValkey, prefix: str = "") -> None:
        self.url = valkey.url
        self.redis: Any = Redis.from_url(valkey.url, decode_responses=True)
        self.queue = f"aside-{uuid4().hex[:8]}"
        self.list = prefix + self.queue
        self.options = {"global_keyprefix": prefix} if prefix else {}

    def put(self, payload: str, task: str | None) -> None:
        """As a worker sets it aside; `task` None: one of an older version, which keeps no tally."""
        self.redis.lpush(aside.aside_key(self.list), payload)
        if task is not None:
            self.redis.hincrby(aside.tally_key(self.list), task, 1)

    def aside(self) -> list[str]:
        found: list[str] = self.redis.lrange(aside.aside_key(self.list), 0, -1)
        return found

    def tally(self) -> dict[str, str]:
        found: dict[str, str] = self.redis.hgetall(aside.tally_key(self.list))
        return found

    def lying(self) -> list[str]:
        """Next to be taken first."""
        return list(reversed(self.redis.lrange(self.list, 0, -1)))

    def hand_back(self, *held: str) -> int:
        return sum(aside.hand_back(self.redis, [self.list], held).values())

    def connection(self) -> Connection:
        return Connection(self.url, transport_options=self.options)


@pytest.fixture(params=["", "app:"], ids=["", "prefixed"])
def shelf(valkey: EmbeddedValkey, request: pytest.FixtureRequest) -> Iterator[Shelf]:
    made = Shelf(valkey, request.param)
    yield made
    made.redis.close()


def count_reads(shelf: Shelf) -> int:
    return int(shelf.redis.info("commandstats").get("cmdstat_lrange", {"calls": 0})["calls"])


def test_where_all_is_held_nobody_reads_the_list(shelf: Shelf) -> None:
    for number in range(5):
        shelf.put(message(number), "app.work")
    before = count_reads(shelf)
    assert shelf.hand_back("app.work", "app.other") == 0
    assert count_reads(shelf) == before
    assert shelf.hand_back("app.other") == 5
    assert shelf.lying() == [message(number) for number in range(5)]
    assert shelf.tally() == {}


def test_what_is_held_no_more_goes_to_the_head_in_its_order_and_the_rest_stays_counted(shelf: Shelf) -> None:
    shelf.redis.lpush(shelf.list, message(9))
    for number in range(6):
        task = "app.even" if number % 2 == 0 else "app.odd"
        shelf.put(message(number, task), task)
    assert shelf.hand_back("app.odd") == 3
    assert shelf.lying() == [message(0, "app.even"), message(2, "app.even"), message(4, "app.even"), message(9)]
    assert shelf.tally() == {"app.odd": "3"}
    assert shelf.hand_back("app.odd") == 0
    assert shelf.hand_back() == 3


def test_what_an_older_worker_set_aside_is_found_and_from_then_on_counted(shelf: Shelf) -> None:
    """A tally that does not fit its list is made anew: nothing stays behind unseen."""
    shelf.put(message(1), "app.work")
    shelf.put(message(2), None)
    shelf.put(message(3, "app.released"), None)
    assert shelf.hand_back("app.work") == 1
    assert shelf.lying() == [message(3, "app.released")]
    assert shelf.tally() == {"app.work": "2"}


@pytest.mark.parametrize("name", ["app.work", 'app."quoted"', "app.wörk", "app.back\\slash"])
def test_a_message_that_does_not_say_its_task_is_kept_by_what_was_said_for_it(shelf: Shelf, name: str) -> None:
    """Protocol 1. It goes back as it came, and where an escape hides the end of the name, with one key too many."""
    original = message(1, None)
    named = aside.with_task(original, name)
    assert aside.with_task(named, name) == named
    assert {**json.loads(original), aside.TASK: name} == json.loads(named)
    shelf.put(named, None)
    assert shelf.hand_back(name) == 0
    assert shelf.hand_back("app.other") == 1
    (back,) = shelf.lying()
    assert back == (original if name == "app.work" else named)


@pytest.mark.parametrize("payload", ["no JSON", "7", '{"headers": null}', '{"headers": {"task": 7}}', "{}", "[]"])
def test_what_cannot_be_read_is_celery_s_to_judge(shelf: Shelf, payload: str) -> None:
    shelf.put(payload, None)
    shelf.put(message(1), "app.work")
    assert shelf.hand_back("app.work") == 1
    assert shelf.lying() == [payload]
    assert shelf.aside() == [message(1)]


def test_a_purge_of_a_queue_takes_what_is_set_aside_of_it_and_of_no_other(shelf: Shelf, valkey: EmbeddedValkey) -> None:
    purges.take_aside_too()
    purges.take_aside_too()
    other = Shelf(valkey)
    other.put(message(1), "app.work")
    shelf.redis.lpush(shelf.list, message(1))
    for number in range(3):
        shelf.put(message(number), "app.work")
    with shelf.connection() as connection:
        channel = connection.default_channel
        assert Queue(shelf.queue, channel=channel).purge() == 4
        assert Queue(shelf.queue, channel=channel).purge() == 0
        assert (shelf.aside(), shelf.tally()) == ([], {})
        shelf.put(message(1), "app.work")
        bound = Queue(shelf.queue, Exchange(shelf.queue), routing_key=shelf.queue, channel=channel)
        bound.declare()
        bound.delete()
    assert shelf.aside() == []
    assert other.aside() == [message(1)]


def test_what_may_not_be_purged_is_told_and_the_queue_is_purged_all_the_same(
    shelf: Shelf, caplog: pytest.LogCaptureFixture
) -> None:
    purges.take_aside_too()
    shelf.redis.lpush(shelf.list, message(1))
    shelf.redis.set(aside.aside_key(shelf.list), "not a list")
    with shelf.connection() as connection, caplog.at_level(logging.ERROR):
        assert Queue(shelf.queue, channel=connection.default_channel).purge() == 1
    assert f"what is set aside of {shelf.queue} could not be purged" in caplog.text


def test_a_worker_that_is_switched_off_hands_back_and_says_so_once_and_never_fails(
    shelf: Shelf, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(3):
        shelf.put(message(number), "app.work")
    with shelf.connection() as connection, caplog.at_level(logging.WARNING):
        app = SimpleNamespace(amqp=SimpleNamespace(queues=SimpleNamespace(consume_from={shelf.queue: None})))
        consumer = SimpleNamespace(task_consumer=SimpleNamespace(channel=connection.default_channel), app=app)
        left = LeftAside(consumer)
        left.hand_back()
        left.hand_back()
        assert shelf.lying() == [message(0), message(1), message(2)]
        assert [record.getMessage() for record in caplog.records] == [
            f"sluicegate: switched off: 3 tasks that were set aside are back in {shelf.list}"
        ]
        shelf.redis.set(aside.aside_key(shelf.list), "not a list")
        caplog.clear()
        left.hand_back()
        left.hand_back()
    assert ["cannot be handed back" in record.getMessage() for record in caplog.records] == [True]


def test_the_control_plane_counts_it_by_queue_over_all_priorities(shelf: Shelf) -> None:
    prefix = shelf.options.get("global_keyprefix")
    broker = Broker(shelf.url, key_prefix=prefix)
    for key in (shelf.list, f"{shelf.list}\x06\x166"):
        shelf.redis.lpush(aside.aside_key(key), message(1))
    assert broker.set_aside([shelf.queue, "nobody-s"]) == {shelf.queue: 2, "nobody-s": 0}
    assert broker.depths([shelf.queue, "nobody-s"]) == {shelf.queue: 0, "nobody-s": 0}


def test_where_the_user_may_not_see_it_the_depths_stand_by_themselves(shelf: Shelf) -> None:
    """An ACL that was written for an older version: a fleet must not look broken for that."""
    shelf.redis.set(aside.aside_key(shelf.list), "not a list")
    broker = Broker(shelf.url, key_prefix=shelf.options.get("global_keyprefix"))
    assert broker.set_aside([shelf.queue]) is None
    assert broker.depths([shelf.queue]) == {shelf.queue: 0}
    shelf.redis.delete(aside.aside_key(shelf.list))


def test_all_lists_of_a_broker_are_found_by_queue(shelf: Shelf) -> None:
    shelf.put(message(1), "app.work")
    shelf.redis.lpush(aside.aside_key(f"{shelf.list}\x06\x163"), message(2))
    found = [key for key in aside.find_lists(Redis.from_url(shelf.url)) if shelf.queue in key]
    assert aside.by_queue(aside.count(shelf.redis, found)) == {shelf.list: 2}
    assert aside.purge(shelf.redis, found) == 2
    assert aside.count(shelf.redis, []) == {}


def call(*args: str, **environ: str | None) -> Result:
    nothing = {"SLUICEGATE_BROKER_URL": None, "SLUICEGATE_REDIS_URL": None}
    return CliRunner().invoke(sluicegate, ["aside", *args], env=nothing | environ)


def test_the_verbs_count_hand_back_and_purge_by_queue(shelf: Shelf) -> None:
    broker = ("--broker", shelf.url, "--json")
    for number in range(3):
        shelf.put(message(number), "app.work")
    assert json.loads(call("list", *broker).stdout)["setAsideByQueue"][shelf.list] == 3
    assert json.loads(call("hand-back", "--queue", shelf.list, *broker).stdout) == {"setAsideByQueue": {shelf.list: 3}}
    assert shelf.lying() == [message(0), message(1), message(2)]
    shelf.put(message(4), "app.work")
    assert json.loads(call("purge", "--queue", shelf.list, *broker).stdout) == {"setAsideByQueue": {shelf.list: 1}}
    assert (shelf.aside(), shelf.tally()) == ([], {})
    said = call("hand-back", "--queue", shelf.list, SLUICEGATE_BROKER_URL=shelf.url)
    assert said.stdout == "nothing was set aside\n"


@pytest.mark.parametrize(
    ("args", "code", "says"),
    [
        (["purge", "--broker", "redis://h:1/0"], Exit.USAGE, "name the queues"),
        (["purge", "--queue", "mail", "--all", "--broker", "redis://h:1/0"], Exit.USAGE, "name the queues"),
        (["list", "--broker", "amqp://guest@h//"], Exit.USAGE, "on RabbitMQ nothing is set aside"),
        (["list", "--broker", "no URL"], Exit.USAGE, "is not a URL"),
        (["list", "--broker", "redis://127.0.0.1:1/0"], Exit.UNREACHABLE, "aside list"),
        (["list"], Exit.USAGE, "SLUICEGATE_REDIS_URL"),
    ],
)
def test_a_verb_that_cannot_says_so_in_one_line(args: list[str], code: int, says: str) -> None:
    result = call(*args)
    assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (code, "", 1), result.output
    assert says in result.stderr
