"""The worker's own connections to the Redis that carries the state.

Never the broker's connection, and never redis-py's defaults: with those, one read in a silent partition was
seen to block for over 45 seconds.
"""

from __future__ import annotations

from redis import Redis
from redis.backoff import NoBackoff
from redis.retry import Retry

TIMEOUT_S = 1.0


def connect(url: str) -> Redis:
    """A client that gives up after a second and never retries by itself; connects on first use."""
    return Redis.from_url(
        url,
        socket_timeout=TIMEOUT_S,
        socket_connect_timeout=TIMEOUT_S,
        socket_keepalive=True,
        retry=Retry(NoBackoff(), 0),
    )
