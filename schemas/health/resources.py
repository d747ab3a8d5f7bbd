"""The `resources` of a heartbeat, and readings as they are read: a stranger may have written them.

Texts and counts are judged as those of heartbeats are (`schemas.telling`).
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from datetime import datetime
from hashlib import sha256
from typing import Any, Self

from sluicegate.schemas import telling
from sluicegate.schemas.errors import InvalidInput
from sluicegate.schemas.health.readings import DeviceState, DriverState, GpuReading, HostReading, Readings, XidSeen
from sluicegate.schemas.health.wire import GPU_COUNTS, GPU_FLAGS, HOST_FIGURES, MAX_XIDS, to_wire
from sluicegate.schemas.times import from_wire as instant_of

MAX_GPUS = 64
MAX_NOTES = 16
MAX_NUMBER = 1 << 63
WHOLE_EVERY_S = 10.0
"""So often readings are said whole, also where nothing has changed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """The `resources` of a heartbeat: which readings hold, and how old the newest of them was when it was sent.

    `number` counts what the worker said whole. Readings are said whole when something has changed that matters, and
    every WHOLE_EVERY_S; otherwise the beat says only that they are the same as those of `number`, and `readings` is
    None until its reader has found those. `interval_ms`: how often the probe looks. `digest`: the SHA-256, in hex, of
    `encode`: a heartbeat is signed, and where the readings themselves lie others may write.
    """

    number: int
    age_ms: int | None = None
    interval_ms: int | None = None
    digest: str = ""
    readings: Readings | None = None

    @classmethod
    def whole(cls, number: int, readings: Readings, *, interval_ms: int | None = None) -> Self:
        """What is to be said whole under this number."""
        said = cls(number=number, interval_ms=interval_ms, readings=readings)
        return replace(said, digest=sha256(said.encode()).hexdigest())

    def to_wire(self) -> dict[str, Any]:
        """Whole where there are readings."""
        said: dict[str, Any] = {"ageMs": self.age_ms, "intervalMs": self.interval_ms}
        if self.readings is None:
            return {"sameAs": self.number, "sha256": self.digest} | said
        return to_wire(self.readings) | said | {"number": self.number}

    def mark(self) -> Self:
        """The same without the readings themselves."""
        return replace(self, readings=None)

    def encode(self) -> bytes:
        """The bytes under `names.resources_key`, for readings that are whole. The same each time."""
        said = {} if self.readings is None else to_wire(self.readings)
        return json.dumps(said | {"number": self.number}, separators=(",", ":")).encode()

    def found_in(self, raw: bytes | None) -> Self:
        """With the readings that `encode` wrote; without any where those are others, lost, or cannot be read."""
        if raw is None or sha256(raw).hexdigest() != self.digest:
            return self.mark()
        try:
            return replace(self, readings=from_wire(json.loads(raw)))
        except (InvalidInput, ValueError, RecursionError):
            return self.mark()

    @classmethod
    def from_wire(cls, said: Any) -> Self:
        """The inverse of `to_wire`; raises InvalidInput, and nothing else."""
        said = telling.mapping(said, "resources")
        age_ms, interval_ms = (_count_or_none(said.get(name), name) for name in ("ageMs", "intervalMs"))
        if "sameAs" in said:
            return cls(
                number=telling.count(said["sameAs"], "sameAs"),
                age_ms=age_ms,
                interval_ms=interval_ms,
                digest=telling.text(said.get("sha256", ""), "sha256"),
            )
        readings = from_wire(said)
        return cls(number=readings.number, age_ms=age_ms, interval_ms=interval_ms, readings=readings)


def from_wire(said: Any) -> Readings:
    """The inverse of `to_wire`, whatever `said` is; raises InvalidInput, and nothing else."""
    try:
        return _readings(said)
    except InvalidInput:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InvalidInput("resources", f"no readings: {type(error).__name__}") from None


def _readings(said: Any) -> Readings:
    said = telling.mapping(said, "resources")
    gpus = telling.listed(said.get("gpus", []), "gpus")
    if len(gpus) > MAX_GPUS:
        raise InvalidInput("gpus", f"has more than {MAX_GPUS} entries")
    notes = telling.listed(said.get("notes", []), "notes")[:MAX_NOTES]
    attributable = said.get("attributable")
    return Readings(
        number=telling.count(said["number"], "number"),
        at=instant_of(said["at"], "at"),
        driver=DriverState(said["driver"]),
        driver_version=telling.text_or_none(said.get("driverVersion"), "driverVersion"),
        gpus=tuple(_gpu(one) for one in gpus),
        gpu_count=_count_or_none(said.get("gpuCount"), "gpuCount"),
        expected_gpu_count=_count_or_none(said.get("expectedGpuCount"), "expectedGpuCount"),
        had_gpus=telling.flag(said.get("hadGpus", False), "hadGpus"),
        is_attributable=None if attributable is None else telling.flag(attributable, "attributable"),
        host=_host(telling.mapping(said.get("host", {}), "host")),
        notes=tuple(telling.text(note, "notes") for note in notes),
    )


