"""What a worker owes to its broker: messages that were fetched, were not started, and must go back.

Values, and the scripts that hand them back to a Redis list in one step. No I/O here.
"""

from __future__ import annotations

from bisect import insort
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from uuid import uuid4

REMEMBERED = 100
"""How many of the newest messages that went back to a list keep their place known."""

# Hands messages back to the HEAD of their lists. BRPOP takes from the right, so the head is the right end, and
# they come newest first: the oldest ends in front. Dropping the tag and pushing are one step, and a tag that is
# no longer there was restored by someone else: pushing it too would run it twice. `force` is for messages whose
# tag cannot have been restored yet, so that its absence means that the broker lost its data.
#   KEYS[1] unacked, KEYS[2] unacked index; ARGV: tag, key, payload, force ("1" or ""), and so on
HAND_BACK = """
local handed_back = 0
for i = 1, #ARGV, 4 do
  local was_ours = redis.call('HDEL', KEYS[1], ARGV[i])
  redis.call('ZREM', KEYS[2], ARGV[i])
  if was_ours == 1 or ARGV[i + 3] == '1' then
    redis.call('RPUSH', ARGV[i + 1], ARGV[i + 2])
    handed_back = handed_back + 1
  end
end
return handed_back
"""

# A message that comes back after others of ours (a BRPOP delivered it late, a dying child had it) belongs right
# behind the newest of ours that was older, wherever that stands by now: other workers may have put theirs in
# front. Where none of ours is found near the head, they have been taken, and it goes to the head itself. As above,
# a tag that is gone means that it was done.
#   KEYS[1] unacked, KEYS[2] unacked index, KEYS[3] list
#   ARGV[1] tag, ARGV[2] payload, ARGV[3] how far to look, ARGV[4..] payloads of ours that were older, newest first
PUT_IN_PLACE = """
redis.call('ZREM', KEYS[2], ARGV[1])
if redis.call('HDEL', KEYS[1], ARGV[1]) == 0 then
  return 0
end
for i = 4, #ARGV do
  local at = redis.call('LPOS', KEYS[3], ARGV[i], 'RANK', -1, 'MAXLEN', ARGV[3])
  if at then
    local before = redis.call('RPOP', KEYS[3], redis.call('LLEN', KEYS[3]) - at)
    redis.call('RPUSH', KEYS[3], ARGV[2])
    for j = #before, 1, -1 do
      redis.call('RPUSH', KEYS[3], before[j])
    end
    return 1
  end
end
redis.call('RPUSH', KEYS[3], ARGV[2])
return 1
"""


# Puts a message where what was delivered and is not acknowledged stands. In one step: one that the hash has and the
# index by time has not would be given out again by nobody. Once: where only the answer was lost, it may have been given
# out again by the time of the next try.
#   KEYS[1] unacked, KEYS[2] unacked index, KEYS[3] of this debt alone; ARGV: tag, entry, time, seconds to remember it
STORE = """
if redis.call('SET', KEYS[3], '1', 'NX', 'EX', ARGV[4]) then
  redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
  redis.call('ZADD', KEYS[2], ARGV[3], ARGV[1])
end
"""
STORED_FOR_S = 86_400
"""How long it is remembered that a message was stored. A try that comes later may store it once more."""

# Makes messages look as if they had just been delivered, but for those that are there no more.
#   KEYS[1] unacked index; ARGV: time, and tags
KEEP = """
for i = 2, #ARGV do redis.call('ZADD', KEYS[1], 'XX', ARGV[1], ARGV[i]) end
"""

# A single task that is held, of a queue that is not, is set aside in a list beside the one it came from
# (`schemas.adapters.aside`). What may run again goes back to the head in one step, in its order, and whoever has
# newer orders does it: a list that is left behind by a worker that died is everybody's. Where the tally may not be
# written, nothing but time is lost.
#   KEYS[1] unacked, KEYS[2] unacked index, KEYS[3] list aside; ARGV: tag, payload, force as above, tally, task
SET_ASIDE = """
redis.call('ZREM', KEYS[2], ARGV[1])
if redis.call('HDEL', KEYS[1], ARGV[1]) == 0 and ARGV[3] ~= '1' then return 0 end
redis.call('LPUSH', KEYS[3], ARGV[2])
redis.pcall('HINCRBY', ARGV[4], ARGV[5], 1)
return 1
"""


def stored_key(prefix: str, debt: str) -> str:
    """Where it stands that the message of this debt was stored."""
    return f"sluicegate.stored:{prefix}{debt}"


def _name() -> str:
    """The same message may be owed again another time: each debt has a name of its own."""
    return str(uuid4())


class Arrival(NamedTuple):
    """Where a message came from, how many came before it, and when (monotonic seconds). One is made per message.

    `no_ack`: its queue is one without acknowledgements, and the broker forgot it as it gave it out.
    """

    queue: str
    serial: int
    at: float
    no_ack: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Owed:
    """A message that must go back: its delivery tag, the list it came from, and its place among the others.

    `is_sure`: it came on the connection that is still open, so that nobody but us can have restored it. `entry`: it
    was acknowledged, or needed not to be, and this is what must stand in `unacked` before it can go back. `task`: its
    name, where it is set aside.
    """

    tag: str
    key: str
    serial: int
    arrived_at: float
    payload: str
    is_sure: bool = True
    entry: str | None = None
    task: str = ""
    debt: str = field(default_factory=_name)


@dataclass(slots=True)
class Late:
    """A message that came after the hand-back. `is_stored`: it stands in `unacked`, so that a retry can tell."""

    queue: str
    raw: dict[str, Any]
    serial: int
    is_stored: bool = False
    debt: str = field(default_factory=_name)

    @property
    def tag(self) -> str:
        """Its delivery tag, unique to this delivery."""
        return str(self.raw["properties"]["delivery_tag"])


@dataclass(slots=True)
class HandedBack:
    """What was handed back to one list since the worker closed: all tags, and the newest with their place."""

    tags: set[str] = field(default_factory=set)
    newest: list[tuple[int, str]] = field(default_factory=list)

    def add(self, tag: str, serial: int, payload: str) -> None:
        """Remembers a message by its tag; of the payloads only the REMEMBERED newest, by their serial."""
        self.tags.add(tag)
        insort(self.newest, (serial, payload))
        del self.newest[:-REMEMBERED]

    def older_than(self, serial: int) -> list[str]:
        """The payloads that came before `serial`, newest first."""
        return [payload for other, payload in reversed(self.newest) if other < serial]
