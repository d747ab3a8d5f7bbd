"""What a probe costs: its share of a core and its memory, with eight GPUs of the fake driver.

    python -m tests.bench.probe_cost [--seconds N] [--gpus N]

The fake driver answers from a file, in microseconds; a real one takes what it takes besides. Exit code 1: a target is
missed.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

from sluicegate.schemas.health.readings import Readings
from sluicegate.workers.probes.probe import Probe, ProbeSettings
from tests.fakes.nvml import FakeNvml, built

MOST_SHARE, MOST_MIB = 0.005, 25.0
INTERVAL_S = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """`share` of one core, over `seconds`; `mib` resident; `first_s`: from its start to its first readings."""

    share: float
    mib: float
    first_s: float
    seconds: float


def measure(seconds: float, gpus: int = 8) -> Cost:
    """The cost of one probe that looks every two seconds, without its start."""
    with tempfile.TemporaryDirectory(prefix="sluicegate-bench-") as place:
        folder = Path(place)
        (folder / "lib").mkdir()
        nvml = FakeNvml(built(folder / "lib"), folder, gpus=gpus)
        # A real driver wakes whoever waits for a fault; this one looks at its file.
        nvml.say({"poll_ms": 500})
        environ = {**os.environ, **nvml.environ}
        # Writing down each call is the test's own cost.
        del environ["FAKE_NVML_LOG"]
        came = threading.Event()

        def take(readings: Readings) -> None:
            if len(readings.gpus) == gpus:
                came.set()

        told = ProbeSettings(
            is_on=True, interval_s=INTERVAL_S, timeout_s=5.0, runtime=folder / "run", history=folder / "gpus.ndjson"
        )
        probe = Probe(on_readings=take, told=told, environ=environ)
        began = time.monotonic()
        probe.start()
        try:
            if not came.wait(60) or probe.pid is None:
                raise OSError("the probe says nothing")
            first_s = time.monotonic() - began
            process = psutil.Process(probe.pid)
            time.sleep(2 * INTERVAL_S)
            before, at = process.cpu_times(), time.monotonic()
            time.sleep(seconds)
            after, span_s = process.cpu_times(), time.monotonic() - at
            used_s = after.user + after.system - before.user - before.system
            return Cost(share=used_s / span_s, mib=process.memory_info().rss / 2**20, first_s=first_s, seconds=span_s)
        finally:
            probe.stop()


def main() -> int:
    """Run the command; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.probe_cost", description="What a probe costs.")
    parser.add_argument("--seconds", type=float, default=120.0, help="how long (default: %(default)s)")
    parser.add_argument("--gpus", type=int, default=8, help="how many GPUs (default: %(default)s)")
    options = parser.parse_args()
    cost = measure(options.seconds, options.gpus)
    print(
        f"{options.gpus} GPUs, every {INTERVAL_S:g} s: {100 * cost.share:.2f} % of a core over {cost.seconds:.0f} s "
        f"(at most {100 * MOST_SHARE:g} %), {cost.mib:.1f} MiB (at most {MOST_MIB:g}), first readings after "
        f"{1000 * cost.first_s:.0f} ms"
    )
    return int(cost.share > MOST_SHARE or cost.mib > MOST_MIB)


if __name__ == "__main__":
    sys.exit(main())
