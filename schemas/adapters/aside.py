"""What is set aside on a Redis broker while its task is held: where it lies, and what is done to it, for both halves.

A held task of a queue that goes on waits in a list beside the list that it came from, the newest at the left, as in the
queue. A tally beside it says how many of each task wait there, so that nobody has to read the list to find that all of
it is still held. `docs/decisions/0033-set-aside.md` says why there, and not in the queue.

`client` is any client of redis-py's. All goes by `EVAL`, on which kombu's client with a `global_keyprefix` puts none.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

_ASIDE = "sluicegate.aside:"
_TALLY = "sluicegate.aside-tally:"
_PRIORITY = "\x06\x16"
TASK = "sluicegate_task"
"""The key of a message that is set aside under which its task stands, where its headers do not say it (protocol 1)."""


def aside_key(key: str) -> str:
    """Where the held tasks of the list `key` wait; the list's own name stands at the end, prefix and priority too.

    With a dot: what begins with `sluicegate:` is the pause state of some namespace.
    """
    return _ASIDE + key


def tally_key(key: str) -> str:
    """The hash that says how many of each task are set aside of the list `key`."""
    return _TALLY + key


def lists_of(queue: str) -> list[str]:
    """Every list that kombu may keep this queue in: one for each priority from 0 to 9, whichever steps it has."""
    return [queue, *(f"{queue}{_PRIORITY}{priority}" for priority in range(1, 10))]


def queue_of(key: str) -> str:
    """The queue that the list `key` belongs to, with its prefix."""
    queue, is_there, priority = key.rpartition(_PRIORITY)
    return queue if is_there and priority.isdigit() else key


def with_task(payload: str, task: str) -> str:
    """The message with its task said in front, where a script finds it without knowing how the body is coded.

    kombu and Celery pass over what they do not know, so that a worker which has no idea of this can have it too.
    """
    mark = f'{{"{TASK}": '
    return payload if payload.startswith(mark) else f"{mark}{json.dumps(task)}, {payload[1:]}"


# A tally that does not fit its list (an older worker keeps none) is made anew; where its user may not have it, it is
# done without.
#   KEYS[1] list aside, KEYS[2] the queue's list; ARGV[1] the tally, and the names of the tasks that are still held
_HAND_BACK = """
local length = redis.call('LLEN', KEYS[1])
if length == 0 then redis.pcall('DEL', ARGV[1]) return 0 end
local held = {}
for i = 2, #ARGV do held[ARGV[i]] = true end
local tally = redis.pcall('HGETALL', ARGV[1])
local told, is_all_held = 0, true
for i = 1, #tally, 2 do
  told = told + tonumber(tally[i + 1])
  if not held[tally[i]] then is_all_held = false end
end
if told == length and is_all_held then return 0 end

local function task_of(entry)
  local is_read, message = pcall(cjson.decode, entry)
  if not is_read or type(message) ~= 'table' then return '' end
  local headers = type(message['headers']) == 'table' and message['headers'] or {}
  local task = message['sluicegate_task'] or headers['task']
  return type(task) == 'string' and task or ''
end

local entries = redis.call('LRANGE', KEYS[1], 0, -1)
local kept, counts = {}, {}
for i = 1, #entries do
  local entry = entries[i]
  local _, at, task = string.find(entry, '^{"sluicegate_task": "([^"\\\\]*)", ')
  task = task or task_of(entry)
  if held[task] then
    kept[#kept + 1] = entry
    counts[task] = (counts[task] or 0) + 1
  else
    redis.call('RPUSH', KEYS[2], at and '{' .. string.sub(entry, at + 1) or entry)
  end
end
if #kept < #entries then
  redis.call('DEL', KEYS[1])
  for i = 1, #kept do redis.call('RPUSH', KEYS[1], kept[i]) end
end
redis.pcall('DEL', ARGV[1])
for task, count in pairs(counts) do redis.pcall('HSET', ARGV[1], task, count) end
return #entries - #kept
"""
#   KEYS: lists; how long each is
_LENGTHS = """
local lengths = {}
for i = 1, #KEYS do lengths[i] = redis.call('LLEN', KEYS[i]) end
return lengths
"""
#   KEYS: lists aside; ARGV: their tallies
_PURGE = """
local length = 0
for i = 1, #KEYS do
  length = length + redis.call('LLEN', KEYS[i])
  redis.call('DEL', KEYS[i])
  redis.pcall('DEL', ARGV[i])
end
return length
"""


def count(client: Any, lists: Sequence[str]) -> dict[str, int]:
    """How many messages are set aside of each of these lists; one command for all."""
    if not lists:
        return {}
    lengths = client.execute_command("EVAL", _LENGTHS, len(lists), *map(aside_key, lists))
    return dict(zip(lists, map(int, lengths), strict=True))


def count_by_queue(client: Any, queues: Iterable[str], prefix: str = "") -> dict[str, int]:
    """How many messages are set aside of each queue, all priorities. `prefix`: Celery's `global_keyprefix`."""
    lists = {queue: [prefix + name for name in lists_of(queue)] for queue in queues}
    lengths = count(client, [key for keys in lists.values() for key in keys])
    return {queue: sum(lengths[key] for key in keys) for queue, keys in lists.items()}


def hand_back(client: Any, lists: Sequence[str], held: Collection[str] = ()) -> dict[str, int]:
    """Hand what is set aside of these lists back to their heads, in its order, but for the tasks named in `held`.

    How many went back to each list that had any; a list in one step.
    """
    filled = [key for key, length in count(client, lists).items() if length]
    names = sorted(held)
    moved = {
        key: int(client.execute_command("EVAL", _HAND_BACK, 2, aside_key(key), key, tally_key(key), *names))
        for key in filled
    }
    return {key: number for key, number in moved.items() if number}


def purge(client: Any, lists: Sequence[str]) -> int:
    """Throw away what is set aside of these lists; how many messages that were."""
    keys = (*map(aside_key, lists), *map(tally_key, lists))
    return int(client.execute_command("EVAL", _PURGE, len(lists), *keys))


def find_lists(client: Any) -> list[str]:
    """Every list of this database of which something is set aside, by looking through all keys."""
    found = (key.decode() for key in client.scan_iter(match=f"{_ASIDE}*", count=1000, _type="list"))
    return sorted(key.removeprefix(_ASIDE) for key in found)


def by_queue(counted: Mapping[str, int]) -> dict[str, int]:
    """The same numbers, all lists of a queue together."""
    found: dict[str, int] = {}
    for key, number in counted.items():
        found[queue_of(key)] = found.get(queue_of(key), 0) + number
    return found
