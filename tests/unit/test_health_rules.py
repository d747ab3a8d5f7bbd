"""The worker's own rules: each by what it reads, and what it says."""

from __future__ import annotations

from datetime import timedelta

import pytest

from sluicegate.schemas.health.judge import Memory, clear, judge_silence, stand_by
from sluicegate.schemas.health.latches import Latch
from sluicegate.schemas.health.local_holds import LocalHold
from sluicegate.schemas.health.readings import DeviceState, DriverState, GpuReading, HostReading, XidSeen
from sluicegate.schemas.health.rules.table import RULES
from sluicegate.schemas.holds.hold import Cause
from tests.unit.health import AT, GIB, PLACE, Judged, gpu, look, thresholds

LATER = AT + timedelta(seconds=1002)
"""When the first look is."""


def seen(code: int, ago_s: float = 0.0) -> XidSeen:
    return XidSeen(code=code, at=LATER - timedelta(seconds=ago_s))


HOLDING = {
    "gpu.recovery": gpu(recovery_action=1),
    "gpu.lost": gpu(state=DeviceState.LOST),
    "gpu.missing": gpu(state=DeviceState.MISSING),
    "gpu.unresponsive": gpu(state=DeviceState.UNRESPONSIVE),
    "gpu.xid": gpu(xids=(seen(79),)),
    "gpu.ecc": gpu(ecc_uncorrected=1, recovery_action=None),
    "gpu.remap_failed": gpu(is_remap_failed=True),
    "gpu.retired": gpu(retired_pages=63),
    "gpu.heat": gpu(temperature_celsius=90),
    "capacity.gpu_memory": gpu(memory_free_bytes=1 * GIB),
}
WARNING = {
    "gpu.remap": gpu(is_remap_pending=True),
    "gpu.retirement": gpu(is_retirement_pending=True),
    "gpu.links": gpu(links_down=2),
    "gpu.xid_seen": gpu(xids=(seen(12345),)),
}


def test_a_gpu_in_order_neither_holds_nor_warns() -> None:
    judged = Judged.by({"SLUICEGATE_CAPACITY_RESOURCES": "gpu_memory,memory,cpu"}).see(gpu(), for_s=60)
    assert (judged.rules, judged.warnings) == (set(), set())


@pytest.mark.parametrize("rule", HOLDING)
def test_each_rule_of_a_gpu_holds_its_worker_and_says_why(rule: str) -> None:
    judged = Judged.by().see(HOLDING[rule], for_s=6)
    assert rule in judged.rules
    (hold,) = [hold for hold in judged.holds if hold.rule == rule]
    assert str(hold.scope) == "worker:celery@h1"
    assert hold.cause is (Cause.CAPACITY if rule.startswith("capacity") else Cause.HEALTH)
    assert hold.reason.startswith("GPU 0: ")
    assert "resumes" in hold.reason


@pytest.mark.parametrize("rule", HOLDING)
def test_each_rule_takes_as_many_bad_looks_in_a_row_as_it_says(rule: str) -> None:
    judged = Judged.by(file={"rules": {rule: {"for": 4}}}).see(HOLDING[rule], for_s=6)
    assert rule not in judged.rules
    judged.see(gpu()).see(HOLDING[rule], for_s=6)
    assert rule not in judged.rules
    assert rule in judged.see(HOLDING[rule]).rules


@pytest.mark.parametrize("rule", HOLDING)
@pytest.mark.parametrize("action", ["warn", "off"])
def test_a_rule_that_warns_says_that_it_would_have_held_and_one_that_is_off_says_nothing(
    rule: str, action: str
) -> None:
    judged = Judged.by({"SLUICEGATE_HEALTH_RULES": f"{rule}={action}"}).see(HOLDING[rule], for_s=6)
    assert rule not in judged.rules
    assert judged.verdict is not None
    would = {warned.rule: warned.would_hold for warned in judged.verdict.warned}
    assert (would.get(rule) is not None) is (action == "warn")


