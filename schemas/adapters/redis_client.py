"""Clients of the Redis that carries the state, for both halves.

Never the broker's connection, and never redis-py's defaults: with those, one read in a silent partition was
seen to block for over 45 seconds.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from redis import Connection as TcpConnection
from redis import ConnectionPool, CredentialProvider, Redis, SSLConnection, UnixDomainSocketConnection
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry
from redis.sentinel import Sentinel, SentinelConnectionPool

from sluicegate.schemas.errors import InvalidSetting
from sluicegate.schemas.redis_urls import Place, Sentinels, Server, Tls, refuse_other_kinds

TIMEOUT_S = 1.0


def connect(place: Place) -> Redis:
    """A client that gives up after a second and never retries by itself; connects on first use.

    Where sentinels are asked, asking them all takes no longer than a second either, and each new connection asks
    again. `refuse_unusable` says beforehand whether anything could come of it.
    """
    if isinstance(place, Sentinels):
        return _ask(place)
    return Redis.from_pool(ConnectionPool(**_arguments(place)))


def refuse_unusable(place: Place, setting_name: str) -> None:
    """Raises InvalidSetting where no connection to `place` could ever be made: a file that is not there, say.

    Reads the files that are named; connects to nothing. The message shows neither password nor path.
    """
    if isinstance(place, Sentinels):
        return
    if place.tls is not None:
        _refuse_tls(place.tls, setting_name)
    try:
        arguments = _arguments(place)
        arguments.pop("connection_class")(**arguments)
    except Exception as error:  # whatever a credential provider raises; an older redis-py knows fewer options
        what = f"{place.credential_provider}: " if place.credential_provider else ""
        raise InvalidSetting(setting_name, f"is not one that redis-py can use ({what}{type(error).__name__})") from None


def _arguments(server: Server) -> dict[str, Any]:
    """What redis-py's pool makes connections from."""
    said: dict[str, Any] = {
        "db": server.database,
        "username": server.username,
        "password": server.password,
        "client_name": server.client_name,
        "protocol": server.protocol,
        **_patience(TIMEOUT_S),
    }
    if server.credential_provider is not None:
        said["credential_provider"] = _provider(server.credential_provider)
    if server.path is not None:
        said |= {"connection_class": UnixDomainSocketConnection, "path": server.path}
        del said["socket_keepalive"]  # which no such socket has
    else:
        said |= {"connection_class": TcpConnection, "host": server.host, "port": server.port}
    if server.tls is not None:
        said |= {"connection_class": SSLConnection, **tls_arguments(server.tls)}
    # What was not said is left to redis-py, whose versions differ in it.
    return {name: value for name, value in said.items() if value is not None}


def tls_arguments(tls: Tls) -> dict[str, Any]:
    """`tls` in the words of redis-py's connections; kombu hands them on to it."""
    said = {
        "ssl_cert_reqs": tls.verify,
        "ssl_check_hostname": False if tls.verify == "none" else tls.checks_host,
        "ssl_ca_certs": tls.ca_file,
        "ssl_ca_path": tls.ca_folder,
        "ssl_ca_data": tls.ca_data,
        "ssl_certfile": tls.certificate_file,
        "ssl_keyfile": tls.key_file,
        "ssl_password": tls.key_password,
        "ssl_ciphers": tls.ciphers,
        "ssl_min_version": tls.min_version,
    }
    return {name: value for name, value in said.items() if value is not None}


def _refuse_tls(tls: Tls, setting_name: str) -> None:
    """As redis-py would find it, at each connection."""
    context = ssl.create_default_context()
    if tls.ca_file or tls.ca_folder or tls.ca_data:
        with _told("ssl_ca_certs, ssl_ca_path or ssl_ca_data", setting_name):
            context.load_verify_locations(tls.ca_file, tls.ca_folder, tls.ca_data)
    if tls.certificate_file:
        with _told("ssl_certfile, ssl_keyfile or ssl_password", setting_name):
            # Without a password of our own OpenSSL would ask the terminal for one, and wait.
            context.load_cert_chain(tls.certificate_file, tls.key_file, lambda: tls.key_password or "")
    if tls.ciphers:
        with _told("ssl_ciphers", setting_name):
            context.set_ciphers(tls.ciphers)
    if tls.min_version:
        with _told("ssl_min_version", setting_name):
            context.minimum_version = ssl.TLSVersion(tls.min_version)


@contextmanager
def _told(option: str, setting_name: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, OverflowError) as error:
        why = getattr(error, "reason", None) or getattr(error, "strerror", None) or type(error).__name__
        raise InvalidSetting(setting_name, f"has an option that is of no use: {option} ({why})") from None


def _provider(name: str) -> CredentialProvider:
    """An instance of the class that `name` says, as MODULE.CLASS or MODULE:CLASS."""
    module, _, attribute = name.replace(":", ".").rpartition(".")
    made = getattr(import_module(module), attribute)()
    if not isinstance(made, CredentialProvider):
        raise TypeError("it is no CredentialProvider of redis-py")
    return made


def _ask(place: Sentinels) -> Redis:
    untyped: Any = Sentinel
    sentinel = untyped(
        list(place.addresses),
        sentinel_kwargs=_patience(TIMEOUT_S / len(place.addresses)),
        db=place.database,
        username=place.username,
        password=place.password,
        **_patience(TIMEOUT_S),
    )
    client: Redis = sentinel.master_for(place.master_name)
    return client


def _patience(timeout_s: float) -> dict[str, Any]:
    return {
        "socket_timeout": timeout_s,
        "socket_connect_timeout": timeout_s,
        "socket_keepalive": True,
        "retry": Retry(NoBackoff(), 0),
    }


def let_go(redis: Redis) -> None:
    """Connect anew at the next use.

    A demoted master does not always close its connections, and that it is read-only now is an error like any other.
    """
    redis.connection_pool.disconnect()


def asks_sentinels(redis: Redis) -> bool:
    """May a new connection lead elsewhere?"""
    return isinstance(redis.connection_pool, SentinelConnectionPool)


def refuse_cluster(place: Place, setting_name: str) -> None:
    """Raises InvalidSetting where a Redis Cluster answers at `place`; one that does not answer is not refused."""
    if isinstance(place, Sentinels):
        return  # sentinels do not watch clusters
    redis: Any = connect(place)
    try:
        refuse_other_kinds(redis.execute_command("HELLO"), setting_name)
    except (RedisError, OSError):
        # Away, or older than HELLO, or it wants no such question: what it is shows when it is used.
        return
    finally:
        redis.close()
