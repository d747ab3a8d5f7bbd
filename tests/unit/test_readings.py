"""Readings on the wire, and what of them matters."""

from __future__ import annotations

from dataclasses import fields, replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluicegate.schemas.errors import InvalidInput
from sluicegate.schemas.health import resources, wire
from sluicegate.schemas.health.readings import (
    DeviceState,
    DriverState,
    GpuReading,
    HostReading,
    Readings,
    XidSeen,
)
from sluicegate.schemas.health.resources import Resources, is_notable

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
GIB = 1 << 30

counts = st.none() | st.integers(0, 1 << 50)
texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=40)
gpus = st.builds(
    GpuReading,
    uuid=texts,
    index=st.none() | st.integers(0, 15),
    name=st.none() | texts,
    state=st.sampled_from(DeviceState),
    memory_free_bytes=counts,
    memory_own_bytes=counts,
    slowdown_margin_celsius=st.none() | st.integers(-40, 90),
    is_remap_failed=st.none() | st.booleans(),
    xids=st.lists(st.builds(XidSeen, code=st.integers(0, 200), at=st.just(NOON)), max_size=3).map(tuple),
)
readings = st.builds(
    Readings,
    number=st.integers(0, 1 << 40),
    at=st.just(NOON),
    driver=st.sampled_from(DriverState),
    driver_version=st.none() | texts,
    gpus=st.lists(gpus, max_size=3).map(tuple),
    gpu_count=st.none() | st.integers(0, 16),
    had_gpus=st.booleans(),
    is_attributable=st.none() | st.booleans(),
    host=st.builds(HostReading, boot_id=st.none() | texts, cores=st.none() | st.floats(0, 512), uptime_s=st.none()),
    notes=st.lists(texts, max_size=3).map(tuple),
)
WELL = Readings(
    number=1,
    at=NOON,
    driver=DriverState.SERVING,
    gpus=(GpuReading(uuid="GPU-1", memory_total_bytes=24 * GIB, memory_free_bytes=20 * GIB, temperature_celsius=40),),
    host=HostReading(cores=8.0, free_cores=6.0, memory_total_bytes=64 * GIB, memory_available_bytes=32 * GIB),
)


@given(readings)
def test_readings_come_back_from_the_wire_as_they_were(found: Readings) -> None:
    assert resources.from_wire(wire.to_wire(found)) == found


def test_every_field_of_a_device_and_of_a_host_is_on_the_wire() -> None:
    said = {"uuid", "name", "state", "xids", *wire.GPU_COUNTS, *wire.GPU_FLAGS}
    assert said == {field.name for field in fields(GpuReading)}
    assert {"boot_id", *wire.HOST_FIGURES} == {field.name for field in fields(HostReading)}


def test_what_is_unknown_is_left_out_and_is_no_number() -> None:
    said = wire.to_wire(replace(WELL, gpus=(GpuReading(uuid="GPU-1"),)))
    assert said["gpus"] == [{"uuid": "GPU-1", "state": "serving"}]


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
        max_leaves=8,
    )
)
def test_whatever_a_stranger_writes_is_refused_as_that(said: Any) -> None:
    for read in (resources.from_wire, Resources.from_wire):
        with pytest.raises(InvalidInput):
            read(said)


@pytest.mark.parametrize(
    "wrong",
    [
        {"gpus": [{"uuid": "a", "state": "serving"}] * 65},
        {"gpus": [{"uuid": "a", "state": "well"}]},
        {"gpus": [{"uuid": "a", "state": "serving", "memoryFreeBytes": 1.5}]},
        {"gpus": [{"uuid": "a", "state": "serving", "memoryFreeBytes": 1 << 70}]},
        {"host": {"freeCores": float("nan")}},
        {"host": {"freeCores": -1}},
        {"driver": "well"},
        {"at": "noon"},
    ],
)
def test_a_field_that_is_wrong_makes_no_readings(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput):
        resources.from_wire(wire.to_wire(WELL) | wrong)


def test_a_beat_says_them_whole_or_says_which_they_are() -> None:
    whole = replace(Resources.whole(7, WELL, interval_ms=2000), age_ms=12)
    same = whole.mark()
    assert same.to_wire() == {"sameAs": 7, "sha256": whole.digest, "ageMs": 12, "intervalMs": 2000}
    assert Resources.from_wire(same.to_wire()) == same
    assert same.found_in(whole.encode()) == replace(whole, readings=replace(WELL, number=7))


def test_readings_that_somebody_wrote_over_are_unknown() -> None:
    """A heartbeat is signed; where the readings lie, others may write."""
    same = Resources.whole(7, WELL).mark()
    for forged in (Resources.whole(7, changed(memory_free_bytes=0)).encode(), b"[]", b"", None):
        assert same.found_in(forged).readings is None
    assert replace(same, digest="").found_in(Resources.whole(7, WELL).encode()).readings is None


def changed(**gpu: Any) -> Readings:
    return replace(WELL, gpus=(replace(WELL.gpus[0], **gpu),))


@pytest.mark.parametrize(
    ("now", "is_told"),
    [
        (replace(WELL, number=2, at=datetime(2026, 1, 2, tzinfo=UTC)), False),
        (changed(memory_free_bytes=20 * GIB - 1), True),
        (changed(temperature_celsius=42), False),
        (changed(temperature_celsius=43), True),
        (changed(temperature_celsius=None), True),
        (changed(state=DeviceState.LOST), True),
        (changed(xids=(XidSeen(code=79, at=NOON),)), True),
        (changed(recovery_action=1), True),
        (replace(WELL, driver=DriverState.UNRESPONSIVE), True),
        (replace(WELL, host=replace(WELL.host, memory_available_bytes=32 * GIB - (1 << 20))), False),
        (replace(WELL, host=replace(WELL.host, memory_available_bytes=31 * GIB)), True),
        (replace(WELL, gpus=()), True),
    ],
)
def test_what_matters_is_told_at_once_and_what_never_stands_still_is_not(now: Readings, is_told: bool) -> None:
    assert is_notable(WELL, now) is is_told
