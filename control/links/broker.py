"""The Celery broker, as far as the control plane looks at it: how many messages wait in which queue."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from time import monotonic
from typing import Any
from urllib.parse import urlsplit

from amqp.exceptions import ChannelError
from kombu import Connection
from redis.backoff import NoBackoff
from redis.retry import Retry

from sluicegate.control.links.outages import Outage
from sluicegate.schemas.errors import InvalidSetting

SOURCE = "broker"
CONNECT_TIMEOUT_S = 1.0
KEPT_FOR_S = 0.2
"""Several readers within this time share one look."""


def transport_options(broker_url: str, master_name: str | None = None, key_prefix: str | None = None) -> dict[str, Any]:
    """Short timeouts in the words of the broker's transport, none where we know no word; and where its keys are."""
    scheme = urlsplit(broker_url).scheme.partition("+")[0]
    if scheme in ("redis", "rediss", "valkey", "valkeys", "sentinel"):
        patience: dict[str, Any] = {"socket_timeout": 1.0, "socket_connect_timeout": 1.0}
        options = {**patience, "max_retries": 1, "retry_on_timeout": False}
        if key_prefix is not None:
            options["global_keyprefix"] = key_prefix
        if scheme == "sentinel":
            options |= {"master_name": master_name, "sentinel_kwargs": {**patience, "retry": Retry(NoBackoff(), 0)}}
        return options
    if scheme in ("amqp", "amqps", "pyamqp"):
        return {"read_timeout": 1.0, "write_timeout": 1.0}
    return {}


class Broker:
    """Reads the depth of queues. Thread-safe: one look at a time."""

    def __init__(self, broker_url: str, master_name: str | None = None, key_prefix: str | None = None) -> None:
        """Raises InvalidSetting where no transport of kombu's understands `broker_url`.

        `master_name` is what the sentinels call it, where the URL names sentinels; `key_prefix` is what stands before
        every key of Celery's there.
        """
        try:
            Connection(broker_url).get_transport_cls()
        except (KeyError, ImportError, ValueError):
            scheme = broker_url.partition(":")[0]
            raise InvalidSetting("SLUICEGATE_BROKER_URL", f"no broker transport for {scheme!r}") from None
        self._url = broker_url
        self._options = transport_options(broker_url, master_name, key_prefix)
        self._is_prefixed = "global_keyprefix" in self._options
        self._lock = threading.Lock()
        self._outage = Outage("queue depth")
        self._last: tuple[float, frozenset[str], dict[str, int] | None] = (-1.0, frozenset(), None)

    def depths(self, queues: Iterable[str]) -> dict[str, int] | None:
        """Messages that are ready in each of `queues`; None where the broker cannot be read.

        A queue that nobody declared yet holds none.
        """
        wanted = frozenset(queues)
        if not wanted:
            return {}
        with self._lock:
            at, asked, found = self._last
            if asked != wanted or monotonic() - at > KEPT_FOR_S:
                found = self._look(wanted)
                self._last = (monotonic(), wanted, found)
            return found

    def _look(self, queues: frozenset[str]) -> dict[str, int] | None:
        try:
            with Connection(
                self._url, connect_timeout=CONNECT_TIMEOUT_S, transport_options=self._options
            ) as connection:
                found = {queue: _depth(connection, queue, self._is_prefixed) for queue in sorted(queues)}
        except Exception as error:  # whatever a transport raises: no figure is better than a wrong one
            self._outage.begin(error)
            return None
        self._outage.end()
        return found


def _depth(connection: Any, queue: str, is_prefixed: bool) -> int:
    # A channel for each: AMQP closes the channel where the queue is not there.
    channel = connection.channel()
    try:
        # kombu 5.7 looks for a queue without the prefix, and finds none. A list in Redis is not made by being declared.
        return int(channel.queue_declare(queue=queue, passive=not is_prefixed).message_count)
    except ChannelError as error:
        # kombu's virtual transports put the code in as a text.
        if str(error.reply_code) == "404":
            return 0
        raise
    finally:
        channel.close()
