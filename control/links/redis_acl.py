"""What each user of a Redis or Valkey needs, as rules for ACL SETUSER; docs/security.md tells which is whose.

Everything is denied but what is named here. The rules part reading from writing a key (`%R~`), which Redis 7 and
Valkey 7.2 were the first to do. Key rules say nothing of databases: a user may use its keys in each of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from sluicegate.schemas.adapters.aside import aside_key, tally_key
from sluicegate.schemas.errors import InvalidInput
from sluicegate.schemas.names import beat_key, beats_key, costs_key, cursor_key, hint_channel, snapshot_key

WORKER: Final = "sluicegate-worker"
CONTROL: Final = "sluicegate-control"
BROKER: Final = "celery-broker"

_NOTHING: Final = ("resetkeys", "resetchannels", "-@all")
_CONNECT: Final = ("+auth", "+hello", "+select", "+ping", "+client|setname", "+client|setinfo")
_QUEUE = re.compile(r"[^\s*?\[\]\\]+")


def worker_rules(namespace: str) -> tuple[str, ...]:
    """Of SLUICEGATE_REDIS_URL in a worker: reads the state, hears hints, beats, keeps its tasks' cursors, tells costs.

    `eval` is how it beats. A script is held to the same rules as a command.
    """
    commands = ("+get", "+getrange", "+subscribe", "+unsubscribe", "+eval", "+time", "+set", "+zadd", "+del", "+xadd")
    written = (beat_key(namespace, "*"), beats_key(namespace), cursor_key(namespace, "*"))
    told = costs_key(namespace)
    keys = (f"%R~{snapshot_key(namespace)}", *(f"~{key}" for key in written), f"%W~{told}")
    return (*_NOTHING, *_CONNECT, *commands, *keys, f"&{hint_channel(namespace)}")


def control_rules(namespace: str) -> tuple[str, ...]:
    """Of SLUICEGATE_REDIS_URL in the control plane: publishes, reads heartbeats, mends their index, takes costs."""
    scripts = ("+eval", "+evalsha", "+script|load")
    commands = (
        "+type",
        "+strlen",
        "+get",
        "+set",
        "+publish",
        "+time",
        "+zrange",
        "+zcard",
        "+zmscore",
        "+mget",
        "+del",
        "+xrange",
        "+xdel",
    )
    keys = (
        f"~{snapshot_key(namespace)}",
        f"%R~{beat_key(namespace, '*')}",
        f"~{beats_key(namespace)}",
        f"~{costs_key(namespace)}",
    )
    return (*_NOTHING, *_CONNECT, *scripts, *commands, *keys, f"&{hint_channel(namespace)}")


def broker_rules(queues: Iterable[str], database: int = 0) -> tuple[str, ...]:
    """Of the Celery broker's URL, for workers, senders and the control plane alike; `queues` by name.

    `database` is the number in that URL. Raises InvalidInput for a queue whose name is a pattern, or one of our keys.
    """
    lists = ("+lpush", "+rpush", "+brpop", "+rpop", "+llen", "+lpos", "+lrange")
    unacked = ("+hset", "+hget", "+hmget", "+hdel", "+zadd", "+zrem", "+zrange", "+zrangebyscore", "+zrevrangebyscore")
    tally = ("+hincrby", "+hgetall")
    bindings = ("+sadd", "+srem", "+smembers")
    others = (
        "+time",
        "+set",
        "+get",
        "+del",
        "+exists",
        "+pexpire",
        "+eval",
        "+evalsha",
        "+script|load",
        "+script|exists",
    )
    transactions = ("+multi", "+exec", "+discard", "+watch", "+unwatch")
    fanout = ("+publish", "+subscribe", "+unsubscribe", "+psubscribe", "+punsubscribe")
    commands = (*lists, *unacked, *tally, *bindings, *others, *transactions, *fanout)
    keys = [
        "~unacked",
        "~unacked_index",
        "~unacked_mutex",
        "~_kombu.*",
        "~*.celery.pidbox*",
        "~celeryev.*",
        "~sluicegate.stored:*",
    ]
    for queue in queues:
        if not _QUEUE.fullmatch(queue) or queue.startswith("sluicegate:"):
            raise InvalidInput("queue", f"{queue!r} cannot stand in a rule for keys")
        # The second is its lists of other priorities than 0: two control characters and a digit follow the name.
        # What is set aside of each, while some of its tasks are held, has a list of its own again, and a tally.
        places = ("", aside_key(""), tally_key(""))
        keys += [f"~{place}{queue}{priority}" for place in places for priority in ("", "??[0-9]")]
    # The first is for publishing; who subscribes to a pattern needs a rule that is that very pattern.
    patterns = ("*", "celery.pidbox", "celeryev/*", "celeryev/worker.*")
    return (*_NOTHING, *_CONNECT, *commands, *keys, *(f"&/{database}.{pattern}" for pattern in patterns))
