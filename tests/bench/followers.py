"""Many followers in one process, for `tests.bench.scale`: real ones, or bare subscribers for the reference.

    python -m tests.bench.followers COUNT REDIS_URL NAMESPACE PUBLIC_KEYS POLL_S REPUBLISH_S SHARING KIND

KIND is `real` (the follower's own code, but for its thread), `unchecked` (the same without the signature check) or
`bare` (a socket that has subscribed). SHARING followers read over one connection: a worker has one of its own, and only
where a machine allows no more open files is it more than 1. A line `VERSION` on stdin is answered, once all have it, by
one line of JSON: for each follower the time in microseconds at which it had this version, or for `bare` at which the
hint came.
"""

from __future__ import annotations

import json
import random
import selectors
import socket
import sys
import threading
import time
from collections import defaultdict, deque
from typing import Any
from urllib.parse import urlsplit

from sluicegate.schemas.adapters.redis_client import connect
from sluicegate.schemas.adapters.trusted_keys import TrustedKeys
from sluicegate.schemas.names import hint_channel, snapshot_key
from sluicegate.schemas.public_keys import parse_public_keys
from sluicegate.schemas.redis_urls import Server
from sluicegate.schemas.scopes import Subject
from sluicegate.schemas.snapshots import NOTHING, Snapshot
from sluicegate.workers.cell import Cell
from sluicegate.workers.follower import Follower, Pace
from sluicegate.workers.gate import Gate

WITHIN_S = 60.0


class Unchecked:
    """Takes every signature: what the check costs is the difference."""

    def verify(self, kid: str, payload: bytes, signature: bytes) -> bool:
        return True


