"""The worker's side of its probe: starts the child process that looks, hears it, and starts another when it has died.

Never two at once: one that hangs in a driver is left alone, and never killed by force, which is known to freeze a GPU
until the host reboots. While it says nothing, the driver counts as unresponsive.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from sluicegate.schemas import settings
from sluicegate.schemas.errors import InvalidInput
from sluicegate.schemas.health.readings import DeviceState, DriverState, GpuReading, Readings
from sluicegate.schemas.health.resources import from_wire
from sluicegate.workers.log import logger

log = logger(__name__)

_POLL_S = 0.1
_RESTART_S = (1.0, 2.0, 5.0, 10.0, 30.0)
"""Between the end of one child and the next, one after another; from the first again after a minute of readings."""
_WELL_AFTER_S = 60.0
_FIRST_LINE_S = 90.0
"""Without persistence, opening a driver takes seconds for each GPU."""
_LONGEST_LINE = 1 << 20
_END_S = 4.0
"""What a child may take to close its driver."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeSettings:
    """What a probe is told. `timeout_s`: a call of a driver's that takes longer counts as hung."""

    is_on: bool
    interval_s: float
    timeout_s: float
    runtime: Path
    history: Path
    expected: int | None = None

    @classmethod
    def read(cls, environ: Mapping[str, str]) -> ProbeSettings:
        """Raises InvalidSetting."""
        namespace = settings.NAMESPACE.read(environ)
        return cls(
            is_on=settings.PROBE.read(environ) == "auto",
            interval_s=settings.PROBE_INTERVAL_MS.read(environ) / 1000,
            timeout_s=settings.PROBE_TIMEOUT_MS.read(environ) / 1000,
            runtime=(settings.RUNTIME_DIR.read_or_none(environ) or _runtime_dir(environ)) / namespace,
            history=settings.STATE_DIR.read(environ) / "probe" / "gpus.ndjson",
            expected=settings.EXPECTED_GPUS.read_or_none(environ),
        )

    def spelled(self) -> str:
        """For the child."""
        return json.dumps(
            {
                "interval_s": self.interval_s,
                "timeout_s": self.timeout_s,
                "runtime": str(self.runtime.absolute()),
                "history": str(self.history.absolute()),
                "expected": self.expected,
            }
        )


