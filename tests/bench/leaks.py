"""What followed a pause, however it was made: the shape in which three ways to pause are compared."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True, kw_only=True)
class OnePause:
    """One pause, times in microseconds. `last_start_us`: the last start after the call; None where there was none."""

    called_us: int
    acknowledged_us: int
    last_start_us: int | None = None
    late_starts: int = 0
    """Starts after the acknowledgement, up to the resume."""

    def with_starts(self, starts_us: Iterable[int]) -> OnePause:
        """The same with what started since, if the resume is still to come."""
        after = [at_us for at_us in starts_us if at_us > self.called_us]
        late = sum(at_us > self.acknowledged_us for at_us in after)
        return replace(self, last_start_us=max(after, default=None), late_starts=late)


@dataclass(frozen=True, slots=True, kw_only=True)
class Leak:
    """What followed some pauses."""

    pauses: tuple[OnePause, ...]

    def __add__(self, other: Leak) -> Leak:
        return Leak(pauses=self.pauses + other.pauses)

    @property
    def late_starts(self) -> int:
        """Starts after an acknowledgement."""
        return sum(pause.late_starts for pause in self.pauses)

    @property
    def leaky_pauses(self) -> int:
        """Pauses with at least one of these."""
        return sum(pause.late_starts > 0 for pause in self.pauses)

    @property
    def last_start_ms(self) -> list[float]:
        """From each call to the last start; 0 where nothing started after the call."""
        return [((p.last_start_us or p.called_us) - p.called_us) / 1000 for p in self.pauses]

    @property
    def acknowledged_ms(self) -> list[float]:
        """From each call to the acknowledgement."""
        return [(pause.acknowledged_us - pause.called_us) / 1000 for pause in self.pauses]
