"""One look after another at a host and its GPUs: what the child process of a probe does, whoever takes what it found.

A look is made on one thread, faults are waited for on another, and a third may ask at any time what to say while a call
of the driver's does not come back (`stuck`).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from sluicegate.schemas.health.readings import DeviceState, DriverState, GpuReading, Readings
from sluicegate.workers.probes.devices import Choice, choose
from sluicegate.workers.probes.history import History
from sluicegate.workers.probes.host import Host
from sluicegate.workers.probes.kin import Kin
from sluicegate.workers.probes.vendor import Call, Calls, DriverTrouble, Fault, Vendor

REOPEN_S = 10.0
"""Between two tries to open a driver that could not be, and between the brief looks of a probe that has let go."""
_NO_DRIVER_S = 60.0
_SICK_REOPEN_S = 30.0
"""A device that is lost is found again, after a reset, only by a driver that was opened anew."""
_UNTOLD_BYTES = 256 << 20
"""More than this in use, and no process to be seen that uses it: processes are not told here."""
_NO_PROCESSES = (
    "whose processes use the GPUs cannot be seen here: run the container with --pid=host, or judge by total use"
)


@dataclass
class _Open:
    """The driver, while it is open."""

    choice: Choice
    at: float
    watched: frozenset[str] = frozenset()


class Looks:
    """All methods but `stuck` and `take_faults` belong to the looking thread."""

    def __init__(
        self,
        vendor: Vendor,
        calls: Calls,
        *,
        environ: Mapping[str, str],
        history: History,
        kin: Kin,
        expected: int | None,
        tell: Callable[[Readings], None],
    ) -> None:
        """`tell` is called from whichever thread has something to say, one at a time."""
        self._vendor = vendor
        self._calls = calls
        self._environ = environ
        self._history = history
        self._kin = kin
        self._expected = expected
        self._tell = tell
        self._host = Host()
        self._driver = DriverState.ABSENT
        self._version: str | None = None
        self._open: _Open | None = None
        self._next_open = 0.0
        self._lock = threading.Lock()
        self._number = 0
        self._last: Readings | None = None
        # Held by whoever waits for faults: a driver is not closed under a call.
        self._waiting = threading.Lock()
        self._is_closing = False
        self.notes: tuple[str, ...] = ()

    def look(self, *, is_brief: bool = False) -> None:
        """Reads everything once, and tells of it; `is_brief`: the driver is closed again at once."""
        try:
            found = self._look_at_gpus()
        except DriverTrouble as trouble:
            self.close()
            self._driver = trouble.state
            is_absent = trouble.state is DriverState.ABSENT
            self._next_open = time.monotonic() + (_NO_DRIVER_S if is_absent else REOPEN_S)
            found = self._readings()
        if is_brief:
            self.close()
        if hung := self._calls.stuck():
            # Whoever waits for faults hangs: the driver does not serve, whatever it says to others.
            self.stuck(hung[0])
        else:
            self._say(found)

    def look_elsewhere(self) -> None:
        """The host alone, and the GPUs as they were: between the brief looks of a probe that has let go."""
        last = self._last
        if last is not None:
            self._say(replace(last, at=datetime.now(UTC), host=self._host.read()))

    def _look_at_gpus(self) -> Readings:
        self._open_driver()
        if self._open is None:
            return self._readings()
        found = tuple(self._read(uuid) for uuid in self._open.choice.uuids)
        self._watch(found)
        is_told = [gpu.memory_own_bytes is not None for gpu in found if gpu.state is DeviceState.SERVING]
        notes = self._open.choice.notes
        if is_told and not all(is_told):
            notes = (*notes, _NO_PROCESSES)
        found = found + self._missing()
        self._reopen_where_sick(found)
        return replace(self._readings(notes), gpus=found, is_attributable=all(is_told) if is_told else None)

    def _open_driver(self) -> None:
        if self._open is not None or time.monotonic() < self._next_open:
            return
        self._version = self._vendor.open()
        listed = self._vendor.listed()
        self._driver = DriverState.SERVING
        count, uuids = self._vendor.gpus()
        self._history.note_gpus(uuids, count)
        self._open = _Open(choose(listed, self._environ), time.monotonic())

    def _read(self, uuid: str) -> GpuReading:
        reading = replace(self._vendor.read(uuid), xids=self._history.of(self._vendor.body_of(uuid)))
        if reading.state is not DeviceState.SERVING:
            return reading
        return replace(reading, memory_own_bytes=self._own_bytes(uuid, reading))

    def _own_bytes(self, uuid: str, reading: GpuReading) -> int | None:
        users = self._vendor.users(uuid)
        if users is None:
            return None
        total, free = reading.memory_total_bytes or 0, reading.memory_free_bytes or 0
        used = total - free - (reading.memory_reserved_bytes or 0)
        if not users:
            # In a container of its own process ids a driver tells of none, or of those that are in it.
            return 0 if self._kin.is_host_wide or used < _UNTOLD_BYTES else None
        if not all(map(self._kin.is_here, users)):
            return None
        own = [users[pid] for pid in self._kin.ours(users)]
        return None if None in own else sum(one or 0 for one in own)

    def _missing(self) -> tuple[GpuReading, ...]:
        """What is named and not listed; where nothing is named, what was listed since the host booted."""
        assert self._open is not None
        named = tuple(GpuReading(uuid=one, state=DeviceState.MISSING) for one in self._open.choice.missing)
        if named or "CUDA_VISIBLE_DEVICES" in self._environ:
            return named
        here = {*self._vendor.gpus()[1].values(), *self._open.choice.uuids}
        gone = {uuid: index for index, uuid in self._history.uuids.items() if uuid not in here}
        return tuple(
            GpuReading(uuid=uuid, index=index, state=DeviceState.MISSING, xids=self._history.of(uuid))
            for uuid, index in sorted(gone.items())
        )

    def _watch(self, found: Sequence[GpuReading]) -> None:
        """Waits for faults of those that serve: of one that is lost, waiting returns at once and for ever."""
        assert self._open is not None
        serving = frozenset(gpu.uuid for gpu in found if gpu.state is DeviceState.SERVING)
        if serving != self._open.watched:
            with self._nobody_waiting():
                self._vendor.watch(sorted(serving))
                self._open.watched = serving

    def _reopen_where_sick(self, found: Sequence[GpuReading]) -> None:
        assert self._open is not None
        is_sick = any(gpu.state is not DeviceState.SERVING for gpu in found)
        if is_sick and time.monotonic() - self._open.at > _SICK_REOPEN_S:
            self.close()

    def close(self) -> None:
        """Let the driver go, if it is open."""
        if self._open is not None:
            with self._nobody_waiting():
                self._open = None
                self._vendor.close()

    @contextmanager
    def _nobody_waiting(self) -> Iterator[None]:
        self._is_closing = True
        try:
            with self._waiting:
                yield
        finally:
            self._is_closing = False

    def take_faults(self, timeout_s: float) -> bool:
        """Waits for faults, and tells of them at once; is there a reason to look? On a thread of its own."""
        if self._is_closing or self._open is None or not self._open.watched:
            time.sleep(0.05 if self._is_closing else min(timeout_s, 0.2))
            return False
        faults = self._wait(timeout_s)
        if faults is None:
            # It returns at once as long as the device is watched that is gone; the look finds out which.
            time.sleep(1.0)
            return True
        for fault in faults:
            if fault.uuid is not None and fault.code is not None:
                at = datetime.now(UTC)
                self._history.note_xid(fault.uuid, fault.code, at, before_writing=self._say_again)
        return bool(faults)

    def _wait(self, timeout_s: float) -> Sequence[Fault] | None:
        """None where waiting failed."""
        with self._waiting:
            # It may have been closed since.
            if self._open is not None:
                try:
                    return self._vendor.wait(timeout_s)
                except DriverTrouble:
                    return None
        return ()

    def _say_again(self) -> None:
        """The last readings, with the faults that have come since: nobody waits for a look, or for a disk."""
        last = self._last
        if last is not None and last.gpus:
            gpus = tuple(replace(gpu, xids=self._history.of(self._body_of(gpu.uuid))) for gpu in last.gpus)
            self._say(replace(last, at=datetime.now(UTC), gpus=gpus))

    def _body_of(self, uuid: str) -> str:
        try:
            return self._vendor.body_of(uuid)
        except KeyError:
            return uuid

    def stuck(self, call: Call) -> None:
        """Tells that `call` has not come back. Of the other devices nothing is known meanwhile."""
        last = self._last or self._readings()
        is_of_all = call.uuid is None
        gpus = tuple(
            GpuReading(
                uuid=gpu.uuid,
                index=gpu.index,
                name=gpu.name,
                state=DeviceState.UNRESPONSIVE if is_of_all or self._is_on(gpu.uuid, call.uuid) else gpu.state,
                xids=gpu.xids,
            )
            for gpu in last.gpus
        )
        driver = DriverState.UNRESPONSIVE if is_of_all else DriverState.SERVING
        note = f"{call.symbol} of {call.uuid or 'the driver'} has not come back"
        self._say(
            replace(
                last, at=datetime.now(UTC), driver=driver, gpus=gpus, host=self._host.read(), notes=(*self.notes, note)
            )
        )

    def _is_on(self, uuid: str, called: str | None) -> bool:
        return called in (uuid, self._body_of(uuid))

    def _readings(self, notes: Sequence[str] = ()) -> Readings:
        history = self._history
        most = history.most_gpus
        complaints = (history.complaint,) if history.complaint else ()
        return Readings(
            number=0,
            at=datetime.now(UTC),
            driver=self._driver,
            driver_version=self._version if self._driver is DriverState.SERVING else None,
            gpu_count=self._vendor.gpus()[0] if self._driver is DriverState.SERVING else None,
            expected_gpu_count=self._expected if self._expected is not None else most or None,
            had_gpus=most > 0,
            host=self._host.read(),
            notes=(*self.notes, *notes, *complaints),
        )

    def _say(self, readings: Readings) -> None:
        with self._lock:
            self._number += 1
            self._last = replace(readings, number=self._number)
            self._tell(self._last)
