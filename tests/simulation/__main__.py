"""`python -m tests.simulation [--seeds N] [--workers N] [--first N]`: play many seeds; the first that breaks is told.

Exit code 0: every promise held in every seed; 1: not.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor

from tests.simulation.world import Broken, World


def play(seed: int, workers: int) -> tuple[int, str]:
    """The events of one seed, and what was broken (nothing: an empty text)."""
    world = World(seed, workers)
    try:
        return world.run(), ""
    except Broken as broken:
        return world.events, str(broken)


def main(arguments: list[str] | None = None) -> int:
    """Run the command; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description="Simulate fleets from seeds.")
    parser.add_argument("--seeds", type=int, default=1000, help="how many (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=10_000, help="in each fleet (default: %(default)s)")
    parser.add_argument("--first", type=int, default=1, help="the first seed (default: %(default)s)")
    options = parser.parse_args(arguments)
    began = time.monotonic()
    events = done = 0
    with ProcessPoolExecutor(max_workers=os.cpu_count()) as pool:
        seeds = range(options.first, options.first + options.seeds)
        for seed, (count, broken) in zip(seeds, pool.map(play, seeds, [options.workers] * options.seeds), strict=True):
            events, done = events + count, done + 1
            if broken:
                print(broken, file=sys.stderr)
                pool.shutdown(cancel_futures=True)
                return 1
            if done % 20 == 0:
                print(f"  {done} of {options.seeds} seeds, to {seed}", file=sys.stderr, flush=True)
    took = time.monotonic() - began
    print(f"{done} seeds of {options.workers:,} workers: every promise held; {events:,} events, {took:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
