"""Clients of the Redis that carries the state, for both halves.

Never the broker's connection, and never redis-py's defaults: with those, one read in a silent partition was
seen to block for over 45 seconds.
"""

from __future__ import annotations

from typing import Any

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry
from redis.sentinel import Sentinel, SentinelConnectionPool

from sluicegate.schemas.redis_urls import Place, Sentinels, refuse_other_kinds

TIMEOUT_S = 1.0


def connect(place: Place) -> Redis:
    """A client that gives up after a second and never retries by itself; connects on first use.

    Where sentinels are asked, asking them all takes no longer than a second either, and each new connection asks
    again. Raises ValueError for what is no URL.
    """
    if isinstance(place, Sentinels):
        return _ask(place)
    return Redis.from_url(place, **_patience(TIMEOUT_S))


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
