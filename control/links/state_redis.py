"""Redis (or Valkey): where workers find the signed state, hear hints, and leave their heartbeats.

Nothing here is trusted or durable: what it holds is checked by whoever reads it, and made anew when lost.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from redis.exceptions import NoPermissionError, RedisError, ResponseError

from sluicegate.schemas import names
from sluicegate.schemas.adapters.redis_client import connect, refuse_cluster
from sluicegate.schemas.beats import MAX_BEAT_BYTES
from sluicegate.schemas.boot_asks import MAX_ASKS_BYTES
from sluicegate.schemas.errors import Unavailable
from sluicegate.schemas.printable import printable_logger
from sluicegate.schemas.redis_urls import Place
from sluicegate.schemas.snapshots import MAX_ENVELOPE_BYTES
from sluicegate.schemas.telling import MAX_CHARS, storable

logger = printable_logger("sluicegate.control")

# What is under the snapshot's key: {kind, content}. Anything that cannot be an envelope is 'other': it is overwritten
# without being read.
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

# What workers that start ask. In ARGV, since this user may only read it.
_ASKS = f"""
if redis.call('TYPE', ARGV[1]).ok ~= 'string' or redis.call('STRLEN', ARGV[1]) > {MAX_ASKS_BYTES} then return '' end
return redis.call('GET', ARGV[1])
"""

MEAN_BEAT_BYTES = 3_355
"""So many bytes of heartbeats are read at one look for each of the most workers: 16 MiB for 5,000."""
_AT_ONCE = 500
"""Nodenames whose heartbeats one call of a script reads, so that it holds nobody up."""

# The nodenames that beat last: {are there more, name, its digest or nothing, score, name, ...}. Of a name that is too
# long its beginning and its digest. Where there are more than are read, what has a time from the future comes last: it
# is somebody's lie. The keys are in ARGV, since EVAL takes those in KEYS for written ones, and this user may only read.
# ARGV: beats, how many, how many at once, longest name in bytes.
_NAMES = """
local key, most, step, longest = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local time = redis.call('TIME')
local now = string.format('%d.%06d', time[1], time[2])
local is_over = #redis.call('ZRANGE', key, most, most) > 0
local told = {is_over and 1 or 0}
for from = 0, most - 1, step do
  local part
  if is_over then
    local number = math.min(step, most - from)
    part = redis.call('ZRANGE', key, now, '-inf', 'BYSCORE', 'REV', 'LIMIT', from, number, 'WITHSCORES')
  else
    part = redis.call('ZRANGE', key, from, from + step - 1, 'REV', 'WITHSCORES')
  end
  if #part == 0 then break end
  for i = 1, #part, 2 do
    local name, digest = part[i], ''
    if #name > longest then
      digest = redis.sha1hex(name)
      name = string.sub(name, 1, 128)
    end
    told[#told + 1] = name
    told[#told + 1] = digest
    told[#told + 1] = part[i + 1]
  end
end
return told
"""
# What is under each key: its bytes, nothing, or 1 for what is too much. ARGV: most of one, most of all, keys.
_VALUES = """
local most, left, found = tonumber(ARGV[1]), tonumber(ARGV[2]), {}
for i = 3, #ARGV do
  local size = redis.pcall('STRLEN', ARGV[i])
  if type(size) ~= 'number' or size == 0 then
    found[i - 2] = false
  elseif size > most or size > left then
    found[i - 2] = 1
  else
    left = left - size
    found[i - 2] = redis.call('GET', ARGV[i])
  end
end
return found
"""


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


@dataclass(frozen=True, slots=True)
class Heartbeats:
    """What one look found: the server's time, the entries, and how much was too much to be read (`unread`).

    An entry whose bytes were too many is there, without them.
    """

    at: datetime
    heard: list[Heard]
    unread: int = 0


@dataclass(frozen=True, slots=True)
class _Name:
    """A nodename as it stands in Redis, when it beat last, and as it is told; `is_read` False: it is too long."""

    raw: bytes
    score: float
    told: str
    is_read: bool


class Bus:
    """One namespace's part of a Redis. Thread-safe; connecting happens at the first use.

    Every method raises Unavailable where Redis is away.
    """

    def __init__(self, place: Place, namespace: str, most_workers: int) -> None:
        """`place` is the server, or the sentinels to ask; `refuse_unusable` has looked at it.

        `most_workers`: so many nodenames are read at one look, those that beat last.
        """
        self.most_workers = most_workers
        self._most_bytes = most_workers * MEAN_BEAT_BYTES
        self._client: Any = connect(place)
        self._place = place
        self._namespace = namespace
        self._snapshot_key = names.snapshot_key(namespace)
        self._read = self._client.register_script(_READ)
        self._replace = self._client.register_script(_REPLACE)
        self._clear = self._client.register_script(_CLEAR)
        self._asks = self._client.register_script(_ASKS)
        self._names = self._client.register_script(_NAMES)
        self._values = self._client.register_script(_VALUES)

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

    def read_asks(self) -> bytes:
        """What workers that start ask, not judged in any way; empty where nobody does. Raises Unavailable."""
        with self._translated():
            return bytes(self._asks(args=[names.asks_key(self._namespace)]))

    def replace_slot(self, judged: Slot, envelope: bytes, hint: bytes) -> bool:
        """Publishes `envelope` and the hint, if the slot still is what was `judged`; was it?"""
        channel = names.hint_channel(self._namespace)
        with self._translated():
            answer = self._replace(
                keys=[self._snapshot_key], args=[judged.kind, judged.content, envelope, channel, hint]
            )
        return bool(answer)

    def heartbeats(self, known: Collection[str] = ()) -> Heartbeats:
        """The last beat of every worker that Redis tells of, within bounds.

        Where there are more than the most, those who beat last, and those of `known` that are there.
        """
        with self._translated():
            found, over = self._read_names(known)
            values, unread = self._read_values(found)
            # Last: a beat that comes between two of these is not from the future.
            seconds, microseconds = self._client.time()
        now = seconds + microseconds / 1e6
        heard = [
            Heard(name.told, _heard_at(name.score, now), raw, others)
            for name, (raw, others) in zip(found, values, strict=True)
        ]
        return Heartbeats(datetime.fromtimestamp(now, UTC), heard, over + unread)

    def _read_names(self, known: Collection[str]) -> tuple[list[_Name], int]:
        """The nodenames to be read, and how many more there are."""
        key = names.beats_key(self._namespace)
        is_over, *flat = self._latest(key)
        found = [_name(*flat[at : at + 3]) for at in range(0, len(flat), 3)]
        if not is_over:
            return found, 0
        try:
            missing = sorted({name for name in known if name == storable(name)} - {name.told for name in found})
            scores = self._client.zmscore(key, missing) if missing else []
            found += [
                _Name(name.encode(), score, name, True)
                for name, score in zip(missing, scores, strict=True)
                if score is not None
            ]
            return found, max(1, self._client.zcard(key) - len(found))
        except NoPermissionError:
            # The rules of an older version: more than none is all that can be said.
            return found, 1

    def _read_values(self, found: list[_Name]) -> tuple[list[tuple[bytes | None, bytes | None]], int]:
        """The heartbeat and the lives of each name, None where there are none; and how many were too much."""
        prefix = names.beat_key(self._namespace, "").encode()
        suffix = names.lives_key(self._namespace, "").encode()[len(prefix) :]
        values: list[tuple[bytes | None, bytes | None]] = []
        unread, left = 0, self._most_bytes
        for start in range(0, len(found), _AT_ONCE):
            part = found[start : start + _AT_ONCE]
            keys = [key for name in part if name.is_read for key in (prefix + name.raw, prefix + name.raw + suffix)]
            read: list[bytes | int | None] = self._values(args=[MAX_BEAT_BYTES, left, *keys]) if keys else []
            left -= sum(len(one) for one in read if isinstance(one, bytes))
            unread += sum(isinstance(one, int) for one in read) + sum(not name.is_read for name in part)
            told = iter(one if isinstance(one, bytes) else None for one in read)
            values += [(next(told), next(told)) if name.is_read else (None, None) for name in part]
        return values, unread

    def resources(self, nodenames: Sequence[str]) -> list[bytes | None]:
        """What the probe of each last said whole, within bounds; None where there is nothing. Raises Unavailable."""
        found: list[bytes | None] = []
        left = self._most_bytes
        with self._translated():
            for start in range(0, len(nodenames), _AT_ONCE):
                keys = [names.resources_key(self._namespace, name) for name in nodenames[start : start + _AT_ONCE]]
                read: list[bytes | int | None] = self._values(args=[MAX_BEAT_BYTES, left, *keys])
                found += [one if isinstance(one, bytes) else None for one in read]
                left -= sum(len(one) for one in read if isinstance(one, bytes))
        return found

    def _latest(self, key: str) -> list[Any]:
        """What `_NAMES` tells. What is no index of beats is somebody's junk: it is taken away, workers make it anew."""
        args: list[str | int] = [key, self.most_workers, _AT_ONCE, 4 * MAX_CHARS]
        try:
            found: list[Any] = self._names(args=args)
        except ResponseError as error:
            if not str(error).startswith("WRONGTYPE"):
                raise
            if self._clear(keys=[key], args=["zset"]):
                logger.error("ALARM wrong_type: %s was no index of heartbeats, and was taken away", key)
            found = self._names(args=args)
        return found

    def costs(self, most: int) -> list[tuple[bytes, bytes]]:
        """The oldest entries of what tasks have cost: their names in the stream, and their bytes."""
        with self._translated():
            found = self._client.xrange(names.costs_key(self._namespace), count=most)
        return [(entry, fields.get(b"cost", b"")) for entry, fields in found]

    def drop_costs(self, entries: Collection[bytes]) -> None:
        """Takes entries away that are stored elsewhere now."""
        with self._translated():
            self._client.xdel(names.costs_key(self._namespace), *entries)

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


def _name(raw: bytes, digest: bytes, score: bytes) -> _Name:
    """Of a name that is too long, what is told is its beginning and its digest: by that it can be forgotten."""
    told = raw.decode(errors="replace")
    if digest:
        return _Name(raw, float(score), f"{told}~{digest.decode()}", False)
    return _Name(raw, float(score), storable(told), True)
