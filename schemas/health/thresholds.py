"""What readings are judged by: each rule's action and times, and the marks of the capacity rules. Values alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from sluicegate.schemas.health.xids import XidVerdict

WHOLE = 10_000
"""Fractions are integers, in parts of this: a comparison is of integers, and exact."""


class Action(StrEnum):
    """What a rule does: hold, say that it would have held, or nothing."""

    HOLD = "hold"
    WARN = "warn"
    OFF = "off"


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleSetting:
    """`readings` in a row that must be bad before it acts, and for how many seconds all must be well before it ends."""

    action: Action
    readings: int
    release_after_s: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """Of what may be used: it holds strictly below `threshold`, and is well at `release` and above (of `WHOLE`)."""

    threshold: int
    release: int

    def is_below(self, free: int, total: int) -> bool:
        """Exactly the threshold runs."""
        return free * WHOLE < total * self.threshold

    def is_well(self, free: int, total: int) -> bool:
        """At the release mark, or above."""
        return free * WHOLE >= total * self.release


@dataclass(frozen=True, slots=True, kw_only=True)
class Thresholds:
    """All that the rules of one worker are set to.

    `rules` has every rule. `counts_total`: is the fleet's own use of GPU memory counted too? `is_any_gpu`: does one GPU
    below the mark hold, where otherwise all must be?
    """

    rules: Mapping[str, RuleSetting]
    gpu_memory: Mark
    memory: Mark
    cpu: Mark
    counts_total: bool = False
    is_any_gpu: bool = False
    xids: Mapping[int, XidVerdict] = field(default_factory=dict)
