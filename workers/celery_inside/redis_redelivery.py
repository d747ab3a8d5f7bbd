"""Whether the broker still gives out again what lost workers had in hand: pure, with the time passed in.

On Redis any worker does that for all, under a lock (`unacked_mutex`) that is held for milliseconds. Whoever is killed
while it has the lock, or a Redis that comes back with it after a kill, leaves it behind for as long as it lasts, which
is 300 s: until then nothing is given out again, and no error says so.
"""

from __future__ import annotations

from dataclasses import dataclass

HELD_TOO_LONG_S = 5.0


@dataclass(slots=True)
class RedeliveryWatch:
    """Remembers who has the lock. `lasts_s`: how long a lock that nobody gives back lasts, at most."""

    key: str
    lasts_s: float
    _holder: bytes | None = None
    _since: float = 0.0
    _is_halted: bool = False

    def see(self, holder: bytes | None, now: float) -> str | None:
        """What is to be said after a look at the lock at monotonic time `now`; None where there is nothing new.

        Each holder writes a value of its own, so that a lock which is taken again and again is nobody's fault.
        """
        if holder != self._holder:
            self._holder, self._since = holder, now
            if self._is_halted:
                self._is_halted = False
                return f"redelivery goes on: {self.key} was given back, or ran out"
        elif holder is not None and not self._is_halted and now - self._since >= HELD_TOO_LONG_S:
            self._is_halted = True
            return (
                f"redelivery is halted: the same holder has had {self.key} for {now - self._since:.0f} s, as after a "
                f"kill of Redis or of a worker. What lost workers had in hand stays unacknowledged until it runs out, "
                f"{self.lasts_s:g} s after it was taken; deleting {self.key} ends that at once"
            )
        return None