@pytest.mark.parametrize("rule", WARNING)
def test_what_is_no_reason_not_to_run_only_warns(rule: str) -> None:
    judged = Judged.by().see(WARNING[rule], for_s=6)
    assert judged.rules == set()
    assert judged.warnings == {rule}


@pytest.mark.parametrize("state", [DriverState.NOT_LOADED, DriverState.MISMATCH])
def test_a_driver_that_is_down_holds_the_host_where_there_were_gpus_and_only_there(state: DriverState) -> None:
    assert Judged.by().see(driver=state).rules == set()
    judged = Judged.by().see(gpu()).see(driver=state)
    (hold,) = judged.holds
    assert hold.rule == {"not_loaded": "driver.down", "mismatch": "driver.mismatch"}[state.value]
    assert str(hold.scope) == "host:h1"
    assert Judged.by().see(driver=state, had_gpus=True).rules == {hold.rule}


@pytest.mark.parametrize(
    "state", sorted(set(DriverState) - {DriverState.NOT_LOADED, DriverState.MISMATCH, DriverState.UNRESPONSIVE})
)
def test_no_other_state_of_a_driver_holds_a_worker_without_gpus_or_lets_go_of_one_that_lost_its_gpu(
    state: DriverState,
) -> None:
    assert Judged.by().see(driver=state, for_s=60).rules == set()
    judged = Judged.by().see(gpu(state=DeviceState.LOST)).see(driver=state, for_s=600)
    assert judged.rules == {"gpu.lost"}


def test_a_driver_that_does_not_answer_holds_a_worker_that_has_gpus_and_no_other() -> None:
    assert Judged.by().see(driver=DriverState.UNRESPONSIVE).rules == set()
    judged = Judged.by().see(gpu()).see(driver=DriverState.UNRESPONSIVE)
    assert judged.rules == {"gpu.unresponsive"}


def test_what_is_unknown_is_not_judged() -> None:
    unknown = GpuReading(uuid="GPU-0", index=0)
    judged = Judged.by({"SLUICEGATE_CAPACITY_RESOURCES": "gpu_memory,memory,cpu"}).see(unknown, for_s=60)
    assert (judged.rules, judged.warnings) == (set(), set())


def test_a_host_without_gpus_is_never_judged_by_gpu_memory() -> None:
    judged = Judged.by().see(driver=DriverState.ABSENT, for_s=60)
    assert (judged.rules, judged.warnings) == (set(), set())


# --- numbers and words ---


def test_the_reason_has_the_numbers_and_what_must_change() -> None:
    judged = Judged.by().see(gpu(memory_free_bytes=int(1.9 * GIB)))
    assert judged.reason("capacity.gpu_memory") == ("GPU 0: 1.8 of 24.0 GiB free (7.9 % < 20 %); resumes above 25 %")
    (hold,) = judged.holds
    assert hold.numbers == {
        "gpus": "0",
        "availableBytes": int(1.9 * GIB),
        "totalBytes": 24 * GIB,
        "ownBytes": 0,
        "threshold": 0.2,
        "release": 0.25,
    }


@pytest.mark.parametrize(
    ("free", "is_held"), [(2 * 10**9, False), (2 * 10**9 - 1, True), (199 * 10**7, True), (2 * 10**9 + 1, False)]
)
def test_exactly_a_fifth_runs_and_a_byte_less_holds(free: int, is_held: bool) -> None:
    judged = Judged.by().see(gpu(memory_total_bytes=10**10, memory_free_bytes=free))
    assert bool(judged.rules) is is_held


def test_what_the_fleet_itself_uses_does_not_drain_its_own_host() -> None:
    ours = gpu(memory_free_bytes=1 * GIB, memory_own_bytes=22 * GIB)
    assert Judged.by().see(ours).rules == set()
    assert Judged.by({"SLUICEGATE_CAPACITY_USE": "total"}).see(ours).rules == {"capacity.gpu_memory"}
    strangers = gpu(memory_free_bytes=1 * GIB, memory_own_bytes=2 * GIB)
    assert "3.0 of 24.0 GiB free or our own" in Judged.by().see(strangers).reason("capacity.gpu_memory")


