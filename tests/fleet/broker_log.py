"""What the broker itself has on disk of each task message: Valkey's append-only file, read and followed.

A message that a BRPOP has popped and no worker has put into `unacked` is nowhere: where the worker, the server or the
connection dies in that moment, kombu loses it, whatever is acknowledged when. MONITOR does not show all of those: what
a server has written and is killed before it answers stands in its file, and nobody was told.

The file holds each command that changed something, as the protocol of Redis spells it, and with `aof-timestamp-enabled`
a line `#TS:SECONDS` where a new second begins. A BRPOP stands there as an RPOP, and a script as the commands in it.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.fleet.broker import UNACKED

_ID = re.compile(rb'"id": "([0-9a-f-]{36})')
_FILES = re.compile(r"file (\S+) seq \d+ .*type i")
_OTHER_LIST_COMMANDS = {b"LREM", b"LTRIM", b"LSET", b"LINSERT", b"LMOVE", b"RPOPLPUSH", b"RENAME", b"COPY", b"RESTORE"}


@dataclass(frozen=True, slots=True)
class Pop:
    """A message that was popped and of which nothing else is known since.

    `second`: Unix time, whole seconds. `before_end`: how many commands the server wrote after it until it was killed;
    None where it was not.
    """

    second: int
    before_end: int | None


@dataclass(frozen=True, slots=True)
class _Command:
    number: int
    at: int
    second: int
    words: list[bytes]


class BrokerLog:
    """The file of the server with its data in `directory`, from now on.

    Lists that had something in them before are not known: ask about queues that are younger than this.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory / "appendonlydir"
        newest = self._paths()[-1]
        self._begin = newest, newest.stat().st_size
        self._ends: list[int] = []

    def keep(self, client: Any) -> None:
        """Have the server write the times down, and rewrite nothing; again after each of its starts."""
        client.execute_command("CONFIG", "SET", "aof-timestamp-enabled", "yes", "auto-aof-rewrite-percentage", "0")

    def note_end(self) -> None:
        """The server has just been killed, and was not started again yet."""
        self._ends.append(len(self._read()))

    def popped_last(self) -> dict[str, Pop]:
        """By task id, each message that was popped from a list, and of which nothing else is known since."""
        lists: dict[bytes, list[bytes]] = defaultdict(list)
        popped: dict[str, _Command] = {}
        commands = list(self._commands())
        for command in commands:
            name, *rest = command.words
            match name.upper(), rest:
                case (b"LPUSH" | b"RPUSH") as push, [key, *messages]:
                    for message in messages:
                        lists[key].insert(0 if push == b"LPUSH" else len(lists[key]), message)
                        popped.pop(_task(message), None)
                case (b"LPOP" | b"RPOP") as pop, [key, *count]:
                    for _ in range(int(count[0]) if count else 1):
                        if lists[key]:
                            popped[_task(lists[key].pop(0 if pop == b"LPOP" else -1))] = command
                case b"HSET", [key, *pairs] if key.endswith(UNACKED.encode()):
                    for entry in pairs[1::2]:
                        popped.pop(_task(entry), None)
                case ((b"DEL" | b"UNLINK"), keys):
                    for key in keys:
                        lists.pop(key, None)
                case ((b"FLUSHDB" | b"FLUSHALL"), _):
                    lists.clear()
                case other, _ if other in _OTHER_LIST_COMMANDS:
                    raise AssertionError(f"{other!r} changes lists, and is not followed")
        starts = [command.at for command in commands]
        return {task: Pop(command.second, self._before_end(command, starts)) for task, command in popped.items()}

    def _before_end(self, command: _Command, starts: list[int]) -> int | None:
        end = next((end for end in self._ends if end > command.at), None)
        return None if end is None else bisect_left(starts, end) - command.number - 1

    def _paths(self) -> list[Path]:
        (manifest,) = self._directory.glob("*.manifest")
        return [self._directory / name for name in _FILES.findall(manifest.read_text())]

    def _read(self) -> bytes:
        path, at = self._begin
        paths = self._paths()
        return path.read_bytes()[at:] + b"".join(later.read_bytes() for later in paths[paths.index(path) + 1 :])

    def _commands(self) -> Iterator[_Command]:
        data = self._read()
        at = number = second = 0
        while (end := data.find(b"\r\n", at)) >= 0:
            begin, head, at = at, data[at:end], end + 2
            if head.startswith(b"#TS:"):
                second = int(head[4:])
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
            yield _Command(number, begin, second, words)
            number += 1


def _task(message: bytes) -> str:
    """The id of the task that a message, or an entry of `unacked`, is of; empty where it is of none."""
    found = _ID.search(message.replace(b"\\", b""))
    return found[1].decode() if found else ""
