"""The probe: a real child process, on a driver that has NVML's symbols."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from sluicegate.schemas.health.readings import DeviceState, DriverState, GpuReading, Readings
from sluicegate.workers.probes.probe import Probe, ProbeSettings
from tests.fakes.nvml import GIB, FakeNvml, built

WAIT_S = 30.0
INTERVAL_S = 0.2


class Listening:
    """A probe, and all that it has told."""

    def __init__(self, folder: Path, environ: Mapping[str, str], **told: Any) -> None:
        self.told: list[Readings] = []
        self._came = threading.Condition()
        self.settings = ProbeSettings(
            **(
                {"is_on": True, "interval_s": INTERVAL_S, "timeout_s": 0.6}
                | {"runtime": folder / "run" / "default", "history": folder / "state" / "gpus.ndjson"}
                | told
            )
        )
        self.probe = Probe(on_readings=self._take, told=self.settings, environ=os.environ | environ)

    def _take(self, readings: Readings) -> None:
        with self._came:
            self.told.append(readings)
            self._came.notify_all()

    def until(self, is_right: Callable[[Readings], bool], *, since: int = 0) -> Readings:
        """The first readings for which that is so, beginning with those at `since`."""
        found: list[Readings] = []

        def look() -> bool:
            found[:] = [one for one in self.told[since:] if is_right(one)]
            return bool(found)

        with self._came:
            assert self._came.wait_for(look, WAIT_S), self.told[-1:]
        return found[0]

    def next(self) -> Readings:
        """The readings of a look that began later than now: the second from here."""
        with self._came:
            since = len(self.told)
            assert self._came.wait_for(lambda: len(self.told) >= since + 2, WAIT_S)
            return self.told[since + 1]

    def gpu(self, is_right: Callable[[GpuReading], bool], index: int = 0) -> GpuReading:
        """The first reading of one GPU for which that is so, from now on."""
        found = self.until(lambda one: len(one.gpus) > index and is_right(one.gpus[index]), since=len(self.told))
        return found.gpus[index]


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built(tmp_path_factory.mktemp("nvml"))


@pytest.fixture
def nvml(library: Path, tmp_path: Path) -> FakeNvml:
    return FakeNvml(library, tmp_path, gpus=2)


@pytest.fixture
def listen(tmp_path: Path) -> Iterator[Callable[..., Listening]]:
    begun: list[Listening] = []

    def start(environ: Mapping[str, str], **told: Any) -> Listening:
        one = Listening(tmp_path, environ, **told)
        begun.append(one)
        one.probe.start()
        return one

    yield start
    for one in begun:
        one.probe.stop()


def test_a_look_tells_of_every_gpu_and_of_the_host(nvml: FakeNvml, listen: Any) -> None:
    found = listen(nvml.environ).until(lambda one: True)
    assert (found.driver, found.driver_version, found.gpu_count) == (DriverState.SERVING, "580.65.06", 2)
    assert found.had_gpus
    first, second = found.gpus
    assert (first.uuid, first.index, first.name, second.index) == (nvml.uuid(0), 0, "Fake H100", 1)
    assert (first.memory_total_bytes, first.memory_free_bytes) == (24 * GIB, 23 * GIB)
    assert (first.recovery_action, first.temperature_celsius, first.slowdown_celsius) == (0, 41, 90)
    assert (first.power_milliwatts, first.utilization_percent, first.is_remap_failed) == (71_000, 3, False)
    assert (first.retired_pages, first.slowdown_margin_celsius, first.links_down) == (None, None, None)
    assert found.host.memory_available_bytes
    assert found.host.cores


def test_without_a_driver_there_is_a_host_and_no_number_is_invented(listen: Any) -> None:
    found = listen({}).until(lambda one: True)
    assert (found.driver, found.gpus, found.gpu_count, found.had_gpus) == (DriverState.ABSENT, (), None, False)
    assert found.host.memory_total_bytes


@pytest.mark.parametrize(
    ("code", "driver"),
    [
        (4, DriverState.FORBIDDEN),
        (9, DriverState.NOT_LOADED),
        (18, DriverState.MISMATCH),
        (999, DriverState.FAILING),
    ],
)
def test_each_way_in_which_a_driver_is_not_there_has_its_word(
    nvml: FakeNvml, listen: Any, code: int, driver: DriverState
) -> None:
    nvml.say({"init": code})
    found = listen(nvml.environ).until(lambda one: True)
    assert (found.driver, found.gpus) == (driver, ())


def test_probing_that_is_off_starts_no_process(nvml: FakeNvml, listen: Any) -> None:
    one = listen(nvml.environ, is_on=False)
    assert one.until(lambda _: True).driver is DriverState.DISABLED
    assert one.probe.pid is None
    assert not nvml.log.exists()


def test_a_fault_is_told_before_the_next_look_and_known_to_the_next_probe(
    nvml: FakeNvml, listen: Any, tmp_path: Path
) -> None:
    one = listen(nvml.environ, interval_s=30.0)
    one.until(lambda _: True)
    nvml.xid(79, gpu=1)
    found = one.until(lambda readings: bool(readings.gpus[1].xids))
    assert [xid.code for xid in found.gpus[1].xids] == [79]
    assert found.gpus[0].xids == ()
    one.probe.stop()
    again = listen(nvml.environ).until(lambda readings: bool(readings.gpus))
    assert again.gpus[1].xids == found.gpus[1].xids


@pytest.mark.parametrize(("code", "state"), [(15, DeviceState.LOST), (16, DeviceState.RESET_REQUIRED)])
def test_a_gpu_that_is_lost_is_told_and_comes_back(nvml: FakeNvml, listen: Any, code: int, state: DeviceState) -> None:
    one = listen(nvml.environ)
    one.until(lambda _: True)
    nvml.say({"error": code}, gpu=0)
    lost = one.gpu(lambda gpu: gpu.state is state)
    assert (lost.uuid, lost.memory_free_bytes) == (nvml.uuid(0), None)
    assert one.probe.latest.gpus[1].state is DeviceState.SERVING
    nvml.say({"error": None}, gpu=0)
    assert one.gpu(lambda gpu: gpu.state is DeviceState.SERVING).memory_free_bytes == 23 * GIB


def test_a_call_that_hangs_is_told_and_the_probe_is_left_alone(nvml: FakeNvml, listen: Any) -> None:
    one = listen(nvml.environ)
    one.until(lambda _: True)
    pid = one.probe.pid
    nvml.say({"hang.nvmlDeviceGetTemperature": 1})
    assert one.gpu(lambda gpu: gpu.state is DeviceState.UNRESPONSIVE, index=1).memory_free_bytes is None
    found = one.next()
    assert (found.driver, found.gpus[0].state) == (DriverState.SERVING, DeviceState.SERVING)
    assert found.host.memory_available_bytes
    nvml.say({"hang.nvmlDeviceGetTemperature": None})
    one.gpu(lambda gpu: gpu.state is DeviceState.SERVING, index=1)
    assert one.probe.pid == pid


def test_a_probe_that_is_killed_is_started_again(nvml: FakeNvml, listen: Any) -> None:
    one = listen(nvml.environ)
    one.until(lambda _: True)
    pid, since = one.probe.pid, len(one.told)
    os.kill(pid, signal.SIGKILL)
    found = one.until(lambda readings: bool(readings.gpus) and one.probe.pid not in (None, pid), since=since)
    assert found.gpus[0].memory_free_bytes == 23 * GIB
    numbers = [readings.number for readings in one.told]
    assert numbers == sorted(set(numbers))


def test_a_probe_that_lets_go_has_no_device_open_and_goes_on_telling(nvml: FakeNvml, listen: Any) -> None:
    one = listen(nvml.environ)
    one.until(lambda _: True)
    assert is_open(one.probe.pid, nvml.device)
    one.probe.let_go()
    since = len(one.told)
    one.until(lambda _: not is_open(one.probe.pid, nvml.device), since=since)
    assert one.next().gpus[0].uuid == nvml.uuid(0)
    assert not is_open(one.probe.pid, nvml.device)
    one.probe.take_up()
    since = len(one.told)
    one.until(lambda _: is_open(one.probe.pid, nvml.device), since=since)


def is_open(pid: int, path: Path) -> bool:
    links = []
    for fd in Path(f"/proc/{pid}/fd").iterdir():
        try:
            links.append(os.readlink(fd))
        except FileNotFoundError:
            continue
    return str(path) in links


def look(environ: Mapping[str, str], folder: Path) -> tuple[int, dict[str, Any]]:
    settings = {"SLUICEGATE_STATE_DIR": str(folder), "SLUICEGATE_RUNTIME_DIR": str(folder / "run")}
    command = [sys.executable, "-m", "sluicegate.workers.probes.look"]
    done = subprocess.run(
        command, env={**os.environ, **settings, **environ}, capture_output=True, text=True, timeout=60
    )
    return done.returncode, json.loads(done.stdout)


def test_one_look_needs_no_worker(nvml: FakeNvml, tmp_path: Path) -> None:
    code, said = look(nvml.environ | {"CUDA_VISIBLE_DEVICES": "1"}, tmp_path)
    assert (code, said["driver"], [gpu["uuid"] for gpu in said["gpus"]]) == (0, "serving", [nvml.uuid(1)])
    code, said = look({}, tmp_path)
    assert (code, said["driver"], said["gpus"]) == (0, "absent", [])
    assert said["host"]["memoryTotalBytes"]


def test_one_look_at_a_driver_that_hangs_ends_and_says_so(nvml: FakeNvml, tmp_path: Path) -> None:
    nvml.say({"hang.nvmlInitWithFlags": "*"})
    code, said = look(nvml.environ | {"SLUICEGATE_PROBE_TIMEOUT_MS": "100"}, tmp_path)
    assert (code, said["driver"]) == (1, "unresponsive")


@pytest.mark.parametrize(
    ("symbol", "gpus"),
    [
        ("nvmlDeviceGetMemoryInfo_v2", "own"),
        ("nvmlDeviceGetFieldValues", "own"),
        ("nvmlDeviceGetComputeRunningProcesses_v3", "own"),
        ("nvmlDeviceGetTotalEccErrors", "own"),
        ("nvmlDeviceGetCurrentClocksEventReasons", "own"),
        ("nvmlEventSetWait_v2", "all"),
    ],
)
def test_whichever_call_hangs_it_is_named_and_ends_with_it(nvml: FakeNvml, listen: Any, symbol: str, gpus: str) -> None:
    one = listen(nvml.environ | {"CUDA_VISIBLE_DEVICES": nvml.uuid(1)})
    one.until(lambda readings: bool(readings.gpus))
    nvml.say({f"hang.{symbol}": "1" if gpus == "own" else "*"})
    hung = one.until(lambda readings: readings.gpus[0].state is DeviceState.UNRESPONSIVE)
    assert symbol.removesuffix("_v2").removesuffix("_v3") in hung.notes[-1]
    assert (hung.driver is DriverState.UNRESPONSIVE) is (gpus == "all")
    # It stays so: one episode is one, also where other calls come back.
    assert {one.next().gpus[0].state for _ in range(4)} == {DeviceState.UNRESPONSIVE}
    nvml.say({f"hang.{symbol}": None})
    assert one.gpu(lambda gpu: gpu.state is DeviceState.SERVING).uuid == nvml.uuid(1)


def test_a_worker_of_another_gpu_never_asks_one_that_hangs(nvml: FakeNvml, listen: Any) -> None:
    one = listen(nvml.environ | {"CUDA_VISIBLE_DEVICES": nvml.uuid(1)})
    one.until(lambda _: True)
    nvml.say({f"hang.{symbol}": "0" for symbol in ("nvmlDeviceGetMemoryInfo_v2", "nvmlDeviceGetTemperature")})
    found = [one.next() for _ in range(4)]
    assert {readings.gpus[0].state for readings in found} == {DeviceState.SERVING}
    assert found[-1].gpus[0].memory_free_bytes == 23 * GIB


def test_after_a_lost_gpu_nothing_spins(nvml: FakeNvml, listen: Any) -> None:
    """NVML then answers whoever waits for its events at once, for ever."""
    one = listen(nvml.environ, interval_s=2.0)
    one.until(lambda _: True)
    nvml.say({"error": 15}, gpu=0)
    one.gpu(lambda gpu: gpu.state is DeviceState.LOST)
    one.next()
    began, before = time.monotonic(), len(nvml.calls(lambda symbol: symbol == "nvmlEventSetWait_v2"))
    one.next()
    waits = len(nvml.calls(lambda symbol: symbol == "nvmlEventSetWait_v2")) - before
    # Each of the waits for the other GPU takes half a second.
    assert waits <= 2 * (time.monotonic() - began) + 2


def test_a_driver_without_the_newer_calls_is_read_as_far_as_it_goes(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, listen: Any
) -> None:
    nvml = FakeNvml(built(tmp_path_factory.mktemp("old"), old=True), tmp_path)
    (gpu,) = listen(nvml.environ).until(lambda one: bool(one.gpus)).gpus
    assert (gpu.state, gpu.memory_total_bytes, gpu.memory_free_bytes) == (DeviceState.SERVING, 24 * GIB, 23 * GIB)
    assert (gpu.recovery_action, gpu.memory_reserved_bytes, gpu.memory_own_bytes) == (None, None, None)


def test_instances_of_a_divided_gpu_have_memory_of_their_own_and_the_faults_of_the_whole(
    nvml: FakeNvml, listen: Any
) -> None:
    halves = {f"mig.{i}.uuid": f"MIG-{i}" for i in (0, 1)} | {f"mig.{i}.total": 10 * GIB for i in (0, 1)}
    nvml.say(halves | {"migs": 2, "mig.0.free": 9 * GIB, "mig.1.free": 2 * GIB}, gpu=1)
    one = listen(nvml.environ | {"CUDA_VISIBLE_DEVICES": "MIG-1"})
    (gpu,) = one.until(lambda readings: bool(readings.gpus)).gpus
    assert (gpu.uuid, gpu.index, gpu.memory_total_bytes, gpu.memory_free_bytes) == ("MIG-1", 1, 10 * GIB, 2 * GIB)
    assert (gpu.utilization_percent, gpu.temperature_celsius) == (None, 41)
    nvml.xid(94, gpu=1)
    assert [xid.code for xid in one.gpu(lambda gpu: bool(gpu.xids)).xids] == [94]


def test_own_memory_is_that_of_the_workers_own_processes(nvml: FakeNvml, listen: Any) -> None:
    """The test is the worker here; a child of it uses a GPU, and so does a stranger."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as ours:
        nvml.say({"processes": f"{ours.pid}:{2 * GIB} 1:{5 * GIB}", "free": 16 * GIB}, gpu=0)
        nvml.say({"processes": f"{ours.pid}:-"}, gpu=1)
        found = listen(nvml.environ).until(lambda one: bool(one.gpus))
        assert [gpu.memory_own_bytes for gpu in found.gpus] == [2 * GIB, None]
        assert found.is_attributable is False


