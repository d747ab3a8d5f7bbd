"""What a probe asks of a GPU vendor's driver, whichever it is (docs/gpu.md says how another is put in).

Its library is imported in `open` and not before: some raise whatever they like where there is no driver. Each call into
it goes through `Calls`, so that one that does not come back is seen from outside.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from sluicegate.schemas.health.readings import DriverState, GpuReading
from sluicegate.workers.probes.devices import Listed


class DriverTrouble(Exception):
    """The driver as a whole cannot be asked; `state` says in what way."""

    def __init__(self, state: DriverState, text: str) -> None:
        super().__init__(text)
        self.state = state


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault that the driver told of by itself; `code` None: something has changed, so look."""

    uuid: str | None
    code: int | None


class Vendor(Protocol):
    """All but `wait` is called from one thread; `wait` from another, never after `close` has begun."""

    def open(self) -> str | None:
        """Begin; the driver's version. Raises DriverTrouble."""

    def close(self) -> None:
        """End, and hold no device of the driver's open any more. Never raises."""

    def listed(self) -> Sequence[Listed]:
        """The devices that a program may be given, by index. Raises DriverTrouble."""

    def gpus(self) -> tuple[int, Mapping[int, str]]:
        """How many GPUs there are, and the UUIDs by index of those that tell it. As of the last `listed`."""

    def read(self, uuid: str) -> GpuReading:
        """A device of `listed`, but for what others know: its faults, whose its memory is. Raises DriverTrouble."""

    def body_of(self, uuid: str) -> str:
        """The GPU that a device is part of; itself, where it is a whole one."""

    def users(self, uuid: str) -> Mapping[int, int | None] | None:
        """Processes on a device, and the bytes that each has of it; None where that cannot be asked."""

    def watch(self, uuids: Sequence[str]) -> None:
        """From now on `wait` tells of the faults of these devices. Called again whenever they have changed."""

    def wait(self, timeout_s: float) -> Sequence[Fault]:
        """What has come; returns after `timeout_s` at the latest, and raises DriverTrouble where waiting fails."""


@dataclass(frozen=True, slots=True)
class Call:
    """One call that has not come back; `at` by the monotonic clock."""

    symbol: str
    uuid: str | None
    at: float
    most_s: float


class Calls:
    """The calls that are under way, one for each thread at most. Thread-safe."""

    def __init__(self, most_s: float) -> None:
        """A call that takes longer than `most_s`, or than it was given, is stuck."""
        self.most_s = most_s
        self._under_way: dict[int, Call] = {}

    def begin(self, symbol: str, uuid: str | None, most_s: float | None = None) -> None:
        """The calling thread is about to do it."""
        self._under_way[threading.get_ident()] = Call(symbol, uuid, time.monotonic(), most_s or self.most_s)

    def end(self) -> None:
        """It has come back."""
        self._under_way.pop(threading.get_ident(), None)

    def stuck(self) -> list[Call]:
        """Those that have taken too long, the oldest first."""
        now = time.monotonic()
        found = [call for call in list(self._under_way.values()) if now - call.at > call.most_s]
        return sorted(found, key=lambda call: call.at)
