"""The verb `aside`: what task holds set aside on a Redis broker, for a fleet without a worker that could see to it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import click

from sluicegate.control.cli import options
from sluicegate.control.cli.verb import Noun
from sluicegate.schemas import settings
from sluicegate.schemas.errors import InvalidInput, Unavailable

HEAD = ("QUEUE", "SET ASIDE")

_broker = options.option("--broker", metavar="URL", help="The Celery broker, instead of SLUICEGATE_BROKER_URL.")
_queues = options.option(
    "--queue", "queues", multiple=True, metavar="NAME", help="Of this queue alone; give it once for each."
)


@click.group(cls=Noun, short_help="What task holds set aside on a Redis broker.")
def aside() -> None:
    """What was set aside beside its queue while its task is held.

    Workers see to it by themselves, and a purge by Celery takes it where the app calls `sluicegate.install`. These
    verbs are for where there is no such worker or app any more. They ask the broker itself, not the control plane. A
    queue is called as its list in Redis is: with Celery's global_keyprefix, where there is one.
    """


@aside.command("list", short_help="How many messages are set aside, by queue.", examples=("sluicegate aside list",))
@_broker
@options.json_output
def list_(*, broker: str | None, as_json: bool) -> None:
    """How many messages are set aside of each queue that has any."""
    from sluicegate.schemas.adapters import aside as lists

    with _client(broker) as client:
        _say(lists.by_queue(lists.count(client, lists.find_lists(client))), as_json, "nothing is set aside")


@aside.command(
    "hand-back",
    short_help="Hand it back to the heads of its queues.",
    examples=("sluicegate aside hand-back", "sluicegate aside hand-back --queue mail --broker redis://broker:6379/0"),
)
@_queues
@_broker
@options.json_output
def hand_back(*, queues: tuple[str, ...], broker: str | None, as_json: bool) -> None:
    """Hand what is set aside back to the heads of its queues, in its order, whatever is held.

    A worker that obeys the hold sets it aside again: this is for a fleet that has none of them any more.
    """
    from sluicegate.schemas.adapters import aside as lists

    with _client(broker) as client:
        moved = lists.hand_back(client, _lists(client, queues))
        _say(lists.by_queue(moved), as_json, "nothing was set aside")


@aside.command(
    short_help="Throw it away.", examples=("sluicegate aside purge --queue mail", "sluicegate aside purge --all")
)
@_queues
@options.option("--all", "is_all", is_flag=True, help="Of every queue of this broker.")
@_broker
@options.json_output
def purge(*, queues: tuple[str, ...], is_all: bool, broker: str | None, as_json: bool) -> None:
    """Throw away what is set aside: what a purge of the queues did not take, by who has no sluicegate."""
    from sluicegate.schemas.adapters import aside as lists

    if bool(queues) == is_all:
        raise InvalidInput("queue", "name the queues (--queue NAME), or say --all: there is no way back")
    with _client(broker) as client:
        found = _lists(client, queues)
        counted = lists.count(client, found)
        lists.purge(client, found)
        _say(lists.by_queue(counted), as_json, "nothing was set aside")


def _lists(client: Any, queues: tuple[str, ...]) -> list[str]:
    from sluicegate.schemas.adapters import aside as lists

    found = lists.find_lists(client)
    return [key for key in found if not queues or lists.queue_of(key) in queues]


def _say(by_queue: Mapping[str, int], as_json: bool, nothing: str) -> None:
    from sluicegate.control.cli.render import terminal

    if as_json:
        terminal.say_json({"setAsideByQueue": dict(sorted(by_queue.items()))})
    elif by_queue:
        terminal.table(HEAD, sorted(by_queue.items()))
    else:
        terminal.say(nothing)


@contextmanager
def _client(broker: str | None) -> Iterator[Any]:
    """The Redis that is the broker. Raises InvalidInput for another kind of URL, Unavailable."""
    from redis.exceptions import RedisError

    from sluicegate.schemas.adapters.redis_client import connect
    from sluicegate.schemas.redis_urls import place_of

    environ = os.environ
    url = broker or settings.BROKER_URL.read_or_none(environ) or settings.REDIS_URL.read(environ)
    master = settings.BROKER_MASTER_NAME.read_or_none(environ) or settings.REDIS_MASTER_NAME.read_or_none(environ)
    if url.startswith(("amqp", "pyamqp")):
        raise InvalidInput("broker", "on RabbitMQ nothing is set aside: what is held is in the hands of the workers")
    try:
        client: Any = connect(place_of(url, settings.BROKER_URL, master, settings.BROKER_MASTER_NAME))
    except ValueError:
        # Its own text may show the password.
        raise InvalidInput("broker", "is not a URL such as redis://HOST:PORT/0") from None
    try:
        yield client
    except RedisError as error:
        raise Unavailable(f"the broker did not do it: {error} (`sluicegate aside list` says what is left)") from None
    finally:
        client.close()
