"""The question of a worker that starts: who signs a state with this nonce in it? (`schemas.boot_asks`)

Only commands that the access rules of earlier versions allow, and a key below the heartbeats' name.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from redis import Redis
from redis.exceptions import RedisError

from sluicegate.schemas.boot_asks import ASKED_FOR_S, MAX_ASKS_BYTES, RECORD_CHARS, new_nonce
from sluicegate.schemas.names import asks_key
from sluicegate.workers.log import logger

log = logger(__name__)

ASK_EVERY_S = 5.0
"""Redis may have lost what was asked."""

# KEYS: the asks. ARGV: the nonce, and whether it is asked (1) or no more (0). What is no list of asks is left out, and
# so are those that nobody repeats.
_SCRIPT = f"""
local said = redis.pcall('GET', KEYS[1])
if type(said) ~= 'string' or #said > {MAX_ASKS_BYTES} or #said % {RECORD_CHARS} ~= 0 then said = '' end
local now, from = tonumber(redis.call('TIME')[1]), 1
while from < #said do
  local at = tonumber(string.sub(said, from, from + 9))
  if at and at <= now and now - at <= {ASKED_FOR_S} then break end
  from = from + {RECORD_CHARS}
end
said = string.sub(said, from)
local at = string.find(said, ARGV[1], 1, true)
if at then said = string.sub(said, 1, at - 11) .. string.sub(said, at + {RECORD_CHARS - 10}) end
if ARGV[2] == '1' then said = said .. string.format('%010d', now) .. ARGV[1] end
said = string.sub(said, -{MAX_ASKS_BYTES})
if said == '' then redis.call('DEL', KEYS[1]) else redis.call('SET', KEYS[1], said, 'EX', {ASKED_FOR_S}) end
return 1
"""


class BootAsk:
    """One life's nonce, and whether it is asked for. Never raises for Redis: who is not heard asks again."""

    def __init__(self, namespace: str, clock: Callable[[], float] = time.monotonic) -> None:
        self.nonce = new_nonce()
        self._key = asks_key(namespace)
        self._clock = clock
        self._due_at = clock()
        self._is_asking = False
        self._has_complained = False

    def tend(self, reader: Redis, is_open: bool) -> None:
        """At each look at the state: ask, ask again, or ask no more."""
        if is_open:
            if self._is_asking:
                self._is_asking = False
                self._write(reader, "0")
        elif self._clock() >= self._due_at and self._write(reader, "1"):
            self._is_asking = True
            self._due_at = self._clock() + ASK_EVERY_S

    def _write(self, reader: Any, is_asked: str) -> bool:
        try:
            reader.eval(_SCRIPT, 1, self._key, self.nonce, is_asked)
        except (RedisError, OSError) as error:
            if not self._has_complained:
                self._has_complained = True
                log.error("sluicegate: a fresh state cannot be asked for (%s): trying again", error)
            return False
        return True
