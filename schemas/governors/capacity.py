"""The fleet's capacity: is there a worker with room? Pure.

A gate holds while ALL online workers that it looks at are below a threshold of what is free, on total use; one with
room keeps the fleet running. Unknown is no room: a gate is there so that work is not sent out into nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from sluicegate.schemas.errors import InvalidInput
from sluicegate.schemas.governors.decisions import Decision
from sluicegate.schemas.health.readings import DeviceState, DriverState, GpuReading, HostReading, Readings
from sluicegate.schemas.modes import Mode
from sluicegate.schemas.money import MILLION, millionths
from sluicegate.schemas.scopes import GLOBAL, Scope, Subject
from sluicegate.schemas.times import to_wire_or_none

GPU_MEMORY, MEMORY, CPU = "gpu_memory", "memory", "cpu"
RESOURCES = (GPU_MEMORY, MEMORY, CPU)
ALL, ANY = "all", "any"
GRACE = timedelta(seconds=30)
"""How long nobody online, or nobody's reading, is taken for a gap: workers that start together are not held for it."""
OLD_AFTER = 3
"""A reading counts for so many intervals of its probe."""
DWELL_MOST = timedelta(minutes=15)
RETAKEN_WITHIN = timedelta(minutes=15)


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """What counts as room. Shares are in millionths of the whole; `threshold` None: the fleet's setting; 0: off.

    `gpu_rule`: a worker has room while a GPU has (`all` must be below), or while each has (`any`). It releases at
    `release` or above, once every reading of the last `dwell` was so.
    """

    scope: Scope = GLOBAL
    resources: tuple[str, ...] = (GPU_MEMORY,)
    threshold: int | None = None
    release: int | None = None
    gpu_rule: str = ALL
    dwell: timedelta = timedelta(seconds=30)
    mode: Mode = Mode.DRAIN
    is_enabled: bool = True

    def marks(self, usual: int) -> tuple[int, int]:
        """Below which share it holds, and at which it releases; `usual` is the fleet's setting."""
        take = usual if self.threshold is None else self.threshold
        return take, take + 50_000 if self.release is None else self.release


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerRoom:
    """What is known of one online worker. `age`: of its readings. `is_unwell`: held for its health: it has no room."""

    subject: Subject
    readings: Readings | None = None
    age: timedelta | None = None
    interval: timedelta = timedelta(seconds=2)
    is_unwell: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """What a gate remembers between two looks. `since`: when its readings began to be those of the present kind."""

    nobody_since: datetime | None = None
    well_since: datetime | None = None
    dwell: timedelta | None = None
    released_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """All that a gate is judged by. `is_readable` False: the heartbeats could not be read."""

    workers: tuple[WorkerRoom, ...]
    now: datetime
    is_readable: bool = True


def judge(gate: Gate, look: Look, memory: Memory, *, is_held: bool, usual: int) -> tuple[Decision, Memory]:
    """Does any worker have room? What is remembered for the next look comes with it."""
    take, release = gate.marks(usual)
    if take == 0:
        return Decision(should_hold=False, reason="its threshold is 0: off", mode=gate.mode), Memory()
    workers = [worker for worker in look.workers if gate.scope.matches(worker.subject)]
    shares = {name: _best(gate, name, workers) for name in gate.resources}
    judged = {name: share for name, share in shares.items() if share is not None}
    told = _told(gate, workers, shares, (take, release), look)
    if not look.is_readable:
        return _nobody(gate, "the heartbeats cannot be read", look.now, memory, told)
    if not workers:
        return _nobody(gate, "no worker is online", look.now, memory, told)
    if not judged:
        return _nobody(gate, "no worker says what it has left", look.now, memory, told)
    known = Memory(dwell=memory.dwell, released_at=memory.released_at, well_since=memory.well_since)
    short = sorted(name for name, share in judged.items() if share < take)
    if short:
        return _held(gate, _below(short, judged, take, release), known, told, look.now, is_held=is_held)
    if not is_held:
        return Decision(should_hold=False, reason="a worker has room", details=told, mode=gate.mode), known
    if memory.nobody_since is not None:
        # Held because nobody was there: one who comes with room is what was waited for.
        return Decision(should_hold=False, reason="a worker with room came", details=told, mode=gate.mode), Memory()
    return _recovering(gate, judged, release, known, told, look.now)


def _nobody(gate: Gate, why: str, now: datetime, memory: Memory, told: dict[str, Any]) -> tuple[Decision, Memory]:
    since = memory.nobody_since or now
    known = Memory(nobody_since=since, dwell=memory.dwell, released_at=memory.released_at)
    is_due = now >= since + GRACE
    decision = Decision(
        should_hold=True if is_due else None,
        reason=f"{why}: held until one with room is",
        details=told,
        next_at=None if is_due else since + GRACE,
        alarm=why if is_due else None,
        mode=gate.mode,
    )
    return decision, known


def _held(
    gate: Gate, why: str, known: Memory, told: dict[str, Any], now: datetime, *, is_held: bool
) -> tuple[Decision, Memory]:
    dwell = known.dwell or gate.dwell
    if not is_held:
        is_retaken = known.released_at is not None and now - known.released_at < RETAKEN_WITHIN
        dwell = min(dwell * 2, DWELL_MOST) if is_retaken else gate.dwell
    decision = Decision(should_hold=True, reason=why, details=told, mode=gate.mode)
    return decision, Memory(dwell=dwell, released_at=known.released_at)


