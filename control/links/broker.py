"""The Celery broker, as far as the control plane looks at it: how many messages wait in which queue, and beside it."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from time import monotonic
from typing import Any
from urllib.parse import quote, urlencode

from amqp.exceptions import ChannelError
from kombu import Connection
from redis.backoff import NoBackoff
from redis.retry import Retry

from sluicegate.control.links.outages import Outage
from sluicegate.schemas.adapters import aside
from sluicegate.schemas.errors import InvalidSetting
from sluicegate.schemas.redis_urls import Server

SOURCE = "broker"
CONNECT_TIMEOUT_S = 1.0
KEPT_FOR_S = 0.2
"""Several readers within this time share one look."""


def transport_options(broker_url: str, master_name: str | None = None, key_prefix: str | None = None) -> dict[str, Any]:
    """Short timeouts in the words of the broker's transport, none where we know no word; and where its keys are."""
    scheme = broker_url.partition("://")[0].partition("+")[0].lower()
    if scheme in ("redis", "rediss", "sentinel"):
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


def kombu_url(server: Server) -> str:
    """`server` as kombu spells it; what TLS is to verify is given to kombu beside it."""
    user, password = (quote(text or "", safe="") for text in (server.username, server.password))
    signed_in = f"{user}:{password}@" if user or password else ""
    options = {"credential_provider": server.credential_provider} if server.credential_provider else {}
    if server.path is not None:
        options["virtual_host"] = str(server.database)
        return f"redis+socket://{signed_in}{quote(server.path)}?{urlencode(options)}"
    host = f"[{server.host}]" if ":" in server.host else quote(server.host, safe="")
    scheme = "rediss" if server.tls else "redis"
    return f"{scheme}://{signed_in}{host}:{server.port}/{server.database}" + (
        f"?{urlencode(options)}" if options else ""
    )


@dataclass(frozen=True, slots=True)
class _Look:
    """What one look found of each queue that it was for; None where it could not be read."""

    at: float = -1.0
    queues: frozenset[str] = frozenset()
    depths: dict[str, int] | None = None
    set_aside: dict[str, int] | None = None


class Broker:
    """Reads the depth of queues. Thread-safe: one look at a time."""

    def __init__(
        self,
        broker_url: str,
        master_name: str | None = None,
        key_prefix: str | None = None,
        tls: Mapping[str, Any] | None = None,
    ) -> None:
        """Raises InvalidSetting where no transport of kombu's understands `broker_url`.

        `master_name` is what the sentinels call it, where the URL names sentinels; `key_prefix` is what stands before
        every key of Celery's there; `tls` is what Celery has as `broker_use_ssl`.
        """
        try:
            Connection(broker_url).get_transport_cls()
        except Exception:  # whatever a transport's module raises; kombu hands each option on as an argument
            scheme = broker_url.partition("://")[0] if "://" in broker_url else ""
            raise InvalidSetting("SLUICEGATE_BROKER_URL", f"no broker transport for such a URL {scheme!r}") from None
        self._url = broker_url
        self._tls = dict(tls) if tls else False
        self._options = transport_options(broker_url, master_name, key_prefix)
        self._is_prefixed = "global_keyprefix" in self._options
        self._lock = threading.Lock()
        self._outage = Outage("queue depth")
        self._outage_aside = Outage("what is set aside")
        self._last = _Look()

    def depths(self, queues: Iterable[str]) -> dict[str, int] | None:
        """Messages that are ready in each of `queues`; None where the broker cannot be read.

        A queue that nobody declared yet holds none.
        """
        wanted = frozenset(queues)
        return self._look_at(wanted).depths if wanted else {}

    def set_aside(self, queues: Iterable[str]) -> dict[str, int] | None:
        """Messages that are set aside of each of `queues`; None where the broker does not tell (RabbitMQ: never)."""
        wanted = frozenset(queues)
        return self._look_at(wanted).set_aside if wanted else {}

    def _look_at(self, queues: frozenset[str]) -> _Look:
        with self._lock:
            if self._last.queues != queues or monotonic() - self._last.at > KEPT_FOR_S:
                depths, set_aside = self._read(queues)
                self._last = _Look(monotonic(), queues, depths, set_aside)
            return self._last

    def _read(self, queues: frozenset[str]) -> tuple[dict[str, int] | None, dict[str, int] | None]:
        try:
            with Connection(
                self._url, ssl=self._tls, connect_timeout=CONNECT_TIMEOUT_S, transport_options=self._options
            ) as connection:
                depths = {queue: _depth(connection, queue, self._is_prefixed) for queue in sorted(queues)}
                set_aside = self._read_aside(connection, queues)
        except Exception as error:  # whatever a transport raises: no figure is better than a wrong one
            self._outage.begin(error)
            return None, None
        self._outage.end()
        return depths, set_aside

    def _read_aside(self, connection: Any, queues: frozenset[str]) -> dict[str, int] | None:
        if connection.transport.driver_type != "redis":
            return None
        try:
            with connection.default_channel.conn_or_acquire() as client:
                found = aside.count_by_queue(client, sorted(queues), self._options.get("global_keyprefix", ""))
        except Exception as error:  # it may be forbidden to this user: the depths stand by themselves
            self._outage_aside.begin(error)
            return None
        self._outage_aside.end()
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
