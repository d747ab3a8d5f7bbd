"""`python -m tests.bench`: measure everything beside its references, and print the table of docs/benchmarks.md.

    python -m tests.bench [--pauses N] [--write] [--parts check,speed,costs,pauses] [--keep FILE]

With `--keep` a part's samples are added to those of FILE, and the table comes once every part is there: where others
work on the machine too, the parts can have their turns one by one. A number and its reference are of one part always.
Exit code 0: measured, and no target is shown to be missed; 1: one is, and is named; 2: it could not run.
"""

from __future__ import annotations

import argparse
import pickle
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from sluicegate.control.process.stack import Stack
from sluicegate.schemas.errors import SluicegateError
from tests.bench import figures, gate_check, hot_path, page, pauses, picture, throughput

PARTS = ("check", "speed", "costs", "pauses")
PAUSES = 300
"""The fewest that say with 95 % what the p99 is at most."""

KIND = 2
"""Of the samples that are kept: another number where what a sample is has changed."""


def main(arguments: list[str] | None = None) -> int:
    """Run the command; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description="Measure, beside references.")
    parser.add_argument("--write", action="store_true", help="put the table and the picture into docs/")
    parser.add_argument("--pauses", type=int, default=PAUSES, help="how many of ours (default: %(default)s)")
    parser.add_argument("--parts", default=",".join(PARTS), help="what to measure, if anything (default: %(default)s)")
    parser.add_argument("--keep", type=Path, metavar="FILE", help="where samples are kept from one run to the next")
    options = parser.parse_args(arguments)
    wanted = [part for part in options.parts.split(",") if part]
    if not set(wanted) <= set(PARTS):
        parser.error(f"--parts takes some of {', '.join(PARTS)}")
    try:
        samples = kept(options.keep)
        for name, sample in measured(wanted, options.pauses).items():
            samples[name] = _joined(samples.get(name), sample)
    except KeyboardInterrupt:
        return 130
    except (SluicegateError, OSError, AssertionError, ValueError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    if options.keep:
        options.keep.write_bytes(pickle.dumps({"kind": KIND, "samples": samples}))
    if missing := set(PARTS) - samples.keys():
        print(f"bench: still to measure: {', '.join(sorted(missing))}", file=sys.stderr)
        return 0
    found = figures.Figures(**samples)
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


def kept(path: Path | None) -> dict[str, Any]:
    """The samples of earlier runs, by part."""
    if path is None or not path.exists():
        return {}
    found: dict[str, Any] = pickle.loads(path.read_bytes())
    if found.get("kind") != KIND:
        raise ValueError(f"{path} has samples of another version of this command: take a new file")
    samples: dict[str, Any] = found["samples"]
    return samples


def measured(parts: Sequence[str], count: int) -> dict[str, Any]:
    """A sample of each part that is asked for, on one stack."""
    if not parts:
        return {}
    with (
        tempfile.TemporaryDirectory(prefix="sluicegate-bench-", ignore_cleanup_errors=True) as directory,
        Stack(Path(directory), actor="bench") as stack,
    ):
        ways: dict[str, Callable[[], Any]] = {
            "check": lambda: gate_check.measure(stack),
            "speed": lambda: throughput.measure(stack, _say),
            "costs": lambda: hot_path.measure_both(stack),
            "pauses": lambda: pauses.measure(stack, _say, pauses=count),
        }
        found = {}
        for part in parts:
            _say(part)
            found[part] = ways[part]()
        return found


def _joined(before: Any, now: Any) -> Any:
    """Samples of single blocks and pauses add up; of the rest the newest stands."""
    if isinstance(before, throughput.Throughput):
        return before + now
    if isinstance(before, dict):
        return {name: before[name] + paused for name, paused in now.items()}
    return now


_began = time.monotonic()


def _say(text: str) -> None:
    print(f"{time.monotonic() - _began:6.1f} s  {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