def _recovering(
    gate: Gate, judged: dict[str, int], release: int, known: Memory, told: dict[str, Any], now: datetime
) -> tuple[Decision, Memory]:
    dwell = known.dwell or gate.dwell
    if min(judged.values()) < release:
        reason = f"below the release mark of {_percent(release)}"
        return Decision(should_hold=True, reason=reason, details=told, mode=gate.mode), Memory(
            dwell=dwell, released_at=known.released_at
        )
    since = known.well_since or now
    if now < since + dwell:
        decision = Decision(
            should_hold=True, reason="above the release mark", details=told, next_at=since + dwell, mode=gate.mode
        )
        return decision, Memory(well_since=since, dwell=dwell, released_at=known.released_at)
    reason = f"every reading of {dwell.total_seconds():g} s was above the release mark of {_percent(release)}"
    return Decision(should_hold=False, reason=reason, details=told, mode=gate.mode), Memory(
        dwell=dwell, released_at=now
    )


def _best(gate: Gate, resource: str, workers: Sequence[WorkerRoom]) -> int | None:
    """The largest free share among the workers that have such a resource; None where none has, or nobody knows.

    A worker whose reading is old has none left; one of another kind of machine is not asked.
    """
    shares = [_share(gate, resource, worker) for worker in workers]
    known = [share for share in shares if share is not None]
    return max(known, default=None)


def _share(gate: Gate, resource: str, worker: WorkerRoom) -> int | None:
    readings = worker.readings
    if readings is None:
        return None
    found = _gpus(gate, readings) if resource == GPU_MEMORY else _host(resource, readings)
    if found is None:
        return None
    is_old = worker.age is None or worker.age > OLD_AFTER * worker.interval
    return 0 if is_old or worker.is_unwell else found


def _host(resource: str, readings: Readings) -> int | None:
    host = readings.host
    if resource == CPU:
        return _of(host.free_cores, host.cores)
    return _of(host.memory_available_bytes, host.memory_total_bytes)


def _gpus(gate: Gate, readings: Readings) -> int | None:
    """A CPU-only host has no such share; of a GPU that fails, or does not tell, nothing is left."""
    if readings.driver is DriverState.ABSENT and not readings.had_gpus:
        return None
    if not readings.gpus:
        return 0 if readings.had_gpus else None
    shares = [_of_gpu(gpu) for gpu in readings.gpus]
    return (max if gate.gpu_rule == ALL else min)(shares)


def _of_gpu(gpu: GpuReading) -> int:
    if gpu.state is not DeviceState.SERVING:
        return 0
    return _of(gpu.memory_free_bytes, gpu.memory_total_bytes) or 0


def _of(free: float | None, whole: float | None) -> int | None:
    """In millionths, rounded down: 19.99999999 % must not become 20 %, and 20 % of whole bytes stays that."""
    if free is None or not whole:
        return None
    return int(free * MILLION // whole)


def _below(short: Iterable[str], judged: dict[str, int], take: int, release: int) -> str:
    worst = ", ".join(f"{name} {_percent(judged[name])} < {_percent(take)}" for name in short)
    return f"all workers are below: {worst} at best; resumes above {_percent(release)}"


def _percent(share: int) -> str:
    return f"{share // 100 / 100:g}%"


def _told(
    gate: Gate,
    workers: Sequence[WorkerRoom],
    shares: dict[str, int | None],
    marks: tuple[int, int],
    look: Look,
) -> dict[str, Any]:
    take, release = marks
    return {
        "workers": len(workers),
        "readable": look.is_readable,
        "bestFreeFraction": {name: None if share is None else share / MILLION for name, share in shares.items()},
        "threshold": take / MILLION,
        "release": release / MILLION,
        "gpuRule": gate.gpu_rule,
        "checkedAt": to_wire_or_none(look.now),
    }


def rooms_of(reading: Mapping[str, Any]) -> tuple[WorkerRoom, ...]:
    """Workers as somebody writes them down to ask what a gate would do: `{"workers": [{"gpu_memory": [0.1, 0.9]}]}`.

    Each has the free fractions of `RESOURCES`, of GPUs one each, and `labels`. Raises InvalidInput.
    """
    said = reading.get("workers", [])
    if not isinstance(said, list) or not all(isinstance(one, Mapping) for one in said):
        raise InvalidInput("workers", "is no list of workers with their free fractions")
    return tuple(_room_of(one) for one in said)


def _room_of(said: Mapping[str, Any]) -> WorkerRoom:
    gpus = said.get(GPU_MEMORY, [])
    free = [millionths(share, GPU_MEMORY) for share in (gpus if isinstance(gpus, list) else [gpus])]
    memory, cpu = (None if said.get(name) is None else millionths(said[name], name) for name in (MEMORY, CPU))
    labels = said.get("labels", {})
    if not isinstance(labels, Mapping):
        raise InvalidInput("labels", "is no object")
    host = HostReading(
        cores=None if cpu is None else float(MILLION),
        free_cores=None if cpu is None else float(cpu),
        memory_total_bytes=None if memory is None else MILLION,
        memory_available_bytes=memory,
    )
    readings = Readings(
        number=1,
        at=datetime.fromtimestamp(0, UTC),
        driver=DriverState.SERVING if free else DriverState.ABSENT,
        had_gpus=bool(free),
        gpus=tuple(
            GpuReading(uuid=f"GPU-{index}", memory_total_bytes=MILLION, memory_free_bytes=share)
            for index, share in enumerate(free)
        ),
        host=host,
    )
    return WorkerRoom(subject=Subject(labels=dict(labels)), readings=readings, age=timedelta(0))