def test_what_is_said_to_be_ours_is_never_more_than_what_is_used() -> None:
    """A process may be counted by the driver on two GPUs, and reserved memory is nobody's."""
    mistaken = gpu(memory_free_bytes=1 * GIB, memory_reserved_bytes=21 * GIB, memory_own_bytes=100 * GIB)
    assert Judged.by().see(mistaken).rules == {"capacity.gpu_memory"}


def test_without_attribution_memory_is_not_judged_and_one_warning_has_the_cure() -> None:
    blind = gpu(memory_free_bytes=1 * GIB, memory_own_bytes=None)
    judged = Judged.by().see(blind, is_attributable=False, for_s=60)
    assert (judged.rules, judged.warnings) == (set(), {"gpu.unattributed"})
    judged = Judged.by({"SLUICEGATE_CAPACITY_USE": "total"}).see(blind, is_attributable=False)
    assert (judged.rules, judged.warnings) == ({"capacity.gpu_memory"}, set())


def test_of_several_gpus_all_must_be_below_or_any_as_one_likes() -> None:
    full, free = gpu(0, memory_free_bytes=0), gpu(1)
    assert Judged.by().see(full, free).rules == set()
    assert Judged.by({"SLUICEGATE_CAPACITY_GPUS": "any"}).see(full, free).rules == {"capacity.gpu_memory"}
    judged = Judged.by().see(full, gpu(1, memory_free_bytes=GIB))
    assert judged.reason("capacity.gpu_memory").count("GPU ") == 2


def test_a_gpu_that_does_not_serve_has_no_say_in_the_memory_that_is_left() -> None:
    judged = Judged.by().see(gpu(0, state=DeviceState.LOST), gpu(1, memory_free_bytes=0))
    assert judged.rules == {"gpu.lost", "capacity.gpu_memory"}


def test_memory_and_cores_of_the_host_hold_the_host_where_they_are_metered() -> None:
    host = HostReading(cores=16.0, free_cores=0.8, memory_total_bytes=100 * GIB, memory_available_bytes=19 * GIB)
    assert Judged.by().see(host=host).rules == set()
    judged = Judged.by({"SLUICEGATE_CAPACITY_RESOURCES": "memory,cpu"}).see(host=host)
    assert {str(hold.scope) for hold in judged.holds} == {"host:h1"}
    assert judged.reason("capacity.memory") == (
        "host memory: 19.0 of 100.0 GiB free (19.0 % < 20 %); resumes above 25 %"
    )
    assert judged.reason("capacity.cpu") == "cores: 0.80 of 16.00 free (5.0 % < 20 %); resumes above 25 %"


# --- the driver's verdict, and Xids ---


def test_an_xid_is_over_when_the_driver_has_asked_for_nothing_for_a_while() -> None:
    judged = Judged.by().see(gpu(xids=(seen(79),)))
    assert judged.rules == {"gpu.xid"}
    assert "Xid 79 (ROBUST_CHANNEL_GPU_HAS_FALLEN_OFF_THE_BUS)" in judged.reason("gpu.xid")
    judged.see(gpu(xids=(seen(79),)), for_s=56)
    assert judged.rules == {"gpu.xid"}
    assert judged.see(gpu(xids=(seen(79),)), for_s=10).rules == set()


def test_an_old_xid_of_a_gpu_that_its_driver_finds_in_order_does_not_hold_a_worker_that_starts() -> None:
    assert Judged.by().see(gpu(xids=(seen(79, ago_s=3600),))).rules == set()


