"""`python -m tests.bench [--write]`: print the table of docs/benchmarks.md, and with --write put it there."""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

from sluicegate.control.stack import Stack
from sluicegate.schemas.errors import SluicegateError
from tests.bench import gate_check, pauses, throughput

PAGE = Path(__file__).resolve().parents[2] / "docs" / "benchmarks.md"
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"


def main(arguments: list[str] | None = None) -> int:
    """Run the command; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description="Measure, beside references.")
    parser.add_argument("--write", action="store_true", help=f"put the table into {PAGE.relative_to(PAGE.parents[1])}")
    options = parser.parse_args(arguments)
    try:
        table = measured()
    except KeyboardInterrupt:
        return 130
    except (SluicegateError, OSError, AssertionError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    print(table)
    if options.write:
        before, _, rest = PAGE.read_text().partition(BEGIN)
        _, _, after = rest.partition(END)
        PAGE.write_text(f"{before}{BEGIN}\n{table}\n{END}{after}")
    return 0


def measured() -> str:
    """The table, as Markdown, with the line that says what it was measured on."""
    with (
        tempfile.TemporaryDirectory(prefix="sluicegate-bench-", ignore_cleanup_errors=True) as directory,
        Stack(Path(directory), actor="bench") as stack,
    ):
        _say("gate check")
        check = gate_check.measure(stack.valkey.url)
        speed = throughput.measure(stack, _say)
        ours, vanilla = pauses.measure(stack, _say)
    low, high = speed.interval
    rows = [
        ("what", "here", "reference, same run", "ratio", "to reach"),
        ("---",) * 5,
        (
            "gate check and critical section, running (median)",
            f"{check.check_ns:.0f} ns",
            f"Redis GET {check.redis_get_ns / 1000:.0f} µs",
            f"1 : {check.ratio:,.0f}",
            "≤ 300 ns",
        ),
        (
            "of that, the read of the shared word (median)",
            f"{check.read_ns:.0f} ns",
            "",
            "",
            "",
        ),
        (
            "`checkpoint()` in a pool child, running (median)",
            f"{check.checkpoint_ns:.0f} ns",
            f"Redis GET {check.redis_get_ns / 1000:.0f} µs",
            f"1 : {check.redis_get_ns / check.checkpoint_ns:,.0f}",
            "≤ 300 ns",
        ),
        (
            f"no-op tasks a second, prefork, {throughput.SLOTS} slots (median of {len(speed.ratios)} pairs)",
            f"{speed.plugin_per_s:,.0f}",
            f"plain Celery {speed.vanilla_per_s:,.0f}",
            f"{speed.ratio:.3f} ({low:.3f}-{high:.3f})",
            "≥ 0.98",
        ),
        (
            f"starts after acknowledgement, {ours.pauses} pauses",
            f"{ours.late_starts}",
            f"`cancel_consumer` {vanilla.late_starts}, in {vanilla.leaky_pauses} of {vanilla.pauses} pauses",
            "",
            "0",
        ),
        (
            "pause call → acknowledged (median)",
            f"{ours.median_acknowledged_ms:.0f} ms",
            f"`cancel_consumer` {vanilla.median_acknowledged_ms:.0f} ms",
            "",
            "",
        ),
        (
            "pause call → last start (median, greatest)",
            f"{ours.median_last_start_ms:.0f} ms, {ours.greatest_last_start_ms:.0f} ms",
            f"`cancel_consumer` {vanilla.median_last_start_ms:.0f} ms, {vanilla.greatest_last_start_ms:.0f} ms",
            # Where nothing started after the call in most pauses, there is nothing to divide by.
            f"1 : {vanilla.median_last_start_ms / ours.median_last_start_ms:.1f}" if ours.median_last_start_ms else "",
            "p99 ≤ 50 ms",
        ),
    ]
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([*lines, "", _machine()])


def _machine() -> str:
    return (
        f"Measured on {os.cpu_count()} processors ({platform.machine()}), Python {platform.python_version()}, "
        f"Celery {version('celery')}, kombu {version('kombu')}, redis-py {version('redis')}."
    )


_began = time.monotonic()


def _say(text: str) -> None:
    print(f"{time.monotonic() - _began:6.1f} s  {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
