"""Timing one call that is shorter than the clock can see, and one that is not."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

CALLS = 1_000
"""In one round."""


def rounds_ns(call: Callable[[], object], rounds: int) -> list[float]:
    """Nanoseconds of what the lambda `call` does, one number a round.

    What the loop and the call of a lambda cost is taken off: an empty one is timed in turn.
    """
    return in_turn_ns([call], rounds)[0]


def in_turn_ns(calls: Sequence[Callable[[], object]], rounds: int) -> list[list[float]]:
    """The same of several that take turns, so that what the machine does meanwhile befalls all of them."""
    found: list[list[float]] = [[] for _ in calls]
    for _ in range(rounds):
        empty = _round(_empty)
        for call, times in zip(calls, found, strict=True):
            times.append(max(0.0, _round(call) - empty))
    return found


def each_ns(call: Callable[[], object], count: int) -> list[float]:
    """Nanoseconds of each of `count` calls."""
    found = []
    for _ in range(count):
        began = time.perf_counter_ns()
        call()
        found.append(float(time.perf_counter_ns() - began))
    return found


_empty: Callable[[], object] = lambda: None  # noqa: E731 - what is timed with it is a lambda too


def _round(call: Callable[[], object]) -> float:
    began = time.perf_counter_ns()
    for _ in range(CALLS):
        call()
    return (time.perf_counter_ns() - began) / CALLS
