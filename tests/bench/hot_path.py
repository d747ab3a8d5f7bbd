"""What a no-op task costs in Redis commands and Postgres writes, with the plugin and without.

A worker sends commands because a task came, and because time passed (beats, polls, keep-alives). The second kind is
counted while it idles and taken off. Commands are read from Valkey's own MONITOR, and every connection counts that is
not the control plane's or this process's: nobody has to know which ones the worker has. In Postgres every transaction
that writes, whoever makes it, takes a number: they are counted without a delay, which the statistics views have.
"""

from __future__ import annotations

import os
import re
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

import psutil
import psycopg
import redis

from sluicegate.control.process.stack import Stack
from tests.bench.throughput import Load, wait_open
from tests.fleet.harness import Fleet
from tests.fleet.waiting import until

TASKS = 2_000
IDLE_S = 4.0
WARM_UP = 50
PER_TASK = 0.01
"""From here on it is the tasks' doing: what passing time costs is not taken off more exactly than that."""

POSTGRES = "(Postgres)"
LOOK_EVERY_S = 0.02
"""Nothing is timed here: to look seldom leaves the processor to the worker."""
_LINE = re.compile(rb'^\+?\d+\.\d+ \[\d+ ([^\]]+)\] "((?:[^"\\]|\\.)*)"', re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """Of one task, what passing time explains taken off. `writes`: Postgres transactions that wrote something."""

    commands: dict[str, float]
    writes: float

    @property
    def command_count(self) -> float:
        """All commands."""
        return sum(self.commands.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class Count:
    """What was counted in a span of time."""

    seconds: float
    commands: Counter[str]
    writes: int


def cost(idle: Count, busy: Count, tasks: int) -> Cost:
    """What the tasks of `busy` explain, one by one: passing time costs what it costs in `idle`."""
    share = busy.seconds / idle.seconds
    names = busy.commands.keys() | idle.commands.keys()
    return Cost(
        commands={name: (busy.commands[name] - share * idle.commands[name]) / tasks for name in sorted(names)},
        writes=(busy.writes - share * idle.writes) / tasks,
    )


def excess(ours: Cost, plain: Cost) -> dict[str, float]:
    """What a task costs more than in plain Celery, by the command's name; empty where it costs nothing more.

    Name by name, or a command that is saved would make up for one that is added.
    """
    more = {name: times - plain.commands.get(name, 0.0) for name, times in ours.commands.items()}
    more[POSTGRES] = ours.writes - plain.writes
    return {name: times for name, times in more.items() if times >= PER_TASK}


def measure(fleet: Fleet, *, tasks: int = TASKS, idle_s: float = IDLE_S) -> Cost:
    """Of a running, open worker of `fleet`, the only one on its stack."""
    Load(fleet, WARM_UP).run(look_every_s=LOOK_EVERY_S)
    load = Load(fleet, tasks)
    with Monitor(fleet.stack) as monitor:
        idle = _counted(fleet.stack, monitor, lambda: time.sleep(idle_s))
        busy = _counted(fleet.stack, monitor, lambda: load.run(look_every_s=LOOK_EVERY_S))
    return cost(idle, busy, tasks)


def measure_both(stack: Stack, *, tasks: int = TASKS, idle_s: float = IDLE_S) -> tuple[Cost, Cost]:
    """With the plugin, and without; one after the other."""
    found = []
    for plugin in (True, False):
        with Fleet(stack, plugin=plugin, host="hot") as fleet:
            fleet.start(slots=2)
            wait_open(fleet)
            found.append(measure(fleet, tasks=tasks, idle_s=idle_s))
    return found[0], found[1]


class Monitor:
    """Valkey's MONITOR: every command of every connection, as Valkey takes it. A context manager."""

    def __init__(self, stack: Stack) -> None:
        place = urlsplit(stack.valkey.url)
        self._stack = stack
        self._link = socket.create_connection((place.hostname, place.port), timeout=5)
        self._said = bytearray()
        self._thread = threading.Thread(target=self._listen, name="monitor", daemon=True)
        self._marker = redis.Redis.from_url(stack.valkey.url)
        self._others: set[bytes] = set()

    def __enter__(self) -> Self:
        self._link.sendall(b"MONITOR\r\n")
        self._link.settimeout(None)
        self._thread.start()
        until("Valkey monitors", lambda: self._said.startswith(b"+OK"))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._link.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._link.close()
        self._marker.close()

    def _listen(self) -> None:
        while received := self._link.recv(1 << 16):
            self._said += received

    def place(self) -> int:
        """Where the stream stands, all that came before taken in."""
        mark = f"mark-{time.monotonic_ns()}"
        self._marker.echo(mark)
        self._others |= _addresses(os.getpid(), self._stack.control_pid)
        return until("the mark is there", lambda: 1 + self._said.find(mark.encode()))

    def count(self, start: int, end: int) -> Counter[str]:
        """The workers' commands between two places; what a script does within itself counts as the one that it is."""
        lines = _LINE.findall(bytes(self._said[start:end]))
        return Counter(
            name.decode().upper() for address, name in lines if address != b"lua" and address not in self._others
        )


def _addresses(*pids: int) -> set[bytes]:
    connections = (c for pid in pids for c in psutil.Process(pid).net_connections(kind="tcp"))
    return {"{}:{}".format(*connection.laddr).encode() for connection in connections}


def _counted(stack: Stack, monitor: Monitor, act: Callable[[], object]) -> Count:
    """All that happened while `act` did something."""
    before, start, began = _writes(stack), monitor.place(), time.monotonic()
    act()
    seconds, end, after = time.monotonic() - began, monitor.place(), _writes(stack)
    return Count(seconds=seconds, commands=monitor.count(start, end), writes=after - before)


def _writes(stack: Stack) -> int:
    """How many transactions that write have begun, ever."""
    with psycopg.connect(stack.postgres.url) as connection:
        row = connection.execute("SELECT pg_snapshot_xmax(pg_current_snapshot())::text").fetchone()
    assert row is not None
    return int(row[0])