def test_a_process_that_cannot_be_seen_here_makes_own_memory_unknown_and_that_is_said(
    nvml: FakeNvml, listen: Any
) -> None:
    nvml.say({"processes": f"4194303:{GIB}"}, gpu=0)
    found = listen(nvml.environ).until(lambda one: bool(one.gpus))
    assert found.gpus[0].memory_own_bytes is None
    assert any("--pid=host" in note for note in found.notes)


def test_a_gpu_that_was_there_since_the_boot_and_is_not_listed_is_missing(nvml: FakeNvml, listen: Any) -> None:
    one = listen(nvml.environ)
    one.until(lambda _: True)
    one.probe.stop()
    nvml.say({"count": 1})
    found = listen(nvml.environ).until(lambda readings: bool(readings.gpus))
    assert (found.gpu_count, found.expected_gpu_count) == (1, 2)
    assert [(gpu.uuid, gpu.state) for gpu in found.gpus[1:]] == [(nvml.uuid(1), DeviceState.MISSING)]


def test_the_margin_is_counted_from_the_slowdown_line_which_the_driver_tells_as_a_signed_figure(
    nvml: FakeNvml, listen: Any
) -> None:
    """An H200 says a margin of 50, and that it slows down at -2, which came as 4294967294 when read as unsigned."""
    nvml.say({"margin": 50, "field.194": 4294967294}, gpu=0)
    nvml.say({"margin": -3}, gpu=1)
    first, second = listen(nvml.environ).until(lambda one: bool(one.gpus)).gpus
    assert (first.slowdown_margin_celsius, second.slowdown_margin_celsius) == (52, None)
