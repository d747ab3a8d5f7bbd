"""The heart: tells Redis every two seconds, and at once after an acknowledgement, what this worker is.

Its own thread and connection. The edition is remembered on disk before it is reported: a worker that was seen
to have acknowledged a pause must still know it after a crash.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from redis import Redis
from redis.exceptions import RedisError

from sluicegate.schemas.adapters.redis_client import let_go
from sluicegate.schemas.beats import Beat
from sluicegate.schemas.errors import InvalidInput
from sluicegate.schemas.names import beat_key, beats_key, lives_key, resources_key
from sluicegate.workers.log import logger
from sluicegate.workers.memory import Memory

log = logger(__name__)

_OTHERS_KEPT_S = 900
"""How long what another life of this nodename said last is kept in Redis; the control plane has its own memory."""
_GONE_KEPT_S = 120
_OTHERS_KEPT = 8

# KEYS: this nodename's beat, the index of all, what several lives of this nodename said last, what its probe read.
# ARGV: the beat, the nodename, the incarnation, is this its first beat, what the probe read or nothing. Returns the
# beats of other lives that came since our last one.
#
# The score is the server's own time: leases are counted on one clock, whatever the workers' clocks say. The beat of
# another life that ours takes the place of is kept (schemas.lives): that one may be alive. Only commands that the
# access rules of earlier versions allow: ZADD with INCR of 0 reads a score. A key of another type than ours is taken
# away, and what is no life in what is kept is left out: nobody's junk may keep a worker from beating.
_SCRIPT = f"""
local time = redis.call('TIME')
local at = string.format('%d.%06d', tonumber(time[1]), tonumber(time[2]))
local me, came = ARGV[3], {{}}
local function try(key, ...)
  local said = redis.pcall(...)
  if type(said) ~= 'table' then return said end
  if not string.find(said.err, 'WRONGTYPE', 1, true) then error(said.err) end
  redis.call('DEL', key)
  return false
end
local before, kept = try(KEYS[1], 'GET', KEYS[1]), try(KEYS[3], 'GET', KEYS[3])
local lives = {{}}
if kept then
  local is_read, found = pcall(cjson.decode, kept)
  if is_read and type(found) == 'table' then
    for life, said in pairs(found) do
      if type(life) == 'string' and type(said) == 'table' and type(said.beat) == 'string' and tonumber(said.at) then
        lives[life] = said
      end
    end
  end
end
if before and not string.find(before, '"incarnation":"' .. me .. '"', 1, true) then
  local is_read, other = pcall(cjson.decode, before)
  if is_read and type(other) == 'table' and type(other.incarnation) == 'string' then
    local seen = try(KEYS[2], 'ZADD', KEYS[2], 'XX', 'INCR', 0, ARGV[2])
    local known = lives[other.incarnation]
    lives[other.incarnation] = {{at = seen or '0', since = known and known.since, beat = before}}
  end
end
local mine, others, oldest = lives[me], 0, nil
for life, said in pairs(lives) do
  if life ~= me then
    local has_left = string.find(said.beat, '"goodbye":true', 1, true)
    if tonumber(at) - tonumber(said.at) > (has_left and {_GONE_KEPT_S} or {_OTHERS_KEPT_S}) then
      lives[life] = nil
    else
      others = others + 1
      if not oldest or tonumber(said.at) < tonumber(lives[oldest].at) then oldest = life end
      if mine and not has_left and tonumber(said.at) > tonumber(mine.at) then table.insert(came, said.beat) end
    end
  end
end
if others > {_OTHERS_KEPT} then lives[oldest] = nil end
if others > 0 then
  local since = mine and mine.since
  if not mine and ARGV[4] == '1' then since = at end
  lives[me] = {{at = at, since = since, beat = ARGV[1]}}
  redis.call('SET', KEYS[3], cjson.encode(lives), 'EX', {_OTHERS_KEPT_S})
elseif kept then
  redis.call('DEL', KEYS[3])