def test_without_the_drivers_verdict_an_xid_holds_until_the_host_boots_or_it_is_cleared() -> None:
    sick = gpu(xids=(seen(79, ago_s=3600),), recovery_action=None)
    judged = Judged.by().see(sick, for_s=3600)
    assert judged.rules == {"gpu.xid"}
    assert "health clear" in judged.reason("gpu.xid")
    judged.memory = clear(judged.memory, "gpu.xid", AT + timedelta(seconds=judged.now_s))
    assert judged.see(sick, for_s=60).rules == set()
    again = XidSeen(code=79, at=AT + timedelta(seconds=judged.now_s + 1))
    assert judged.see(gpu(xids=(seen(79), again), recovery_action=None)).rules == {"gpu.xid"}


def test_links_xids_hold_only_where_the_driver_calls_for_something() -> None:
    assert Judged.by().see(gpu(xids=(seen(149),))).warnings == {"gpu.xid_seen"}
    judged = Judged.by().see(gpu(xids=(seen(149),), recovery_action=1))
    assert judged.rules == {"gpu.recovery", "gpu.xid"}


def test_an_applications_xid_warns_the_second_time_within_a_day() -> None:
    assert Judged.by().see(gpu(xids=(seen(31),))).warnings == set()
    assert Judged.by().see(gpu(xids=(seen(31), seen(31, ago_s=86_390)))).warnings == {"gpu.xid_seen"}
    assert Judged.by().see(gpu(xids=(seen(31), seen(31, ago_s=86_410)))).warnings == set()


def test_the_table_of_xids_can_be_overridden() -> None:
    file = {"xids": {"hold": [13], "ignore": [79]}}
    assert Judged.by(file=file).see(gpu(xids=(seen(13),))).rules == {"gpu.xid"}
    assert Judged.by(file=file).see(gpu(xids=(seen(79),))).rules == set()


def test_ecc_errors_count_where_they_grow_and_the_driver_asks_for_something() -> None:
    judged = Judged.by().see(gpu(ecc_uncorrected=3))
    judged.see(gpu(ecc_uncorrected=3, recovery_action=2))
    assert judged.rules == {"gpu.recovery"}
    judged.see(gpu(ecc_uncorrected=4, recovery_action=2))
    assert judged.rules == {"gpu.recovery", "gpu.ecc"}


# --- heat, throttling, links ---


def test_heat_needs_three_looks_and_five_degrees_for_a_minute() -> None:
    judged = Judged.by().see(gpu(temperature_celsius=91), for_s=4)
    assert judged.rules == set()
    judged.see(gpu(temperature_celsius=91))
    assert judged.reason("gpu.heat") == "GPU 0: 91 °C >= its slowdown line of 90 °C; resumes 5 °C below it"
    assert judged.see(gpu(temperature_celsius=86), for_s=600).rules == {"gpu.heat"}
    assert judged.see(gpu(temperature_celsius=85), for_s=60).rules == {"gpu.heat"}
    assert judged.see(gpu(temperature_celsius=85)).rules == set()


def test_the_margin_goes_before_the_temperature() -> None:
    assert Judged.by().see(gpu(temperature_celsius=99, slowdown_margin_celsius=12), for_s=10).rules == set()
    judged = Judged.by().see(gpu(temperature_celsius=50, slowdown_margin_celsius=-2), for_s=10)
    assert judged.reason("gpu.heat") == "GPU 0: 2 °C past its slowdown line; resumes 5 °C below it"


def test_six_throttled_minutes_of_ten_warn_and_five_do_not() -> None:
    hot = gpu(clock_event_reasons=0x40)
    judged = Judged.by().see(gpu(clock_event_reasons=0x4), for_s=78)
    assert judged.see(hot, for_s=5 * 60).warnings == set()
    assert judged.see(hot, for_s=70).warnings == {"gpu.throttle"}
    assert judged.rules == set()


def test_214_boots_with_links_that_come_up_late_hold_nothing() -> None:
    """A published case: after planned reboots 214 of 288 hosts were taken for fatally broken."""
    edges = []
    for boot in range(214):
        judged = Judged.by()
        for uptime_s in range(20, 300, 10):
            host = HostReading(boot_id=f"b{boot}", uptime_s=float(uptime_s))
            judged.see(gpu(0, links_down=1 + boot % 18), gpu(1, links_down=boot % 3), host=host)
        assert judged.warnings == set()
        judged.see(gpu(0, links_down=1), gpu(1), for_s=60)
        assert judged.warnings == {"gpu.links"}
        edges += judged.edges or []
    assert edges == []


