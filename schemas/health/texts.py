"""How figures are written, so that a sentence never contradicts the comparison that it tells of."""

from __future__ import annotations

from sluicegate.schemas.health.readings import GpuReading
from sluicegate.schemas.health.thresholds import WHOLE, Mark

_GIB = 1 << 30


def percent(mark: int) -> str:
    """A fraction of `WHOLE`, exactly: `20`, `12.5`."""
    return f"{mark / 100:.2f}".rstrip("0").rstrip(".")


def percent_of(part: int, total: int, beside: int) -> str:
    """What `part` is of `total`, to be read beside the mark `beside`: always rounded down.

    With as many decimals as the mark has, or one: rounded down, what is below it reads below, and what is not does not.
    """
    _, _, decimals = percent(beside).partition(".")
    digits = max(1, len(decimals))
    shown = part * 100 * 10**digits // total
    whole, rest = divmod(shown, 10**digits)
    return f"{whole}.{rest:0{digits}d}"


def compare(part: int, total: int, mark: Mark) -> str:
    """`7.9 % < 20 %`, by the comparison that is made."""
    sign = "<" if mark.is_below(part, total) else ">="
    return f"{percent_of(part, total, mark.threshold)} % {sign} {percent(mark.threshold)} %"


def resumes(mark: Mark) -> str:
    """What must change."""
    return f"resumes above {percent(mark.release)} %"


def gib(amount: int) -> str:
    """Bytes in GiB with one decimal, rounded down."""
    whole, rest = divmod(amount * 10 // _GIB, 10)
    return f"{whole}.{rest}"


def gpu(reading: GpuReading) -> str:
    """How a GPU is called: by NVML's number, or by its UUID where that is not known."""
    return f"GPU {reading.uuid if reading.index is None else reading.index}"


def fraction(part: int, total: int) -> float | None:
    """For the numbers of a hold: four decimals, rounded down."""
    return None if total <= 0 else part * WHOLE // total / WHOLE
