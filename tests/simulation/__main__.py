"""`python -m tests.simulation [--seeds N] [--workers N] [--first N] [--jobs N]`: play many seeds (docs/simulation.md).

The first seed that breaks a promise is told with its story. Exit code 0: every promise held in every seed; 1: not.
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor

from tests.simulation.world import Broken, World

TOLD_EVERY_S = 30.0


def play(seed: int, workers: int) -> tuple[int, str]:
    """The events of one seed, and what was broken (nothing: an empty text)."""
    world = World(seed, workers)
    try:
        return world.run(), ""
    except Broken as broken:
        return world.events, str(broken)
    finally:
        # The collector is off in a process that plays: within one story nothing becomes garbage that it would find.
        del world
        gc.collect()


def _count(least: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        value = int(text)
        if value < least:
            raise argparse.ArgumentTypeError(f"{value} is less than {least}")
        return value

    return parse


def main(arguments: list[str] | None = None) -> int:
    """Run the command; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description="Simulate fleets from seeds.")
    parser.add_argument("--seeds", type=_count(1), default=1000, help="how many (default: %(default)s)")
    parser.add_argument("--workers", type=_count(1), default=10_000, help="in each fleet (default: %(default)s)")
    parser.add_argument("--first", type=_count(0), default=1, help="the first seed (default: %(default)s)")
    cores = len(os.sched_getaffinity(0))
    parser.add_argument("--jobs", type=_count(1), default=cores, help="processes (default: one a core, %(default)s)")
    options = parser.parse_args(arguments)
    began = told = time.monotonic()
    events = done = 0
    with ProcessPoolExecutor(max_workers=options.jobs, initializer=gc.disable) as pool:
        seeds = range(options.first, options.first + options.seeds)
        for seed, (count, broken) in zip(seeds, pool.map(play, seeds, [options.workers] * options.seeds), strict=True):
            events, done = events + count, done + 1
            if broken:
                print(broken, file=sys.stderr)
                pool.shutdown(cancel_futures=True)
                return 1
            if (now := time.monotonic()) - told >= TOLD_EVERY_S:
                told = now
                print(f"  {done} of {options.seeds} seeds, to {seed}, {now - began:.0f} s", file=sys.stderr, flush=True)
    took = time.monotonic() - began
    print(
        f"{done} seeds of {options.workers:,} workers: every promise held; "
        f"{events:,} events, {took:.0f} s in {options.jobs} process{'es' if options.jobs > 1 else ''}, "
        f"{events / took:,.0f} events/s"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