# --- lives, silence, clearing ---


def test_a_gpu_that_others_may_use_warns_where_it_is_missing() -> None:
    judged = Judged.by().see(gpu(), gpu_count=7, expected_gpu_count=8)
    assert (judged.rules, judged.warnings) == (set(), {"gpu.inventory"})
    judged = Judged.by().see(gpu(state=DeviceState.MISSING), gpu_count=7, expected_gpu_count=8)
    assert (judged.rules, judged.warnings) == ({"gpu.missing"}, set())


def test_a_hold_of_an_earlier_life_stands_until_its_own_rule_has_seen_enough() -> None:
    sick = Judged.by().see(gpu(state=DeviceState.LOST))
    judged = Judged.by()
    judged.memory = stand_by(sick.holds, judged.thresholds, Memory(), judged.now_s)
    judged.see(gpu(), for_s=30)
    assert judged.holds == sick.holds
    assert judged.see(gpu(), for_s=4).rules == set()


def test_a_hold_of_a_rule_that_is_off_now_or_unknown_is_not_taken_over() -> None:
    held = Judged.by().see(gpu(state=DeviceState.LOST)).holds
    off = thresholds({"SLUICEGATE_HEALTH_RULES": "gpu.lost=off"})
    assert stand_by(held, off, Memory(), 0.0).latches.get("gpu.lost", Latch()).taken is None
    unheard = LocalHold(rule="gpu.gone", cause=Cause.HEALTH, scope=held[0].scope, reason="?", since=AT)
    assert stand_by((unheard,), thresholds(), Memory(), 0.0).latches == {}


def test_a_silent_probe_holds_a_worker_with_gpus_and_no_other() -> None:
    for first, expected in ((look(gpu()), {"probe.silent"}), (look(driver=DriverState.ABSENT), set())):
        judged = Judged.by().take([first])
        verdict = judge_silence(first, 6.5, judged.thresholds, judged.memory, PLACE, LATER, judged.now_s + 6.5)
        assert {hold.rule for hold in verdict.holds} == expected


def test_what_was_well_before_a_silence_counts_no_more() -> None:
    judged = Judged.by().see(gpu(memory_free_bytes=0)).see(gpu(), for_s=28)
    verdict = judge_silence(look(gpu()), 6.5, judged.thresholds, judged.memory, PLACE, LATER, judged.now_s + 6)
    judged.memory, judged.now_s = verdict.memory, judged.now_s + 6
    judged.see(gpu(), for_s=30)
    assert "capacity.gpu_memory" in judged.rules


def test_a_cleared_hold_comes_again_where_its_reading_is_still_bad() -> None:
    judged = Judged.by().see(gpu(state=DeviceState.LOST))
    judged.memory = clear(judged.memory, None, LATER)
    assert judged.see(gpu(state=DeviceState.LOST)).rules == {"gpu.lost"}
    judged.memory = clear(judged.memory, "gpu.lost", LATER)
    assert judged.see(gpu()).rules == set()


def test_a_second_gpu_that_breaks_is_told_in_the_hold_that_stands() -> None:
    judged = Judged.by().see(gpu(0, state=DeviceState.LOST), gpu(1))
    since = judged.holds[0].since
    judged.see(gpu(0, state=DeviceState.LOST), gpu(1, state=DeviceState.LOST))
    (hold,) = judged.holds
    assert "GPU 1" in hold.reason
    assert hold.since == since


def test_every_rule_that_can_hold_is_tried_above() -> None:
    tried = set(HOLDING) | {"driver.down", "driver.mismatch", "probe.silent", "capacity.memory", "capacity.cpu"}
    assert tried == {name for name, rule in RULES.items() if rule.can_hold}
