"""What a governor decides, whatever it is about: hold or not, why in words, and by which numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Self

from sluicegate.schemas.holds.hold import Cause
from sluicegate.schemas.modes import Mode
from sluicegate.schemas.times import from_wire, to_wire


class Kind(StrEnum):
    """What a governor governs by. The word stands in addresses, tables and files."""

    WINDOW = "window"
    BUDGET = "budget"
    CAPACITY = "capacity"

    @property
    def cause(self) -> Cause:
        """Of the holds that it makes."""
        return Cause(self.value)

    def source_of(self, name: str) -> str:
        """The source of its holds. A worker's own capacity holds are told apart by theirs, which is a rule's name."""
        return f"fleet:{name}" if self is Kind.CAPACITY else name


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What one governor wants at one instant.

    `should_hold` None: it cannot be judged now, and a hold stays or stays away as it is. `details` is JSON: the
    numbers. `next_at`: when time alone may change it (None: never, as far as can be seen). `alarm`: what somebody must
    look at, a line. `mode`: the mode of the hold.
    """

    should_hold: bool | None
    reason: str
    details: Mapping[str, Any] = field(default_factory=dict)
    next_at: datetime | None = None
    alarm: str | None = None
    mode: Mode = Mode.DRAIN


@dataclass(frozen=True, slots=True, kw_only=True)
class Override:
    """Somebody goes on past a governor that holds: until its condition turns false, or `until`."""

    by: str
    reason: str
    at: datetime
    until: datetime

    def ends(self, decision: Decision, now: datetime) -> str | None:
        """Why it ends at `now`; None where it goes on. A governor that cannot be judged ends none."""
        if now >= self.until:
            return "its time is over"
        if decision.should_hold is False:
            return "its condition turned false"
        return None

    def to_wire(self) -> dict[str, Any]:
        return {"by": self.by, "reason": self.reason, "at": to_wire(self.at), "until": to_wire(self.until)}

    @classmethod
    def from_wire(cls, data: Mapping[str, Any]) -> Self:
        """The inverse of `to_wire`; raises KeyError, InvalidInput."""
        return cls(
            by=data["by"],
            reason=data["reason"],
            at=from_wire(data["at"], "at"),
            until=from_wire(data["until"], "until"),
        )
