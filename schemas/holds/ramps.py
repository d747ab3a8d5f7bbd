"""A ramp: a fleet reopened worker by worker, so that what has waited does not start everywhere at once (R-G4).

The hold stays in force until the ramp is over, and carries it. Each worker leaves it by itself when its turn has come,
counted from when it heard of the ramp: nothing more needs to be published, and clocks of two hosts are not compared.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Self

from sluicegate.schemas.errors import InvalidInput

MOST_LISTED = 1000
"""Of more workers than this none is listed: each takes its turn by its name, and they spread evenly by their number."""
LONGEST_S = 86_400.0
_RATE = re.compile(r"(?P<amount>\d{1,6}(\.\d{1,6})?)(?P<percent>%?)/(?P<unit>[sm])")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """How fast: workers, or percent of the workers, per second."""

    text: str
    per_s: float
    is_percent: bool

    @classmethod
    def parse(cls, text: object) -> Self:
        """From `10%/s`, `5/s` or `30/m`; raises InvalidInput."""
        found = _RATE.fullmatch(text) if isinstance(text, str) else None
        if found is None or not (amount := float(found["amount"])):
            raise InvalidInput("ramp", f"{text!r} is no rate: write 10%/s, 5/s or 30/m")
        per_s = amount / (60 if found["unit"] == "m" else 1)
        return cls(text=found[0], per_s=per_s, is_percent=bool(found["percent"]))

    def ramp(self, nodenames: list[str]) -> Ramp:
        """The ramp of these workers; raises InvalidInput where it would take more than a day."""
        span_s = (100 if self.is_percent else len(nodenames)) / self.per_s
        if span_s > LONGEST_S:
            raise InvalidInput("ramp", f"{self.text} of {len(nodenames)} workers takes longer than a day")
        return Ramp(rate=self.text, span_s=span_s, order=tuple(sorted(nodenames)[: MOST_LISTED + 1]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Ramp:
    """`order`: who comes first; empty where there are too many to list them. `span_s`: when the last one has come."""

    rate: str
    span_s: float
    order: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if len(self.order) > MOST_LISTED:
            object.__setattr__(self, "order", ())

    def delay_s(self, nodename: str) -> float:
        """When this worker's turn is, in seconds; one that is not listed takes it by its name."""
        if nodename in self.order:
            return self.span_s * self.order.index(nodename) / len(self.order)
        return self.span_s * int.from_bytes(blake2b(nodename.encode(), digest_size=4).digest(), "big") / 2**32

    def to_wire(self) -> dict[str, Any]:
        """As a hold carries it in a snapshot; camelCase keys, the span in seconds."""
        return {"rate": self.rate, "spanS": self.span_s, "order": list(self.order)}

    @classmethod
    def from_wire(cls, data: Any) -> Self:
        """The inverse of `to_wire`; raises KeyError, TypeError or ValueError."""
        order = tuple(str(name) for name in data["order"])
        return cls(rate=str(data["rate"]), span_s=float(data["spanS"]), order=order)