def _gpu(said: Any) -> GpuReading:
    said = telling.mapping(said, "gpus")
    figures: dict[str, Any] = {name: _figure(said.get(wire), wire) for name, wire in GPU_COUNTS.items()}
    flags = {
        name: None if said.get(wire) is None else telling.flag(said[wire], wire) for name, wire in GPU_FLAGS.items()
    }
    xids = telling.listed(said.get("xids", []), "xids")[-MAX_XIDS:]
    return GpuReading(
        uuid=telling.text(said["uuid"], "uuid"),
        name=telling.text_or_none(said.get("name"), "name"),
        state=DeviceState(said["state"]),
        xids=tuple(XidSeen(code=telling.count(one["code"], "code"), at=instant_of(one["at"], "at")) for one in xids),
        **figures,
        **flags,
    )


def _host(said: Any) -> HostReading:
    figures: dict[str, Any] = {name: _amount(said.get(wire), wire) for name, wire in HOST_FIGURES.items()}
    return HostReading(boot_id=telling.text_or_none(said.get("bootId"), "bootId"), **figures)


def _count_or_none(said: object, field: str) -> int | None:
    return None if said is None else telling.count(said, field)


def _figure(said: object, field: str) -> int | None:
    """A whole number; a margin below a slowdown line may be less than nothing."""
    if said is None:
        return None
    if type(said) is not int or abs(said) > MAX_NUMBER:
        raise InvalidInput(field, "is no whole number")
    return said


def _amount(said: object, field: str) -> int | float | None:
    if said is None:
        return None
    if type(said) not in (int, float) or not 0 <= said < MAX_NUMBER:  # type: ignore[operator]
        raise InvalidInput(field, "is no amount")
    return said  # type: ignore[return-value]


def is_notable(before: Readings, now: Readings) -> bool:
    """Does `now` say something that somebody waits for? The rest may be told later.

    A GPU's memory counts to the byte, and every word and fault; what never stands still counts by steps: heat by 2
    degrees, use and power by a tenth, the host's memory by a two-hundredth, its cores by a twentieth.
    """
    return _kept(before) != _kept(now) or any(
        abs(a - b) > step
        for (a, step), (b, _) in zip(_moving(before), _moving(now), strict=True)
    )  # fmt: skip


def _kept(readings: Readings) -> object:
    """All that counts exactly, and which of the moving figures are known."""
    gpus = tuple(
        (
            *(gpu.uuid, gpu.state, gpu.memory_total_bytes, gpu.memory_free_bytes, gpu.memory_own_bytes),
            *(gpu.recovery_action, gpu.xids, gpu.ecc_uncorrected, gpu.is_remap_failed, gpu.is_remap_pending),
            *(gpu.remapped_rows, gpu.retired_pages, gpu.is_retirement_pending, gpu.clock_event_reasons),
            *(gpu.links_down, gpu.slowdown_celsius),
        )
        for gpu in readings.gpus
    )
    others = (readings.driver, readings.gpu_count, readings.is_attributable, readings.notes)
    return gpus, others, [figure is None for figure, _ in _all_moving(readings)]


def _moving(readings: Readings) -> list[tuple[float, float]]:
    return [(figure, step) for figure, step in _all_moving(readings) if figure is not None]


def _all_moving(readings: Readings) -> list[tuple[float | None, float]]:
    host = readings.host
    found: list[tuple[float | None, float]] = [
        (host.memory_available_bytes, (host.memory_total_bytes or 0) / 200),
        (host.free_cores, (host.cores or 0) / 20),
    ]
    for gpu in readings.gpus:
        found += [
            (gpu.temperature_celsius, 2),
            (gpu.slowdown_margin_celsius, 2),
            (gpu.utilization_percent, 10),
            (gpu.power_milliwatts, (gpu.power_limit_milliwatts or 0) / 10),
        ]
    return found


def age_ms(readings: Readings, now: datetime) -> int:
    """How old `readings` are, by the clock that they were made by."""
    return max(0, round((now - readings.at).total_seconds() * 1000))
