"""What the broker itself has on disk of each task message: Valkey's append-only file, read and followed.

A message that a BRPOP has popped and no worker has put into `unacked` is nowhere: where the worker, the server or the
connection dies in that moment, kombu loses it, whatever is acknowledged when. MONITOR does not show all of those: what
a server has written and is killed before it answers stands in its file, and nobody was told.

The file holds each command that changed something, as the protocol of Redis spells it, and with `aof-timestamp-enabled`
a line `#TS:SECONDS` where a new second begins. A BRPOP stands there as an RPOP, and a script as the commands in it.
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
_OTHER_LIST_COMMANDS = {b"LREM", b"LTRIM", b"LSET", b"LINSERT", b"LMOVE", b"RPOPLPUSH", b"RENAME", b"COPY", b"RESTORE"}


class BrokerLog:
    """The file of the server with its data in `directory`, from now on.

    Lists that had something in them before are not known: ask about queues that are younger than this.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory / "appendonlydir"
        newest = self._paths()[-1]
        self._begin = newest, newest.stat().st_size

    def keep(self, client: Any) -> None:
        """Have the server write the times down, and rewrite nothing; again after each of its starts."""
        client.execute_command("CONFIG", "SET", "aof-timestamp-enabled", "yes", "auto-aof-rewrite-percentage", "0")

    def popped_last(self) -> dict[str, int]:
        """Of each message that was popped from a list, and of which nothing else is known since: when, in seconds.

        The second in which it was popped; Unix time.
        """
        lists: dict[bytes, list[bytes]] = defaultdict(list)
        tasks: dict[bytes, str] = {}
        popped: dict[str, int] = {}
        now = 0
        for words in self._commands():
            if isinstance(words, int):
                now = words
                continue
            name, *rest = words
            match name.upper(), rest:
                case (b"LPUSH" | b"RPUSH") as push, [key, *messages]:
                    for message in messages:
                        lists[key].insert(0 if push == b"LPUSH" else len(lists[key]), message)
                        popped.pop(_task(message), None)
                case (b"LPOP" | b"RPOP") as pop, [key, *count]:
                    for _ in range(int(count[0]) if count else 1):
                        if lists[key]:
                            popped[_task(lists[key].pop(0 if pop == b"LPOP" else -1))] = now
                case b"HSET", [key, *pairs] if key.endswith(UNACKED.encode()):
                    for tag, entry in zip(pairs[::2], pairs[1::2], strict=True):
                        tasks[tag] = _task(entry)
                        popped.pop(tasks[tag], None)
                case ((b"DEL" | b"UNLINK"), keys):
                    for key in keys:
                        lists.pop(key, None)
                case ((b"FLUSHDB" | b"FLUSHALL"), _):
                    lists.clear()
                case other, _ if other in _OTHER_LIST_COMMANDS:
                    raise AssertionError(f"{other!r} changes lists, and is not followed")
        return popped

    def _paths(self) -> list[Path]:
        (manifest,) = self._directory.glob("*.manifest")
        return [self._directory / name for name in _FILES.findall(manifest.read_text())]

    def _commands(self) -> Iterator[list[bytes] | int]:
        """Each command, in words; and the time, in seconds, of those that follow."""
        path, at = self._begin
        paths = self._paths()
        data = path.read_bytes()[at:] + b"".join(later.read_bytes() for later in paths[paths.index(path) + 1 :])
        at = 0
        while (end := data.find(b"\r\n", at)) >= 0:
            head, at = data[at:end], end + 2
            if head.startswith(b"#TS:"):
                yield int(head[4:])
            if not head.startswith(b"*"):
                continue
            words = []
            for _ in range(int(head[1:])):
                end = data.find(b"\r\n", at)
                length = int(data[at + 1 : end]) if end >= 0 else 0
                words.append(data[end + 2 : end + 2 + length])
                at = end + 2 + length + 2
                if end < 0 or at > len(data):
                    # A server that runs is in the middle of it.
                    return
            yield words


def _task(message: bytes) -> str:
    """The id of the task that a message, or an entry of `unacked`, is of; empty where it is of none."""
    found = _ID.search(message.replace(b"\\", b""))
    return found[1].decode() if found else ""
