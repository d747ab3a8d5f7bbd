"""What the tests of the worker's own rules share: looks of a probe, and a worker that judges one after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from sluicegate.schemas.health.config import thresholds_of
from sluicegate.schemas.health.judge import Memory, Place, Verdict, judge
from sluicegate.schemas.health.local_holds import LocalHold
from sluicegate.schemas.health.readings import DriverState, GpuReading, HostReading, Readings
from sluicegate.schemas.health.thresholds import Thresholds

GIB = 1 << 30
AT = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
PLACE = Place("celery@h1", "h1")
INTERVAL_S = 2.0


def gpu(index: int = 0, **fields: Any) -> GpuReading:
    """A GPU in order: 20 of 24 GiB free, nobody's, cool, its driver asks for nothing."""
    given = {
        "memory_total_bytes": 24 * GIB,
        "memory_free_bytes": 20 * GIB,
        "memory_own_bytes": 0,
        "recovery_action": 0,
        "temperature_celsius": 50,
        "slowdown_celsius": 90,
        "clock_event_reasons": 0,
        "links_down": 0,
    }
    return GpuReading(uuid=f"GPU-{index}", index=index, **{**given, **fields})


def look(*gpus: GpuReading, **fields: Any) -> Readings:
    given: dict[str, Any] = {
        "number": 1,
        "at": AT,
        "driver": DriverState.SERVING,
        "gpus": gpus,
        "gpu_count": len(gpus),
        "is_attributable": True,
        "host": HostReading(boot_id="b", uptime_s=86_400.0),
    }
    return Readings(**{**given, **fields})


def thresholds(environ: Mapping[str, str] | None = None, file: Mapping[str, Any] | None = None) -> Thresholds:
    return thresholds_of(environ or {}, file)


@dataclass
class Judged:
    """A worker that judges one look after the other, and remembers each time that it took or let go of a hold."""

    thresholds: Thresholds
    memory: Memory
    now_s: float = 1000.0
    verdict: Verdict | None = None
    edges: list[tuple[float, str, str]] | None = None

    @classmethod
    def by(cls, environ: Mapping[str, str] | None = None, file: Mapping[str, Any] | None = None) -> Judged:
        return cls(thresholds=thresholds(environ, file), memory=Memory(), edges=[])

    @property
    def holds(self) -> tuple[LocalHold, ...]:
        return self.verdict.holds if self.verdict else ()

    @property
    def rules(self) -> set[str]:
        return {hold.rule for hold in self.holds}

    @property
    def warnings(self) -> set[str]:
        return {warned.rule for warned in self.verdict.warned} if self.verdict else set()

    def see(self, *gpus: GpuReading, for_s: float = INTERVAL_S, **fields: Any) -> Judged:
        """Looks that are all alike, one each interval, `for_s` long."""
        return self.take(look(*gpus, **fields) for _ in range(max(1, round(for_s / INTERVAL_S))))

    def take(self, looks: Iterable[Readings], after: Callable[[Judged], None] = lambda judged: None) -> Judged:
        for one in looks:
            self.now_s += INTERVAL_S
            before = self.rules
            at = AT + timedelta(seconds=self.now_s)
            self.verdict = judge(replace(one, at=at), self.thresholds, self.memory, PLACE, self.now_s)
            self.memory = self.verdict.memory
            assert self.edges is not None
            self.edges += [(self.now_s, "take", rule) for rule in self.rules - before]
            self.edges += [(self.now_s, "release", rule) for rule in before - self.rules]
            after(self)
        return self

    def reason(self, rule: str) -> str:
        (reason,) = [hold.reason for hold in self.holds if hold.rule == rule]
        return reason
