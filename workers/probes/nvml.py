"""NVIDIA's driver, by NVML. What a call means, and on which cards it means nothing, stands in NVIDIA's API reference.

Each call has its own `try`: on one card this is not supported, on another that. What is not supported is not asked
again for a while. Beside NVMLError pynvml raises NVMLLibraryMismatchError, which is none, where the library is older.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from sluicegate.schemas.health.readings import DeviceState, DriverState, GpuReading
from sluicegate.workers.probes.devices import Listed
from sluicegate.workers.probes.vendor import Calls, DriverTrouble, Fault

OPENS_WITHIN = 12
"""So many times the patience with a call is what opening may take: without persistence, seconds for each GPU."""
_ASK_AGAIN_S = 300.0
_SLOWLY_S = 30.0

_RECOVERY_ACTION, _SLOWDOWN_TLIMIT = 230, 194
_RETIRED_SINGLE, _RETIRED_DOUBLE, _RETIREMENT_PENDING = 29, 30, 31
_XID, _UNAVAILABLE, _RECOVERY = 0x8, 0x4000, 0x8000
_MOST_LINKS = 18

_DRIVER = {
    4: DriverState.FORBIDDEN,
    9: DriverState.NOT_LOADED,
    12: DriverState.ABSENT,
    18: DriverState.MISMATCH,
}
_DEVICE = {4: DeviceState.FORBIDDEN, 15: DeviceState.LOST, 16: DeviceState.RESET_REQUIRED}
_NOT_HERE = (3, 13, 25, 26)
"""Not supported, function not found, another version of a structure, deprecated."""
_TIMEOUT = 10


class _Refused(Exception):
    """A call said no; `code` is NVML's."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


@dataclass(frozen=True, slots=True)
class _Device:
    """A GPU, or an instance of one; `handle` None: it does not even give that, by the error `code`."""

    listed: Listed
    handle: Any
    gpu: Any
    gpu_uuid: str
    code: int = 0