class Board:
    """When each of `count` followers had which version. Who asks is woken once, when the last of them has it."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._at_us: dict[int, dict[int, int]] = defaultdict(dict)
        self._changed = threading.Condition()

    def note(self, number: int, version: int) -> None:
        at_us = self._at_us[version]
        at_us[number] = time.time_ns() // 1000
        if len(at_us) == self._count:
            with self._changed:
                self._changed.notify()

    def wait_for(self, version: int) -> list[int]:
        at_us = self._at_us[version]
        with self._changed:
            self._changed.wait_for(lambda: len(at_us) == self._count, WITHIN_S)
        if len(at_us) < self._count:
            raise SystemExit(f"{self._count - len(at_us)} of {self._count} have not got version {version}")
        return [at_us[number] for number in range(self._count)]


class Line:
    """A connection over which followers read the state; answers come in the order of the questions."""

    def __init__(self, place: tuple[str, int], namespace: str) -> None:
        self.sock = socket.create_connection(place)
        self._get = f"GET {snapshot_key(namespace)}\r\n".encode()
        self._askers: deque[Follower] = deque()
        self._answer = b""

    def read(self, follower: Follower) -> None:
        self._askers.append(follower)
        self.sock.sendall(self._get)

    def on_answer(self) -> None:
        self._answer += self.sock.recv(65536)
        while self._answer:
            head, sep, rest = self._answer.partition(b"\r\n")
            if not sep:
                return
            length = int(head[1:])
            if length < 0:
                self._askers.popleft()
                self._answer = rest
                continue
            if len(rest) < length + 2:
                return
            envelope, self._answer = rest[:length], rest[length + 2 :]
            self._askers.popleft().observe(envelope, time.monotonic())


class Wire:
    """One follower on real sockets: a subscription, and a connection for reading the state.

    What it does with what it reads is the workers' own `Follower.observe`: signature, fence, gate. Only the thread is
    missing: a thousand of them in one interpreter would measure how they wait for each other, which no fleet does.
    """

    def __init__(
        self, board: Board, number: int, place: tuple[str, int], line: Line, namespace: str, keys: Any, pace: Pace
    ) -> None:
        gate: Gate[None] = Gate(Cell(), Subject(), wake=lambda: None, on_applied=lambda: None)

        def take(snapshot: Snapshot) -> None:
            gate.put_in_force(snapshot)
            board.note(number, snapshot.edition.version)

        self.follower = Follower(
            namespace=namespace,
            keys=keys,
            pace=pace,
            connect=lambda: connect(Server(host=place[0], port=place[1])),
            fence=NOTHING,
            on_state=take,
            on_stale=gate.hold_locally,
        )
        self.hints = socket.create_connection(place)
        self.hints.sendall(f"SUBSCRIBE {hint_channel(namespace)}\r\n".encode())
        self._line = line
        self.next_poll = time.monotonic() + pace.poll_s * random.random()
        self._poll_s = pace.poll_s

    def on_hint(self) -> None:
        said = self.hints.recv(4096)
        start = said.rfind(b'{"epoch"')
        hint = said[start : said.find(b"}", start) + 1]
        if start < 0 or not self.follower.knows(hint):
            self.read()

    def read(self) -> None:
        self.next_poll = time.monotonic() + self._poll_s * random.uniform(0.8, 1.2)
        self._line.read(self.follower)


def follow(board: Board, count: int, url: str, namespace: str, keys: Any, pace: Pace, sharing: int) -> None:
    """`count` followers, `sharing` to a connection, and one loop that serves their sockets."""
    parts = urlsplit(url)
    place = (parts.hostname or "127.0.0.1", parts.port or 6379)
    lines = [Line(place, namespace) for _ in range(-(-count // sharing))]
    wires = [Wire(board, number, place, lines[number // sharing], namespace, keys, pace) for number in range(count)]
    selector = selectors.DefaultSelector()
    for line in lines:
        selector.register(line.sock, selectors.EVENT_READ, line.on_answer)
    for wire in wires:
        selector.register(wire.hints, selectors.EVENT_READ, wire.on_hint)
        wire.read()

    def serve() -> None:
        looked = time.monotonic()
        while True:
            for key, _ in selector.select(0.05):
                key.data()
            now = time.monotonic()
            if now - looked >= 0.05:
                looked = now
                for wire in wires:
                    if wire.next_poll <= now:
                        wire.read()

    threading.Thread(target=serve, daemon=True).start()


def listen(board: Board, count: int, url: str, namespace: str) -> None:
    """Sockets that have subscribed, and one loop that reads them."""
    place = urlsplit(url)
    selector = selectors.DefaultSelector()
    order = f"SUBSCRIBE {hint_channel(namespace)}\r\n".encode()
    for number in range(count):
        link = socket.create_connection((place.hostname or "127.0.0.1", place.port or 6379))
        link.sendall(order)
        selector.register(link, selectors.EVENT_READ, number)

    def read() -> None:
        while True:
            for key, _ in selector.select():
                sock = key.fileobj
                assert isinstance(sock, socket.socket)
                at = sock.recv(4096)
                # The reply to SUBSCRIBE comes first; a hint carries its version.
                start = at.rfind(b'"version":')
                if start >= 0:
                    board.note(key.data, int(at[start + 10 :].split(b",")[0]))

    threading.Thread(target=read, daemon=True).start()


def main() -> None:
    count, url, namespace, public, poll_s, republish_s, sharing, kind = sys.argv[1:]
    board = Board(int(count))
    if kind == "bare":
        listen(board, int(count), url, namespace)
    else:
        keys: Any = Unchecked() if kind == "unchecked" else TrustedKeys(parse_public_keys(public))
        pace = Pace(
            poll_s=float(poll_s),
            republish_s=float(republish_s),
            stale_after_s=3600,
            is_stale_closed=False,
            needs_fresh_boot=False,
        )
        follow(board, int(count), url, namespace, keys, pace, int(sharing))
    print("ready", flush=True)
    for line in sys.stdin:
        print(json.dumps(board.wait_for(int(line))), flush=True)


if __name__ == "__main__":
    main()
