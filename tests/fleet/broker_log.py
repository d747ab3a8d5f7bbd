"""What the broker itself has on disk of each task message: Valkey's append-only file, read and followed.

A message that a BRPOP has popped and no worker has put into `unacked` is nowhere: where the worker, the server or the
connection dies in that moment, kombu loses it, whatever is acknowledged when. MONITOR does not show all of those: what
a server has written and is killed before it answers stands in its file, and nobody was told.

The file holds each command that changed something, as the protocol of Redis spells it. A BRPOP stands there as an RPOP,
and a script as the commands in it.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.fleet.broker import UNACKED

_ID = re.compile(rb'"id": "([0-9a-f-]{36})')
_FILES = re.compile(r"file (\S+) seq \d+ .*type i")
_NOT_FOLLOWED = frozenset(
    b"COPY LINSERT LMOVE LPUSHX LREM LSET LTRIM MOVE RENAME RENAMENX RESTORE RPOPLPUSH RPUSHX SORT SWAPDB".split()
)


class BrokerLog:
    """The file of the server with its data in `directory`, from now on.

    Lists that had something in them before are not known: ask about queues that are younger than this. Databases are
    not told apart: no two of them may have a queue of one name, and none be flushed while the other is in use.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory / "appendonlydir"
        newest = self._paths()[-1]
        self._begin = newest, newest.stat().st_size
        self._kills: list[int] = []

    def configure(self, client: Any) -> None:
        """Have the server rewrite nothing: that would tell no story. Again after each of its starts."""
        client.execute_command("CONFIG", "SET", "auto-aof-rewrite-percentage", "0")

    def release(self, client: Any) -> None:
        """As the server was before `configure`."""
        client.execute_command("CONFIG", "SET", "auto-aof-rewrite-percentage", "100")

    def note_kill(self) -> None:
        """The server, and then before its next start, or one of its clients has just been killed."""
        self._kills.append(len(self._commands()))

    def popped_last(self) -> dict[str, tuple[int, int] | None]:
        """By task id, each message that was popped from a list, and of which nothing else is known since.

        The number of the next kill that was noted, from 0, and how many commands were written between the pop and
        that kill; None where none was noted.
        """
        lists: dict[bytes, list[bytes]] = defaultdict(list)
        popped: dict[str | None, int] = {}
        for number, (name, *rest) in enumerate(self._commands()):
            match name.upper(), rest:
                case (b"LPUSH" | b"RPUSH") as push, [key, *messages]:
                    for message in messages:
                        lists[key].insert(0 if push == b"LPUSH" else len(lists[key]), message)
                        popped.pop(_task(message), None)
                case (b"LPOP" | b"RPOP") as pop, [key, *count]:
                    for _ in range(int(count[0]) if count else 1):
                        if lists[key]:
                            popped[_task(lists[key].pop(0 if pop == b"LPOP" else -1))] = number
                case b"HSET", [key, *pairs] if key.endswith(UNACKED.encode()):
                    for entry in pairs[1::2]:
                        popped.pop(_task(entry), None)
                case ((b"DEL" | b"UNLINK"), keys):
                    for key in keys:
                        lists.pop(key, None)
                case ((b"FLUSHDB" | b"FLUSHALL"), _):
                    lists.clear()
                case other, _ if other in _NOT_FOLLOWED:
                    raise AssertionError(f"{other!r} changes lists, and is not followed")
        return {task: self._next_kill(number) for task, number in popped.items() if task is not None}

    def _next_kill(self, number: int) -> tuple[int, int] | None:
        return next(((at, kill - number - 1) for at, kill in enumerate(self._kills) if kill > number), None)

    def _paths(self) -> list[Path]:
        (manifest,) = self._directory.glob("*.manifest")
        return [self._directory / name for name in _FILES.findall(manifest.read_text())]

    def _commands(self) -> list[list[bytes]]:
        """What the server has, and has after its next start: without a transaction that was not completed."""
        path, at = self._begin
        paths = self._paths()
        later = paths[paths.index(path) + 1 :]
        commands = [*_parsed(path.read_bytes()[at:] + b"".join(path.read_bytes() for path in later))]
        begun = max((n for n, words in enumerate(commands) if words == [b"MULTI"]), default=-1)
        is_complete = begun < 0 or [b"EXEC"] in commands[begun:]
        return commands if is_complete else commands[:begun]


def _parsed(data: bytes) -> Iterator[list[bytes]]:
    at = 0
    while (end := data.find(b"\r\n", at)) >= 0:
        head, at = data[at:end], end + 2
        if not head.startswith(b"*"):
            continue
        words = []
        for _ in range(int(head[1:])):
            end = data.find(b"\r\n", at)
            length = int(data[at + 1 : end]) if end >= 0 else 0
            words.append(data[end + 2 : end + 2 + length])
            at = end + 2 + length + 2
            if end < 0 or at > len(data):
                # The server is, or was, in the middle of it.
                return
        yield words


def _task(message: bytes) -> str | None:
    """The id of the task that a message, or an entry of `unacked`, is of."""
    found = _ID.search(message.replace(b"\\", b""))
    return found[1].decode() if found else None