class Nvml:
    """A vendor (`vendor.Vendor`)."""

    def __init__(self, calls: Calls, remembered: Callable[[int], str | None]) -> None:
        """`remembered` knows the UUID of a GPU by its index, should it not be able to tell."""
        self._calls = calls
        self._remembered = remembered
        self._nvml: Any = None
        self._count = 0
        self._devices: dict[str, _Device] = {}
        self._by_address: dict[int | None, str] = {}
        self._not_here: dict[tuple[str, str], float] = {}
        self._slow: dict[str, tuple[float, dict[str, Any]]] = {}
        self._events: Any = None

    def open(self) -> str | None:
        import pynvml

        self._nvml = pynvml
        self._not_here.clear()
        self._slow.clear()
        try:
            self._call("nvmlInitWithFlags", None, 0, most_s=self._calls.most_s * OPENS_WITHIN)
        except _Refused as error:
            raise _trouble(error.code) from None
        try:
            return str(self._call("nvmlSystemGetDriverVersion", None))
        except _Refused:
            return None

    def close(self) -> None:
        self._devices.clear()
        self._by_address.clear()
        self._let_events_go()
        with suppress(_Refused):
            self._call("nvmlShutdown", None)

    def listed(self) -> Sequence[Listed]:
        try:
            self._count = self._call("nvmlDeviceGetCount", None)
        except _Refused as error:
            raise _trouble(error.code) from None
        self._devices.clear()
        self._by_address.clear()
        for index in range(self._count):
            self._find(index)
        return [device.listed for device in self._devices.values()]

    def gpus(self) -> tuple[int, Mapping[int, str]]:
        told = {one.listed.index: one.gpu_uuid for one in self._devices.values() if one.gpu is not None}
        return self._count, told

    def body_of(self, uuid: str) -> str:
        return self._devices[uuid].gpu_uuid

    def _find(self, index: int) -> None:
        """Lists the GPU, or in its place its instances."""
        try:
            handle = self._call("nvmlDeviceGetHandleByIndex", self._remembered(index), index)
            uuid = self._call("nvmlDeviceGetUUID", None, handle)
        except _Refused as error:
            uuid = self._remembered(index) or f"index:{index}"
            self._devices[uuid] = _Device(Listed(uuid, index), None, None, uuid, error.code)
            return
        self._by_address[ctypes.cast(handle, ctypes.c_void_p).value] = uuid
        name = self._try("nvmlDeviceGetName", uuid, handle)
        mode = self._try("nvmlDeviceGetMigMode", uuid, handle)
        instances = self._instances(uuid, handle) if mode and mode[0] else []
        for instance, instance_uuid in instances:
            listed = Listed(instance_uuid, index, name, is_mig=True)
            self._devices[instance_uuid] = _Device(listed, instance, handle, uuid)
        if not instances:
            self._devices[uuid] = _Device(Listed(uuid, index, name), handle, handle, uuid)

    def _instances(self, uuid: str, handle: Any) -> list[tuple[Any, str]]:
        found = []
        for number in range(self._try("nvmlDeviceGetMaxMigDeviceCount", uuid, handle) or 0):
            with suppress(_Refused):
                instance = self._call("nvmlDeviceGetMigDeviceHandleByIndex", uuid, handle, number)
                found.append((instance, self._call("nvmlDeviceGetUUID", uuid, instance)))
        return found

    def read(self, uuid: str) -> GpuReading:
        device = self._devices[uuid]
        listed = device.listed
        told: dict[str, Any] = {"uuid": uuid, "index": listed.index, "name": listed.name}
        if device.handle is None:
            return GpuReading(state=_DEVICE.get(device.code, DeviceState.FAILING), **told)
        try:
            memory = self._memory(device)
            # A GPU that has instances tells of all of them; heat and faults are of the whole.
            figures = self._figures(device.gpu_uuid, device.gpu)
            if not listed.is_mig:
                use = self._try("nvmlDeviceGetUtilizationRates", uuid, device.handle)
                figures["utilization_percent"] = use and use.gpu
        except _Refused as error:
            if error.code in (1, 9, 18):
                # Not initialised any more, not loaded, of another version: the driver went from under us.
                raise _trouble(error.code) from None
            return GpuReading(state=_DEVICE.get(error.code, DeviceState.FAILING), **told)
        return GpuReading(**told, **memory, **figures)

    def users(self, uuid: str) -> Mapping[int, int | None] | None:
        device = self._devices[uuid]
        if device.handle is None:
            return None
        found: dict[int, int | None] = {}
        is_told = False
        for kind in ("Compute", "Graphics", "MPSCompute"):
            with suppress(_Refused):
                # None where the driver does not have it; a process may be in several of the three.
                some = self._ask(f"nvmlDeviceGet{kind}RunningProcesses", uuid, device.handle)
                is_told |= some is not None
                for one in some or ():
                    known, bytes_ = found.get(one.pid), one.usedGpuMemory
                    found[one.pid] = bytes_ if known is None else max(known, bytes_ or 0)
        return found if is_told else None

    def _memory(self, device: _Device) -> dict[str, Any]:
        """Raises _Refused: what does not tell its memory is not well."""
        uuid = device.listed.uuid
        v2 = getattr(self._nvml, "nvmlMemory_v2", None)
        memory = v2 and self._ask("nvmlDeviceGetMemoryInfo", uuid, device.handle, v2)
        reserved = memory.reserved if memory else None
        memory = memory or self._call("nvmlDeviceGetMemoryInfo", uuid, device.handle)
        return {
            "memory_total_bytes": memory.total,
            "memory_free_bytes": memory.free,
            "memory_reserved_bytes": reserved,
        }

    def _figures(self, uuid: str, gpu: Any) -> dict[str, Any]:
        fields = self._fields(uuid, gpu)
        slow = self._slowly(uuid, gpu)
        rows = self._ask("nvmlDeviceGetRemappedRows", uuid, gpu)
        has_ecc = slow["ecc"]
        single, double = fields.get(_RETIRED_SINGLE), fields.get(_RETIRED_DOUBLE)
        pending = fields.get(_RETIREMENT_PENDING)
        reasons = self._ask("nvmlDeviceGetCurrentClocksEventReasons", uuid, gpu)
        if reasons is None:
            reasons = self._ask("nvmlDeviceGetCurrentClocksThrottleReasons", uuid, gpu)
        return {
            "recovery_action": fields.get(_RECOVERY_ACTION),
            # Uncorrectable (1), since the driver was loaded (0).
            "ecc_uncorrected": self._ask("nvmlDeviceGetTotalEccErrors", uuid, gpu, 1, 0) if has_ecc else None,
            "remapped_rows": rows and rows[0] + rows[1],
            "is_remap_pending": rows and bool(rows[2]),
            "is_remap_failed": rows and bool(rows[3]),
            "retired_pages": None if single is None and double is None else (single or 0) + (double or 0),
            "is_retirement_pending": None if pending is None else bool(pending),
            "temperature_celsius": self._ask("nvmlDeviceGetTemperature", uuid, gpu, 0),
            "slowdown_celsius": slow["slowdown"],
            "slowdown_margin_celsius": self._margin(uuid, gpu, fields.get(_SLOWDOWN_TLIMIT)),
            "clock_event_reasons": reasons,
            "power_milliwatts": self._ask("nvmlDeviceGetPowerUsage", uuid, gpu),
            "power_limit_milliwatts": self._ask("nvmlDeviceGetEnforcedPowerLimit", uuid, gpu),
            "links_down": slow["links"],
        }

    def _margin(self, uuid: str, gpu: Any, slowdown: int | None) -> int | None:
        """Degrees up to the slowdown line. NVML counts its margin from another line: field 194 says where ours is."""
        margin: int | None = self._ask("nvmlDeviceGetMarginTemperature", uuid, gpu)
        if margin is None or (slowdown is None and margin <= 0):
            return None
        return margin - (slowdown or 0)

    def _fields(self, uuid: str, gpu: Any) -> dict[int, int]:
        wanted = [_RECOVERY_ACTION, _SLOWDOWN_TLIMIT, _RETIRED_SINGLE, _RETIRED_DOUBLE, _RETIREMENT_PENDING]
        values = self._ask("nvmlDeviceGetFieldValues", uuid, gpu, wanted)
        return {one.fieldId: _value(one) for one in values or () if one.nvmlReturn == 0}

    def _slowly(self, uuid: str, gpu: Any) -> dict[str, Any]:
        """What changes seldom is asked seldom."""
        at, known = self._slow.get(uuid, (0.0, {}))
        if known and time.monotonic() - at < _SLOWLY_S:
            return known
        mode = self._ask("nvmlDeviceGetEccMode", uuid, gpu)
        told = {
            "ecc": bool(mode and mode[0]),
            "slowdown": self._ask("nvmlDeviceGetTemperatureThreshold", uuid, gpu, 1),
            "links": self._links_down(uuid, gpu),
        }
        self._slow[uuid] = time.monotonic(), told
        return told

    def _links_down(self, uuid: str, gpu: Any) -> int | None:
        """None where no link is up: a card that has none says the same."""
        states: list[int] = []
        for link in range(_MOST_LINKS):
            state = self._ask("nvmlDeviceGetNvLinkState", uuid, gpu, link)
            if state is None:
                break
            states.append(state)
        return states.count(0) if any(states) else None

    def watch(self, uuids: Sequence[str]) -> None:
        self._let_events_go()
        bodies = {self._devices[uuid].gpu_uuid: self._devices[uuid].gpu for uuid in uuids if uuid in self._devices}
        try:
            events = self._call("nvmlEventSetCreate", None)
        except _Refused:
            return
        registered = 0
        for uuid, gpu in bodies.items():
            supported = gpu and self._try("nvmlDeviceGetSupportedEventTypes", uuid, gpu)
            types = (_XID | _UNAVAILABLE | _RECOVERY) & (supported or 0)
            if types:
                with suppress(_Refused):
                    self._call("nvmlDeviceRegisterEvents", uuid, gpu, types, events)
                    registered += 1
        self._events = events
        if not registered:
            # Waiting on nothing may return at once, or never.
            self._let_events_go()

    def wait(self, timeout_s: float) -> Sequence[Fault]:
        if self._events is None:
            time.sleep(timeout_s)
            return ()
        patience_s = timeout_s + self._calls.most_s
        try:
            event = self._call("nvmlEventSetWait_v2", None, self._events, round(timeout_s * 1000), most_s=patience_s)
        except _Refused as error:
            if error.code == _TIMEOUT:
                return ()
            raise _trouble(error.code) from None
        uuid = self._by_address.get(ctypes.cast(event.device, ctypes.c_void_p).value)
        if uuid is None:
            uuid = self._try("nvmlDeviceGetUUID", None, event.device)
        return (Fault(uuid, event.eventData if event.eventType & _XID else None),)

    def _let_events_go(self) -> None:
        if self._events is not None:
            events, self._events = self._events, None
            with suppress(_Refused):
                self._call("nvmlEventSetFree", None, events)

    def _try(self, symbol: str, uuid: str | None, *args: Any) -> Any:
        """None where it fails, in whatever way."""
        try:
            return self._call(symbol, uuid, *args)
        except _Refused:
            return None

    def _ask(self, symbol: str, uuid: str, *args: Any) -> Any:
        """None where the device does not have it. Raises _Refused where it is not well, or must not be asked."""
        now = time.monotonic()
        if self._not_here.get((uuid, symbol), 0.0) > now:
            return None
        try:
            return self._call(symbol, uuid, *args)
        except _Refused as error:
            if error.code in (1, 9, 15, 16, 18):
                raise
            if error.code in _NOT_HERE:
                self._not_here[uuid, symbol] = now + _ASK_AGAIN_S
            return None

    def _call(self, symbol: str, uuid: str | None, *args: Any, most_s: float | None = None) -> Any:
        """`uuid` is the device that the call is about. Raises _Refused."""
        nvml = self._nvml
        self._calls.begin(symbol, uuid, most_s)
        try:
            return getattr(nvml, symbol)(*args)
        except nvml.NVMLError as error:
            raise _Refused(error.value) from None
        except (nvml.NVMLLibraryMismatchError, AttributeError):
            # The installed library, or pynvml itself, is older than this call.
            raise _Refused(13) from None
        finally:
            self._calls.end()


def _trouble(code: int) -> DriverTrouble:
    return DriverTrouble(_DRIVER.get(code, DriverState.FAILING), f"NVML error {code}")


def _value(field: Any) -> int:
    """A field's value as its type says; those that fall below zero come as unsigned on some drivers."""
    value = field.value
    match field.valueType:
        case 0:
            return int(value.dVal)
        case 2 | 3:
            return int(value.ullVal)
        case 4:
            return int(value.sllVal)
        case 6:
            return int(value.usVal)
        case _:
            return int(value.siVal)
