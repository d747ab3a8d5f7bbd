"""What a rule is given: one look of the probe, what it is judged by, and what is known from earlier ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime

from sluicegate.schemas.health import texts
from sluicegate.schemas.health.latches import NOTHING_TO_JUDGE, UNKNOWN, Finding
from sluicegate.schemas.health.readings import GpuReading, Readings
from sluicegate.schemas.health.thresholds import Thresholds

THROTTLE_MINUTES = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Past:
    """What rules remember of earlier looks.

    `had_gpus`: was there ever one that this worker may use? `ecc_before`: each GPU's uncorrected errors at the first
    look. `throttled`: of each GPU, by minute, how many looks found it throttled, and how many there were.
    `cleared_at`: when an operator cleared a rule, by the host's clock; what happened before is over.
    """

    had_gpus: bool = False
    ecc_before: Mapping[str, int] = field(default_factory=dict)
    throttled: Mapping[str, tuple[tuple[int, int, int], ...]] = field(default_factory=dict)
    cleared_at: Mapping[str, datetime] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """`silent_for_s`: how long the probe has said nothing, where that is longer than it may be; else None."""

    readings: Readings
    thresholds: Thresholds
    past: Past
    silent_for_s: float | None = None


Of = Callable[[GpuReading], bool | None]
Say = Callable[[GpuReading], str]


def judge_each(
    look: Look,
    is_bad: Of,
    say: Say,
    *,
    numbers: str | None = None,
    value: Callable[[GpuReading], int | None] | None = None,
) -> Finding:
    """Bad where one GPU is, well where all are known to be; `is_bad` says None of what it cannot know."""
    gpus = look.readings.gpus
    if not gpus:
        return UNKNOWN if look.past.had_gpus else NOTHING_TO_JUDGE
    answers = [(gpu, is_bad(gpu)) for gpu in gpus]
    bad = [gpu for gpu, answer in answers if answer]
    if not bad:
        is_known = all(answer is not None for _, answer in answers)
        return Finding(is_bad=False if is_known else None, is_well=is_known)
    said: dict[str, int | float | str | None] = {
        "gpus": ",".join(str(gpu.index if gpu.index is not None else gpu.uuid) for gpu in bad)
    }
    if numbers is not None and value is not None:
        said[numbers] = value(bad[0])
    reason = "; ".join(f"{texts.gpu(gpu)}: {say(gpu)}" for gpu in bad)
    return Finding(is_bad=True, reason=reason, numbers=said, about=frozenset(gpu.uuid for gpu in bad))


def remember(past: Past, readings: Readings, minute: int) -> Past:
    """What is to be known at the next look; `minute` is the clock's that only goes forward."""
    ecc = {gpu.uuid: gpu.ecc_uncorrected for gpu in readings.gpus if gpu.ecc_uncorrected is not None}
    return replace(
        past,
        had_gpus=past.had_gpus or bool(readings.gpus) or readings.had_gpus,
        ecc_before={**ecc, **past.ecc_before},
        throttled={gpu.uuid: _count(past.throttled.get(gpu.uuid, ()), gpu, minute) for gpu in readings.gpus},
    )


THROTTLING = 0x8 | 0x40 | 0x80
"""NVML's clock event reasons: hardware slowdown, thermal, power brake."""


def _count(before: tuple[tuple[int, int, int], ...], gpu: GpuReading, minute: int) -> tuple[tuple[int, int, int], ...]:
    kept = tuple(entry for entry in before if minute - THROTTLE_MINUTES <= entry[0] < minute)
    reasons = gpu.clock_event_reasons
    if reasons is None:
        return kept + tuple(entry for entry in before if entry[0] == minute)
    throttled, looks = next((entry[1:] for entry in before if entry[0] == minute), (0, 0))
    return (*kept, (minute, throttled + bool(reasons & THROTTLING), looks + 1))