class Probe:
    """The probe of this worker. `on_readings` is called on its reader thread, and must not block.

    Readings come every interval, and at once where a fault is told; where probing is off, once, with a driver that is
    DISABLED. All methods may be called from any thread. After a fork it belongs to the parent alone.
    """

    def __init__(
        self,
        *,
        on_readings: Callable[[Readings], None],
        told: ProbeSettings,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        """`environ` is the child's: it finds there which devices this worker may use."""
        self._on_readings = on_readings
        self._told = told
        self._environ = dict(os.environ if environ is None else environ)
        self._latest: Readings | None = None
        self._child: subprocess.Popen[bytes] | None = None
        self._left: subprocess.Popen[bytes] | None = None
        self._is_let_go = False
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._heard_at = 0.0
        self._failures = 0
        self._number = 0
        self._thread = threading.Thread(target=self._run, name="sluicegate-probe", daemon=True)

    @property
    def latest(self) -> Readings | None:
        """The newest readings; None until the first."""
        return self._latest

    @property
    def interval_s(self) -> float:
        """How often it looks."""
        return self._told.interval_s

    @property
    def pid(self) -> int | None:
        """The child's process id, while there is one."""
        child = self._child
        return None if child is None else child.pid

    def start(self) -> None:
        """Start. Call after the pool has forked."""
        if self._told.is_on:
            self._thread.start()
        else:
            self._take(Readings(number=0, at=datetime.now(UTC), driver=DriverState.DISABLED))

    def stop(self, timeout_s: float = _END_S + 1) -> None:
        """Ask the child to end, and wait for it at most `timeout_s`. One that hangs is left as it is."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    def let_go(self) -> None:
        """Hold no device open any more; look again briefly every ten seconds."""
        self._order(is_let_go=True)

    def take_up(self) -> None:
        """Keep the devices open again."""
        self._order(is_let_go=False)

    def _order(self, *, is_let_go: bool) -> None:
        with self._lock:
            self._is_let_go = is_let_go
            self._write()

    def _write(self) -> None:
        child = self._child
        if child is not None and child.stdin is not None:
            try:
                child.stdin.write(b"let_go\n" if self._is_let_go else b"take_up\n")
                child.stdin.flush()
            except (OSError, ValueError):
                # It has died; the next one is told when it starts.
                log.debug("sluicegate: the probe does not hear", exc_info=True)

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self._live()
            except Exception:
                # Whatever it was, a worker must not go without readings for good.
                log.exception("sluicegate: the probe could not be heard")
            if self._stopping.is_set():
                return
            self._failures += 1
            self._say_failed()
            self._stopping.wait(_RESTART_S[min(self._failures, len(_RESTART_S)) - 1])

    def _live(self) -> None:
        """One child, from its start to its end."""
        command = [sys.executable, "-m", "sluicegate.workers.probes.child", self._told.spelled()]
        child = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=self._environ, start_new_session=True
        )
        began = self._heard_at = time.monotonic()
        with self._lock:
            self._child = child
            if self._is_let_go:
                self._write()
        try:
            self._hear(child, began)
        finally:
            with self._lock:
                self._child = None
            for pipe in (child.stdin, child.stdout):
                if pipe is not None:
                    pipe.close()
        if not self._stopping.is_set():
            log.warning("sluicegate: the probe ended (%s), and is started again", child.returncode)

    def _hear(self, child: subprocess.Popen[bytes], began: float) -> None:
        """Until the child has ended, or, asked to end, does not."""
        assert child.stdout is not None
        out = child.stdout.fileno()
        rest, is_open, asked_at = b"", True, None
        silent_at = began + _FIRST_LINE_S
        while child.poll() is None:
            now = time.monotonic()
            if self._stopping.is_set() and asked_at is None:
                asked_at = now
                self._ask_to_end(child)
            if asked_at is not None and now - asked_at > _END_S:
                log.warning("sluicegate: the probe (process %d) hangs, and is left alone", child.pid)
                self._left = child
                return
            if not is_open or not select.select([out], [], [], _POLL_S)[0]:
                if not is_open:
                    time.sleep(_POLL_S)
                if now > silent_at:
                    silent_at = now + self._told.interval_s
                    self._say_silent()
                continue
            some = os.read(out, 1 << 16)
            is_open = bool(some)
            *lines, rest = (rest + some).split(b"\n")
            rest = rest[-_LONGEST_LINE:]
            for line in lines:
                self._heard(line, began)
                silent_at = time.monotonic() + max(3 * self._told.interval_s, self._told.timeout_s) + 1.0

    def _ask_to_end(self, child: subprocess.Popen[bytes]) -> None:
        with self._lock:
            child.terminate()
            if child.stdin is not None:
                child.stdin.close()

    def _heard(self, line: bytes, began: float) -> None:
        try:
            readings = from_wire(json.loads(line))
        except (ValueError, InvalidInput):
            log.warning("sluicegate: the probe said what is no reading: %.200r", line)
            return
        self._heard_at = time.monotonic()
        if self._heard_at - began > _WELL_AFTER_S:
            self._failures = 0
        self._take(readings)

    def _say_silent(self) -> None:
        """The child is there and says nothing: not even the thread of it that would say what hangs."""
        self._take(_all_are(self._latest, DriverState.UNRESPONSIVE, DeviceState.UNRESPONSIVE))

    def _say_failed(self) -> None:
        """It dies again and again: what it read last is not what is."""
        if self._failures >= len(_RESTART_S) - 1:
            self._take(_all_are(self._latest, DriverState.FAILING, DeviceState.FAILING))

    def _take(self, readings: Readings) -> None:
        # Numbered here: they go up, however many children there were.
        self._number += 1
        self._latest = replace(readings, number=self._number)
        try:
            self._on_readings(self._latest)
        except Exception:
            log.exception("sluicegate: readings could not be taken")


def _all_are(last: Readings | None, driver: DriverState, state: DeviceState) -> Readings:
    """Nothing is known but what there was."""
    gpus = () if last is None else last.gpus
    known = tuple(GpuReading(uuid=gpu.uuid, index=gpu.index, name=gpu.name, state=state, xids=gpu.xids) for gpu in gpus)
    now = datetime.now(UTC)
    if last is None:
        return Readings(number=0, at=now, driver=driver)
    return Readings(
        number=0,
        at=now,
        driver=driver,
        gpus=known,
        expected_gpu_count=last.expected_gpu_count,
        had_gpus=last.had_gpus,
    )


def _runtime_dir(environ: Mapping[str, str]) -> Path:
    """Where workers of one user on one host meet, and nobody else writes."""
    if place := environ.get("XDG_RUNTIME_DIR"):
        return Path(place) / "sluicegate"
    return Path(environ.get("TMPDIR") or "/tmp") / f"sluicegate-{os.getuid()}"
