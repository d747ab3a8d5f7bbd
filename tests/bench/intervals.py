"""What a sample says about the quantile that it was drawn for, with no assumption about its distribution."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class Estimate:
    """A quantile of a sample, and an interval that covers the true one with at least CONFIDENCE.

    `low` and `high` are minus and plus infinity where the sample is too small to say.
    """

    value: float
    low: float
    high: float

    @property
    def half_width(self) -> float:
        """Half of the interval's length."""
        return (self.high - self.low) / 2


def median(values: Sequence[float]) -> Estimate:
    """The median with its two-sided interval from the order of the values."""
    ordered = sorted(values)
    count = len(ordered)
    middle = (ordered[(count - 1) // 2] + ordered[count // 2]) / 2
    # The true median lies below the k-th smallest of n with the chance that fewer than k of n coins fall heads.
    k = _last(count, 0.5, (1 - CONFIDENCE) / 2)
    if k == 0:
        return Estimate(middle, -math.inf, math.inf)
    return Estimate(middle, ordered[k - 1], ordered[count - k])


def at_most(values: Sequence[float], share: float) -> Estimate:
    """The quantile at `share` (nearest rank), and what it is at most: a one-sided interval."""
    ordered = sorted(values)
    count = len(ordered)
    # The true quantile lies above the k-th greatest with the chance that fewer than k of n exceed it.
    k = _last(count, 1 - share, 1 - CONFIDENCE)
    value = ordered[math.ceil(share * count) - 1]
    return Estimate(value, -math.inf, ordered[count - k] if k else math.inf)


def at_least(values: Sequence[float], share: float) -> float:
    """What the quantile at `share` is at least, one-sided; minus infinity where the sample is too small to say."""
    ordered = sorted(values)
    # The true quantile lies below the k-th smallest with the chance that fewer than k of n lie below it.
    k = _last(len(ordered), share, 1 - CONFIDENCE)
    return ordered[k - 1] if k else -math.inf


def none_of(count: int) -> float:
    """How frequent something can be, at most, that happened in none of `count` independent trials."""
    return float(1 - (1 - CONFIDENCE) ** (1 / count))


def _last(count: int, chance: float, error: float) -> int:
    """The greatest k with P(fewer than k successes in `count` trials) ≤ `error`; 0 where there is none."""
    total = 0.0
    for k in range(count):
        # By logarithms: the first terms of a long sum underflow.
        term = math.lgamma(count + 1) - math.lgamma(k + 1) - math.lgamma(count - k + 1)
        total += math.exp(term + k * math.log(chance) + (count - k) * math.log1p(-chance))
        if total > error:
            return k
    return count
