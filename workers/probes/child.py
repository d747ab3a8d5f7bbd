"""The process that looks: `python -m sluicegate.workers.probes.child SETTINGS`, which a worker starts.

A process of its own, since no driver's library can be forked, and one that hangs must hang nobody else. It writes its
readings as lines of JSON, and obeys lines: `let_go`, `take_up`. It ends with its input, on SIGTERM, and where its
worker is gone. It imports little, and nothing of Celery.
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sluicegate.schemas.health.readings import Readings
from sluicegate.schemas.health.wire import to_wire
from sluicegate.workers.probes.history import History
from sluicegate.workers.probes.host import boot_id
from sluicegate.workers.probes.kin import Kin
from sluicegate.workers.probes.looks import REOPEN_S, Looks
from sluicegate.workers.probes.nvml import Nvml
from sluicegate.workers.probes.vendor import Calls

_WAIT_S = 0.5
_CHECK_S = 0.5
_END_S = 2.0


@dataclass(frozen=True, slots=True)
class Looking:
    """What looks, put together from a worker's settings."""

    looks: Looks
    calls: Calls
    kin: Kin

    @classmethod
    def of(cls, said: Mapping[str, Any], pid: int, tell: Callable[[Readings], None]) -> Looking:
        """`said`: `ProbeSettings.spelled`. `pid` is the worker's."""
        calls = Calls(said["timeout_s"])
        history = History(Path(said["history"]), boot_id(), str(pid))
        kin = Kin(Path(said["runtime"]), pid)
        vendor = Nvml(calls, history.uuids.get)
        looks = Looks(
            vendor, calls, environ=os.environ, history=history, kin=kin, expected=said.get("expected"), tell=tell
        )
        return cls(looks, calls, kin)


class Child:
    """The three threads of a probe: this one hears its worker, one looks, one waits for faults."""

    def __init__(self, said: Mapping[str, Any], out: int) -> None:
        self._out = out
        self._worker = os.getppid()
        self._interval_s: float = said["interval_s"]
        looking = Looking.of(said, self._worker, self._tell)
        self._looks, self._calls, self._kin = looking.looks, looking.calls, looking.kin
        self._due = threading.Event()
        self._is_ending = False
        self._is_let_go = False

    def run(self) -> None:
        """Until the worker wants it no more."""
        if complaint := self._kin.note():
            self._looks.notes = (complaint,)
        looking = threading.Thread(target=self._look, daemon=True)
        looking.start()
        threading.Thread(target=self._wait_for_faults, daemon=True).start()
        self._hear()
        self.end()
        self._kin.leave()
        # The driver is closed in order, unless it is what hangs.
        looking.join(_END_S)

    def end(self) -> None:
        """From any thread, and from a signal's handler."""
        self._is_ending = True
        self._due.set()

    def _look(self) -> None:
        brief_at = 0.0
        is_first = True
        while not self._is_ending:
            began = time.monotonic()
            self._due.clear()
            if not self._is_let_go:
                self._looks.look()
                brief_at = 0.0
            elif began >= brief_at:
                self._looks.look(is_brief=True)
                brief_at = time.monotonic() + REOPEN_S
            else:
                self._looks.look_elsewhere()
            if is_first:
                is_first = False
                _give_memory_back()
            self._due.wait(max(0.0, self._interval_s - (time.monotonic() - began)))
        self._looks.close()

    def _wait_for_faults(self) -> None:
        while not self._is_ending:
            if self._looks.take_faults(_WAIT_S):
                self._due.set()

    def _hear(self) -> None:
        """Hears the worker, and says what is stuck meanwhile; returns when this process should end."""
        said_at = 0.0
        heard = b""
        while os.getppid() == self._worker and not self._is_ending:
            if select.select([0], [], [], _CHECK_S)[0]:
                some = os.read(0, 4096)
                if not some:
                    return
                *lines, heard = (heard + some).split(b"\n")
                for line in lines:
                    self._obey(line.decode(errors="replace"))
            stuck = self._calls.stuck()
            if stuck and time.monotonic() - said_at >= self._interval_s:
                said_at = time.monotonic()
                self._looks.stuck(stuck[0])

    def _obey(self, line: str) -> None:
        if line in ("let_go", "take_up"):
            self._is_let_go = line == "let_go"
            self._due.set()

    def _tell(self, readings: Readings) -> None:
        line = json.dumps(to_wire(readings), separators=(",", ":")).encode() + b"\n"
        try:
            while line:
                line = line[os.write(self._out, line) :]
        except OSError:
            # The worker is gone, or hears nothing any more.
            os._exit(0)


def _give_memory_back() -> None:
    """What importing took, where modules were compiled for it: a third of this process. glibc alone has the call."""
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)


def main() -> None:
    """Run it. Ctrl-C of a terminal is for the worker."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # A library may print: what it says is no line of ours.
    out = os.dup(1)
    os.dup2(2, 1)
    child = Child(json.loads(sys.argv[1]), out)
    signal.signal(signal.SIGTERM, lambda *_: child.end())
    child.run()
    # Not by the interpreter's own end, which would wait for a thread that hangs in a driver.
    os._exit(0)


if __name__ == "__main__":
    main()