end
if ARGV[5] ~= '' then redis.call('SET', KEYS[4], ARGV[5]) end
redis.call('SET', KEYS[1], ARGV[1])
if not try(KEYS[2], 'ZADD', KEYS[2], at, ARGV[2]) then redis.call('ZADD', KEYS[2], at, ARGV[2]) end
return came
"""

_RETRY_S = 0.5
_PULSE_S = 0.1


class Heart:
    """Sends the beats that `compose` makes. `compose(seq, is_goodbye)` is called from the heart's thread, and so is
    `spell`: the bytes of a beat, signed.

    `pulse` is asked ten times a second, and an answer that differs from the last one is a reason to beat at once:
    None while nobody waits for anything.
    """

    def __init__(
        self,
        *,
        namespace: str,
        nodename: str,
        interval_s: float,
        connect: Callable[[], Redis],
        compose: Callable[[int, bool], Beat],
        memory: Memory,
        spell: Callable[[Beat], bytes] = Beat.encode,
        pulse: Callable[[], object] = lambda: None,
    ) -> None:
        self._keys = (
            beat_key(namespace, nodename),
            beats_key(namespace),
            lives_key(namespace, nodename),
            resources_key(namespace, nodename),
        )
        self._told_whole = 0
        self._nodename = nodename
        self._interval_s = interval_s
        self._connect = connect
        self._compose = compose
        self._memory = memory
        self._spell = spell
        self._pulse = pulse
        self._seq = 0
        self._due = threading.Event()
        self._stopping = threading.Event()
        self._is_away = False
        self._has_beaten = False
        self._namesakes: set[str] = set()
        self._thread = threading.Thread(target=self._run, name="sluicegate-heart", daemon=True)

    def start(self) -> None:
        """Start the thread. Call after the pool has forked."""
        self._thread.start()

    def beat_now(self) -> None:
        """Send a beat at once, from any thread, without waiting for it."""
        self._due.set()

    def say_goodbye(self, timeout_s: float = 3.0) -> None:
        """Send the last beat and end the thread; waits at most `timeout_s`, since a stop must not hang."""
        self._stopping.set()
        self._due.set()
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    def _run(self) -> None:
        redis = self._connect()
        while not self._stopping.is_set():
            felt = self._feel()
            wait_s = self._interval_s if self._beat(redis) else min(_RETRY_S, self._interval_s)
            self._wait(wait_s, felt)
            self._due.clear()
        self._beat(redis, is_goodbye=True)

    def _wait(self, wait_s: float, felt: object) -> None:
        """Until a beat is due, by the clock, by a call, or by the pulse."""
        ends_at = time.monotonic() + wait_s
        while (left_s := ends_at - time.monotonic()) > 0:
            if self._due.wait(min(_PULSE_S, left_s)) or self._feel() != felt:
                return

    def _feel(self) -> object:
        try:
            return self._pulse()
        except Exception:
            # What is read belongs to other threads; the next beat says it all the same.
            log.debug("sluicegate: the pulse cannot be felt", exc_info=True)
            return None

    def _beat(self, redis: Redis, *, is_goodbye: bool = False) -> bool:
        """Was the beat taken? A beat that was not is not kept: the next one says it all again."""
        try:
            self._seq += 1
            beat = self._compose(self._seq, is_goodbye)
            self._memory.save(beat.applied)
            is_first = "0" if self._has_beaten else "1"
            whole = self._whole(beat)
            others = redis.eval(
                _SCRIPT,
                len(self._keys),
                *self._keys,
                self._spell(beat),
                self._nodename,
                beat.incarnation,
                is_first,
                whole,
            )
            self._told_whole = beat.resources.number if beat.resources else 0
            self._has_beaten = True
            self._tell_of(others)
        except (RedisError, OSError) as error:
            # It may have been a master until a moment ago.
            let_go(redis)
            self._told_whole = 0
            if not self._is_away:
                self._is_away = True
                log.error("sluicegate: heartbeats cannot be sent (%s: %s)", type(error).__name__, error)
            return False
        except Exception:
            # Whatever it was, a worker must not fall silent for good because of one bad beat.
            log.exception("sluicegate: composing a heartbeat failed")
            return False
        if self._is_away:
            self._is_away = False
            log.warning("sluicegate: heartbeats are sent again")
        return True

    def _whole(self, beat: Beat) -> bytes:
        """What the probe read, where that is to be told whole; nothing where it has been."""
        resources = beat.resources
        if resources is None or resources.readings is None or resources.number == self._told_whole:
            return b""
        return resources.encode()

    def _tell_of(self, others: Any) -> None:
        """Says of each other worker of our nodename, once, that it is there: by beats that came between two of ours."""
        for raw in others or ():
            try:
                other = Beat.decode(raw)
            except InvalidInput:
                continue
            if other.incarnation not in self._namesakes:
                self._namesakes.add(other.incarnation)
                log.error(
                    "sluicegate: another worker of this nodename is running: %s, process %d on %s. Nothing is drained "
                    "meanwhile: give each its own name (celery worker -n)",
                    self._nodename,
                    other.pid,
                    other.host,
                )
