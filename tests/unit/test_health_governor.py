"""A worker's own governor: what it puts into force, lets go of, and says, between a probe and its own holds."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from sluicegate.schemas.health.local_holds import LocalHold
from sluicegate.schemas.health.readings import DeviceState, GpuReading, Readings
from sluicegate.workers.health import FIRST_WITHIN_S, WAITING, Health
from sluicegate.workers.idling import Idling
from tests.unit.health import AT, GIB, PLACE, Judged, gpu, look, thresholds
from tests.unit.test_idling import Pool

LOST = gpu(state=DeviceState.LOST)


class Probe:
    interval_s = 2.0

    def __init__(self) -> None:
        self.orders: list[str] = []

    def let_go(self) -> None:
        self.orders.append("let go")

    def take_up(self) -> None:
        self.orders.append("take up")


class OwnHolds:
    """What is in force by the governor, each time that it changed."""

    def __init__(self, inherited: Iterable[LocalHold] = ()) -> None:
        self.cleared: dict[str, datetime] = {}
        self.untold = tuple(inherited)
        self.held: tuple[LocalHold, ...] = ()
        self.shadows: tuple[LocalHold, ...] = ()
        self.edges: list[tuple[str, ...]] = []

    def inherited(self) -> tuple[LocalHold, ...]:
        found, self.untold = self.untold, ()
        return found

    def take(self, holds: Iterable[LocalHold]) -> None:
        self.held = tuple(holds)
        rules = tuple(sorted(hold.rule for hold in self.held))
        if [rules] != self.edges[-1:]:
            self.edges.append(rules)


class Rig:
    """A worker whose gate is open unless something is held, and who runs `running` tasks."""

    def __init__(
        self, environ: dict[str, str] | None = None, *, can_renew: bool = True, inherited: Iterable[LocalHold] = ()
    ) -> None:
        self.now_s = 1000.0
        self.running = 0
        self.has_opened = True
        self.boot: list[str | None] = []
        self.pool, self.probe, self.own_holds = Pool(can_renew=can_renew), Probe(), OwnHolds(inherited)
        pool: Any = self.pool
        self.idling = Idling(
            pool,
            is_drained=lambda: bool(self.own_holds.held) and not self.running,
            is_busy=lambda: bool(self.running),
            count_begun=lambda: 0,
            wake=self._wake,
            clock=lambda: self.now_s,
        )
        self.is_woken = False
        self.health = Health(
            thresholds=thresholds(environ),
            place=PLACE,
            own_holds=self.own_holds,
            probe=self.probe,
            idling=self.idling,
            hold_boot=self.boot.append,
            has_opened=lambda: self.has_opened,
            clock=lambda: self.now_s,
            now=lambda: AT + timedelta(seconds=self.now_s),
        )

    def _wake(self) -> None:
        self.is_woken = True

    def wait(self, for_s: float) -> None:
        """Time goes on, and nothing is read."""
        for _ in range(round(for_s / 0.5)):
            self.now_s += 0.5
            self.health.look()
            self.idling.look()
            if self.is_woken:
                self.is_woken = False
                self.idling.tend()

    def read(self, *gpus: GpuReading, for_s: float = 2.0, **fields: Any) -> set[str]:
        """One look after the other; what is held then."""
        one: Readings = look(*gpus, **fields)
        for _ in range(max(1, round(for_s / 2))):
            self.health.take(replace(one, at=AT + timedelta(seconds=self.now_s)))
            self.wait(2.0)
        return self.rules

    @property
    def rules(self) -> set[str]:
        return {hold.rule for hold in self.own_holds.held}


def test_a_worker_starts_nothing_before_its_first_reading() -> None:
    rig = Rig()
    rig.wait(5)
    assert rig.boot == [WAITING]
    rig.read(gpu())
    assert rig.boot == [WAITING, None]


def test_a_probe_that_says_nothing_at_all_does_not_keep_a_worker_without_gpus_from_starting_for_good() -> None:
    rig = Rig()
    rig.wait(FIRST_WITHIN_S + 60)
    assert rig.boot == [WAITING, None]
    assert rig.rules == set()


def test_it_keeps_one_that_an_earlier_life_left_held() -> None:
    rig = Rig(inherited=Judged.by().see(LOST).holds)
    rig.wait(FIRST_WITHIN_S + 60)
    assert rig.rules == {"gpu.lost", "probe.silent"}
    assert rig.read(gpu(), for_s=28) == {"gpu.lost", "probe.silent"}
    assert rig.read(gpu(), for_s=8) == set()


def test_a_reading_over_its_threshold_is_in_force_when_it_has_been_taken() -> None:
    rig = Rig()
    rig.read(gpu())
    rig.health.take(look(gpu(memory_free_bytes=GIB)))
    assert rig.rules == {"capacity.gpu_memory"}
    assert rig.read(gpu(), for_s=40) == set()
    assert (rig.pool.done, rig.probe.orders) == ([], []), "who only waits for memory keeps his GPU"


def test_a_probe_that_falls_silent_holds_and_lets_go_again() -> None:
    rig = Rig()
    rig.read(gpu())
    rig.wait(4.0)
    assert rig.rules == set()
    rig.wait(1.5)
    assert rig.rules == {"probe.silent"}
    assert rig.read(gpu(), for_s=40) == set()


def test_a_lost_gpu_is_let_go_of_once_drained_and_new_children_come_before_the_gate_opens() -> None:
    rig = Rig()
    rig.read(gpu())
    rig.running = 1
    rig.read(LOST, for_s=10)
    assert (rig.pool.done, rig.probe.orders) == ([], [])
    rig.running = 0
    rig.read(LOST, for_s=4)
    assert (rig.pool.done, rig.probe.orders) == (["retire"], ["let go"])
    while rig.rules:
        assert rig.pool.done in (["retire"], ["retire", "renew"])
        before = list(rig.pool.done)
        rig.read(gpu())
    assert before == ["retire"] or before == ["retire", "renew"]
    assert (rig.pool.done, rig.probe.orders) == (["retire", "renew"], ["let go", "take up"])


def test_it_is_held_until_new_children_are_there() -> None:
    rig = Rig()
    rig.read(gpu())
    rig.read(LOST, for_s=4)
    rig.idling.tend = lambda: None  # type: ignore[method-assign]
    assert rig.read(gpu(), for_s=120) == {"gpu.lost"}
    assert "waits for new pool children" in rig.own_holds.held[0].reason
    del rig.idling.tend
    rig.idling.tend()
    assert rig.read(gpu()) == set()


def test_what_ran_when_the_gpu_was_lost_keeps_the_worker_held_until_it_has_ended() -> None:
    rig = Rig()
    rig.read(gpu())
    rig.running = 1
    rig.read(LOST)
    assert rig.read(gpu(), for_s=300) == {"gpu.lost"}
    assert "waits until nothing runs here" in rig.own_holds.held[0].reason
    rig.running = 0
    assert rig.read(gpu(), for_s=6) == set()
    assert rig.pool.done == ["retire", "renew"]


def test_heat_ends_no_context_so_that_nothing_has_to_be_replaced() -> None:
    rig = Rig()
    rig.read(gpu())
    rig.running = 1
    assert rig.read(gpu(temperature_celsius=95), for_s=10) == {"gpu.heat"}
    assert rig.read(gpu(), for_s=70) == set()
    assert rig.pool.done == []


def test_a_process_that_runs_its_tasks_itself_stays_held_until_it_is_restarted() -> None:
    rig = Rig(can_renew=False)
    rig.read(gpu())
    rig.read(LOST)
    assert rig.probe.orders == ["let go"]
    assert rig.read(gpu(), for_s=600) == {"gpu.lost"}
    assert "restart this worker" in rig.own_holds.held[0].reason
    assert rig.probe.orders == ["let go", "take up"]
    restarted = Rig(can_renew=False, inherited=rig.own_holds.held)
    restarted.has_opened = False
    assert restarted.read(gpu(), for_s=28) == {"gpu.lost"}
    assert restarted.read(gpu(), for_s=8) == set()


def test_one_that_was_never_open_had_nothing_on_the_gpu() -> None:
    rig = Rig(can_renew=False)
    rig.has_opened = False
    assert rig.read(LOST) == {"gpu.lost"}
    rig.has_opened = False
    assert rig.read(gpu(), for_s=40) == set()


def test_an_operator_clears_a_hold_and_one_whose_reading_is_still_bad_comes_again() -> None:
    rig = Rig(can_renew=False)
    rig.read(gpu())
    rig.read(LOST)
    rig.read(gpu(), for_s=60)
    rig.own_holds.cleared["gpu.lost"] = AT + timedelta(seconds=rig.now_s)
    assert rig.read(gpu()) == set()
    assert rig.read(LOST) == {"gpu.lost"}


def test_a_warning_is_said_once_and_so_is_its_end(caplog: pytest.LogCaptureFixture) -> None:
    rig = Rig({"SLUICEGATE_HEALTH": "warn"})
    with caplog.at_level(logging.WARNING):
        rig.read(LOST, for_s=20, notes=("CUDA's order is not known",))
        rig.read(gpu(), for_s=40, notes=("CUDA's order is not known",))
    assert rig.rules == set() or all(hold.is_shadow for hold in rig.own_holds.held)
    said = [record.getMessage() for record in caplog.records]
    assert len([line for line in said if "gpu.lost would hold this worker: GPU 0: it fell off the bus" in line]) == 1
    assert said.count("sluicegate: gpu.lost is over") == 1
    assert said.count("sluicegate: CUDA's order is not known") == 1
