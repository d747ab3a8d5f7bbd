"""`python -m tests.bench`: measure everything beside its references, and print the table of docs/benchmarks.md.

    python -m tests.bench [--pauses N] [--write]

Exit code 0: measured, and no target is shown to be missed; 1: one is, and is named; 2: it could not run.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

from sluicegate.control.stack import Stack
from sluicegate.schemas.errors import SluicegateError
from tests.bench import figures, gate_check, hot_path, page, pauses, picture, throughput

PAUSES = 300
"""The fewest that say with 95 % what the p99 is at most."""


def main(arguments: list[str] | None = None) -> int:
    """Run the command; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description="Measure, beside references.")
    parser.add_argument("--write", action="store_true", help="put the table and the picture into docs/")
    parser.add_argument("--pauses", type=int, default=PAUSES, help="how many of ours (default: %(default)s)")
    options = parser.parse_args(arguments)
    try:
        found = measured(options.pauses)
    except KeyboardInterrupt:
        return 130
    except (SluicegateError, OSError, AssertionError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    table = figures.table(found)
    print(table)
    if options.write:
        page.put("measured", table)
        picture.draw(found, page.PICTURE)
    for target in figures.untold(found):
        print(f"not told: {target}", file=sys.stderr)
    for target in figures.missed(found):
        print(f"missed: {target}", file=sys.stderr)
    return 1 if figures.missed(found) else 0


def measured(count: int) -> figures.Figures:
    """One run, on one stack."""
    with (
        tempfile.TemporaryDirectory(prefix="sluicegate-bench-", ignore_cleanup_errors=True) as directory,
        Stack(Path(directory), actor="bench") as stack,
    ):
        _say("gate check")
        check = gate_check.measure(stack)
        speed = throughput.measure(stack, _say)
        _say("commands a task")
        costs = hot_path.measure_both(stack)
        return figures.Figures(check=check, speed=speed, costs=costs, pauses=pauses.measure(stack, _say, pauses=count))


_began = time.monotonic()


def _say(text: str) -> None:
    print(f"{time.monotonic() - _began:6.1f} s  {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
