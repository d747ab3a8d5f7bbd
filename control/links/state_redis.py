"""Redis (or Valkey): where workers find the signed state, hear hints, and leave their heartbeats.

Nothing here is trusted or durable: what it holds is checked by whoever reads it, and made anew when lost.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from redis.exceptions import RedisError, ResponseError

from sluicegate.schemas import names
from sluicegate.schemas.adapters.redis_client import connect, refuse_cluster
from sluicegate.schemas.errors import Unavailable
from sluicegate.schemas.redis_urls import Place

logger = logging.getLogger("sluicegate.control")

MAX_ENVELOPE_BYTES = 1 << 20
"""More than this cannot be ours: it is overwritten without being read."""

# What is under the snapshot's key: {kind, content}. Anything that cannot be an envelope is 'other'.
_LOOK = f"""
local function look(key)
  local kind = redis.call('TYPE', key).ok
  if kind == 'none' then return 'none', '' end
  if kind ~= 'string' or redis.call('STRLEN', key) > {MAX_ENVELOPE_BYTES} then return 'other', '' end
  return 'string', redis.call('GET', key)
end
"""
_READ = _LOOK + "return {look(KEYS[1])}"
# Set and tell, only where what is there is still what was judged.
# KEYS: snapshot. ARGV: kind and content that were judged, the new envelope, channel, hint.
_REPLACE = (
    _LOOK
    + """
local kind, content = look(KEYS[1])
if kind ~= ARGV[1] or content ~= ARGV[2] then return 0 end
redis.call('SET', KEYS[1], ARGV[3])
redis.call('PUBLISH', ARGV[4], ARGV[5])
return 1
"""
)


# Takes a key away that is not of the type ARGV[1]; one that a worker has made anew meanwhile stays. Was it?
_CLEAR = "return redis.call('TYPE', KEYS[1]).ok ~= ARGV[1] and redis.call('DEL', KEYS[1]) or 0"


@dataclass(frozen=True, slots=True)
class Slot:
    """What is under the snapshot's key: `none`, `string` (content) or `other` (nothing of ours)."""

    kind: str
    content: bytes


@dataclass(frozen=True, slots=True)
class Heard:
    """One nodename's entry: when it last beat by the server's clock, its bytes (None: lost).

    `lives`: what several lives of it said last (`schemas.lives`); None where there was one alone.
    """

    nodename: str
    seen_at: datetime
    raw: bytes | None
    lives: bytes | None = None


class Bus:
    """One namespace's part of a Redis. Thread-safe; connecting happens at the first use.

    Every method raises Unavailable where Redis is away.
    """

    def __init__(self, place: Place, namespace: str) -> None:
        """`place` is the server, or the sentinels to ask; `refuse_unusable` has looked at it."""
        self._client: Any = connect(place)
        self._place = place
        self._namespace = namespace
        self._snapshot_key = names.snapshot_key(namespace)
        self._read = self._client.register_script(_READ)
        self._replace = self._client.register_script(_REPLACE)
        self._clear = self._client.register_script(_CLEAR)

    def refuse_cluster(self) -> None:
        """Raises InvalidSetting where a Redis Cluster answers; one that does not answer is not refused."""
        refuse_cluster(self._place, "SLUICEGATE_REDIS_URL")

    def ping(self) -> None:
        """Raises Unavailable where it does not answer within TIMEOUT_S."""
        with self._translated():
            self._client.ping()

    def read_slot(self) -> Slot:
        """What workers would find now, not judged in any way. Raises Unavailable."""
        with self._translated():
            kind, content = self._read(keys=[self._snapshot_key])
        return Slot(kind.decode(), content)

    def replace_slot(self, judged: Slot, envelope: bytes, hint: bytes) -> bool:
        """Publishes `envelope` and the hint, if the slot still is what was `judged`; was it?"""
        channel = names.hint_channel(self._namespace)
        with self._translated():
            answer = self._replace(
                keys=[self._snapshot_key], args=[judged.kind, judged.content, envelope, channel, hint]
            )
        return bool(answer)

    def heartbeats(self) -> tuple[datetime, list[Heard]]:
        """The server's time, and the last beat of every worker that it knows."""
        with self._translated():
            scores = self._scores()
            # A nodename that is no UTF-8 is not one that Celery made.
            known = [(name.decode(errors="replace"), score) for name, score in scores]
            keys = [names.beat_key(self._namespace, nodename) for nodename, _ in known]
            keys += [names.lives_key(self._namespace, nodename) for nodename, _ in known]
            found: list[bytes | None] = self._client.mget(keys) if keys else []
            # Last: a beat that comes between two of these is not from the future.
            seconds, microseconds = self._client.time()
            now = seconds + microseconds / 1e6
        beats, lives = found[: len(known)], found[len(known) :]
        heard = [
            Heard(nodename, _heard_at(score, now), raw, others)
            for (nodename, score), raw, others in zip(known, beats, lives, strict=True)
        ]
        return datetime.fromtimestamp(now, UTC), heard

    def _scores(self) -> list[tuple[bytes, float]]:
        """Who beat when. What is no index of beats is somebody's junk: it is taken away, and workers make it anew."""
        key = names.beats_key(self._namespace)
        try:
            found: list[tuple[bytes, float]] = self._client.zrange(key, 0, -1, withscores=True)
        except ResponseError as error:
            if not str(error).startswith("WRONGTYPE"):
                raise
            if self._clear(keys=[key], args=["zset"]):
                logger.error("ALARM wrong_type: %s was no index of heartbeats, and was taken away", key)
            found = self._client.zrange(key, 0, -1, withscores=True)
        return found

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (RedisError, OSError) as error:
            # It may have been a master until a moment ago, and answer that it is read-only now: connect anew.
            self._client.connection_pool.disconnect(inuse_connections=False)
            # redis-py's texts may name the address, never the password.
            raise Unavailable(f"Redis: {(str(error).splitlines() or [type(error).__name__])[0]}") from error

    def close(self) -> None:
        self._client.close()


def _heard_at(score: float, now: float) -> datetime:
    """A score from the future, or none at all, is somebody's lie: it may not keep a worker alive for ever."""
    return datetime.fromtimestamp(score if math.isfinite(score) and 0 <= score <= now else 0, UTC)
