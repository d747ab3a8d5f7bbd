"""The fleet's capacity gate: one worker with room keeps the fleet running, and a value that jitters does not flap."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from sluicegate.schemas.governors.capacity import Gate, Look, Memory, WorkerRoom, judge, rooms_of
from sluicegate.schemas.governors.decisions import Decision
from sluicegate.schemas.health.readings import DriverState, GpuReading, HostReading, Readings
from sluicegate.schemas.scopes import Scope, Subject

T0 = datetime(2026, 3, 2, tzinfo=UTC)
GIB = 1 << 30


def gpus(*free: int, total: int = 24 * GIB) -> WorkerRoom:
    readings = Readings(
        number=1,
        at=T0,
        driver=DriverState.SERVING,
        had_gpus=True,
        gpus=tuple(
            GpuReading(uuid=f"GPU-{n}", memory_total_bytes=total, memory_free_bytes=one) for n, one in enumerate(free)
        ),
    )
    return WorkerRoom(subject=Subject(labels={"gpu": "a"}), readings=readings, age=timedelta(0))


CPU_ONLY = WorkerRoom(
    subject=Subject(),
    readings=Readings(
        number=1,
        at=T0,
        driver=DriverState.ABSENT,
        host=HostReading(memory_total_bytes=100, memory_available_bytes=90, cores=8.0, free_cores=8.0),
    ),
    age=timedelta(0),
)


def decided(*workers: WorkerRoom, gate: Gate | None = None, **look: Any) -> Decision:
    return judge(gate or Gate(), Look(workers=workers, now=T0, **look), Memory(), is_held=False, usual=200_000)[0]


def test_twenty_percent_runs_and_a_byte_less_holds() -> None:
    """In bytes: no rounding decides it."""
    total = 1000 * GIB
    assert decided(gpus(total // 5, total=total)).should_hold is False
    assert decided(gpus(total // 5 - 1, total=total)).should_hold is True
    assert decided(gpus(total * 199 // 1000, total=total)).should_hold is True


def test_one_with_room_keeps_the_fleet_running() -> None:
    assert decided(gpus(1 * GIB), gpus(1 * GIB), gpus(1 * GIB, 12 * GIB)).should_hold is False
    assert decided(gpus(1 * GIB), gpus(1 * GIB), gpus(1 * GIB, 2 * GIB)).should_hold is True
    assert decided(gpus(1 * GIB, 12 * GIB), gate=Gate(gpu_rule="any")).should_hold is True


def test_a_host_without_gpus_is_never_judged_on_their_memory() -> None:
    """It neither keeps a fleet of full GPUs running nor holds one by itself."""
    assert decided(CPU_ONLY, gpus(1 * GIB)).should_hold is True
    assert decided(CPU_ONLY, gate=Gate(resources=("memory", "cpu"))).should_hold is False
    assert decided(CPU_ONLY).should_hold is None


def test_a_gate_of_a_label_looks_at_its_workers_alone() -> None:
    gate = Gate(scope=Scope.parse("label:gpu=a"))
    other = replace(gpus(20 * GIB), subject=Subject(labels={"gpu": "b"}))
    assert decided(gpus(1 * GIB), other, gate=gate).should_hold is True


@pytest.mark.parametrize("change", [{"age": None}, {"age": timedelta(seconds=6.1)}, {"is_unwell": True}])
def test_what_is_old_or_unwell_has_no_room(change: dict[str, Any]) -> None:
    """Three intervals of its probe: six seconds."""
    assert decided(replace(gpus(20 * GIB), **change)).should_hold is True
    assert decided(replace(gpus(20 * GIB), age=timedelta(seconds=6))).should_hold is False


@pytest.mark.parametrize("look", [{}, {"is_readable": False}])
def test_nobody_online_holds_after_its_grace_and_releases_at_once_when_one_with_room_comes(
    look: dict[str, Any],
) -> None:
    """Fails closed, and alarms."""
    gate, memory = Gate(), Memory()
    first, memory = judge(gate, Look(workers=(), now=T0, **look), memory, is_held=False, usual=200_000)
    assert (first.should_hold, first.next_at) == (None, T0 + timedelta(seconds=30))
    later = T0 + timedelta(seconds=30)
    second, memory = judge(gate, Look(workers=(), now=later, **look), memory, is_held=False, usual=200_000)
    assert second.should_hold is True
    assert second.alarm
    came = Look(workers=(gpus(20 * GIB),), now=later + timedelta(seconds=1))
    assert judge(gate, came, memory, is_held=True, usual=200_000)[0].should_hold is False


def walk(free_gib: list[float], step_s: float = 10.0) -> list[bool]:
    """Held or not after each look."""
    memory, is_held, told = Memory(), False, []
    for number, free in enumerate(free_gib):
        now = T0 + timedelta(seconds=step_s * number)
        look = Look(workers=(gpus(int(free * GIB)),), now=now)
        decision, memory = judge(Gate(), look, memory, is_held=is_held, usual=200_000)
        is_held = is_held if decision.should_hold is None else decision.should_hold
        told.append(is_held)
    return told


def test_a_value_that_jitters_around_the_threshold_does_not_flap() -> None:
    """An hour of it, on both sides of 4.8 GiB (20 %) and below 6 GiB (25 %): one edge."""
    told = walk([4.7 if number % 2 else 5.5 for number in range(360)])
    assert sum(before is not after for before, after in zip([False, *told], told, strict=False)) == 1


def test_it_releases_when_every_reading_of_the_dwell_was_above_the_mark() -> None:
    """One below begins the dwell anew."""
    assert walk([2, 7, 7, 7, 7]) == [True, True, True, True, False]
    assert walk([2, 7, 7, 5.5, 7, 7, 7, 7]) == [True] * 7 + [False]


def test_the_dwell_doubles_with_each_hold_soon_after_a_release() -> None:
    assert walk([2, 7, 7, 7, 7, 2, 7, 7, 7, 7, 7, 7, 7]) == [True] * 4 + [False] + [True] * 7 + [False]


def test_a_threshold_of_zero_is_off() -> None:
    assert decided(gpus(0), gate=Gate(threshold=0)).should_hold is False


def test_what_somebody_writes_down_is_judged_as_it_says() -> None:
    rooms = rooms_of({"workers": [{"gpu_memory": [0.1, 0.4]}, {"memory": 0.5, "cpu": 0.1}]})
    assert decided(*rooms).should_hold is False
    assert decided(*rooms, gate=Gate(resources=("cpu",))).should_hold is True
