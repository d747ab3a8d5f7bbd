"""What a worker's probe read, as the API tells it. Null: it could not be read, which is no number."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Self

from pydantic import Field

from sluicegate.schemas.api.base import Answer, Instant
from sluicegate.schemas.health.readings import GpuReading, HostReading
from sluicegate.schemas.health.resources import Resources


class XidBody(Answer):
    """An error event of a GPU, by NVIDIA's number, and when it came by the host's clock."""

    code: int
    at: Instant


class GpuBody(Answer):
    """One GPU, or one MIG instance, that the worker may use. `index` is the driver's."""

    uuid: str
    state: str
    index: int | None = None
    name: str | None = None
    memory_total_bytes: int | None = None
    memory_free_bytes: int | None = None
    memory_reserved_bytes: int | None = None
    memory_own_bytes: int | None = None
    recovery_action: int | None = None
    xids: list[XidBody] = Field(default_factory=list)
    ecc_uncorrected: int | None = None
    remap_failed: bool | None = None
    remap_pending: bool | None = None
    remapped_rows: int | None = None
    retired_pages: int | None = None
    retirement_pending: bool | None = None
    temperature_celsius: int | None = None
    slowdown_celsius: int | None = None
    slowdown_margin_celsius: int | None = None
    clock_event_reasons: int | None = None
    utilization_percent: int | None = None
    power_milliwatts: int | None = None
    power_limit_milliwatts: int | None = None
    links_down: int | None = None

    @classmethod
    def of(cls, gpu: GpuReading) -> Self:
        """The GPU as its worker reads it."""
        figures = {
            name: getattr(gpu, name if hasattr(gpu, name) else f"is_{name}")
            for name in cls.model_fields
            if name not in ("state", "xids")
        }
        return cls(state=str(gpu.state), xids=[XidBody(code=xid.code, at=xid.at) for xid in gpu.xids], **figures)


class HostResourcesBody(Answer):
    """The host, or the container of the worker."""

    boot_id: str | None = None
    uptime_s: float | None = None
    cores: float | None = None
    free_cores: float | None = None
    memory_total_bytes: int | None = None
    memory_available_bytes: int | None = None

    @classmethod
    def of(cls, host: HostReading) -> Self:
        """The host as its worker reads it."""
        return cls(**{name: getattr(host, name) for name in cls.model_fields})


class ResourcesBody(Answer):
    """What a worker's probe read. `read_at`: when, by the server's clock; `driver` is one word for the GPU driver.

    `number` goes up with each time that the worker said it whole; between those it has not changed in any way that
    matters, and `read_at` is that of the newest reading.
    """

    number: int
    read_at: Instant | None
    driver: str
    driver_version: str | None = None
    gpu_count: int | None = None
    expected_gpu_count: int | None = None
    attributable: bool | None = None
    gpus: list[GpuBody]
    host: HostResourcesBody
    notes: list[str] = Field(default_factory=list)

    @classmethod
    def of(cls, resources: Resources | None, heard_at: datetime) -> Self | None:
        """None where the worker does not tell, or what it told cannot be had. `heard_at`: when its beat came."""
        if resources is None or (readings := resources.readings) is None:
            return None
        age_ms = resources.age_ms
        return cls(
            number=resources.number,
            read_at=None if age_ms is None else heard_at - timedelta(milliseconds=min(age_ms, 10**9)),
            driver=str(readings.driver),
            driver_version=readings.driver_version,
            gpu_count=readings.gpu_count,
            expected_gpu_count=readings.expected_gpu_count,
            attributable=readings.is_attributable,
            gpus=[GpuBody.of(gpu) for gpu in readings.gpus],
            host=HostResourcesBody.of(readings.host),
            notes=list(readings.notes),
        )
