"""A pause by sluicegate beside Celery's own `cancel_consumer`, on the same busy work in the same run.

Celery's command answers when it has stopped consuming; that answer is taken for its acknowledgement, as an
operator would. Both are judged by the fleet tests' checker, from what the tasks wrote about themselves.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from sluicegate.control.stack import Stack
from tests.fleet.checker import Call, Evidence, Sighting, Verdict, check
from tests.fleet.harness import Feeder, Fleet
from tests.fleet.records import microseconds
from tests.fleet.waiting import until

SLOTS = 2
PREFETCH = 4
TASK_S = 0.03
PAUSES = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Leak:
    """What followed the acknowledgements of some pauses, in milliseconds from the call."""

    pauses: int
    leaky_pauses: int
    late_starts: int
    last_start_ms: tuple[float, ...]
    acknowledged_ms: tuple[float, ...]

    @property
    def median_last_start_ms(self) -> float:
        """From the call to the last start."""
        return statistics.median(self.last_start_ms)

    @property
    def greatest_last_start_ms(self) -> float:
        """From the call to the last start, at worst."""
        return max(self.last_start_ms)

    @property
    def median_acknowledged_ms(self) -> float:
        """From the call to the acknowledgement."""
        return statistics.median(self.acknowledged_ms)


def measure(stack: Stack, say: Callable[[str], None], *, pauses: int = PAUSES) -> tuple[Leak, Leak]:
    """The gate's, and plain Celery's; their pauses take turns."""
    with (
        Fleet(stack, prefetch=PREFETCH, host="with") as ours,
        Fleet(stack, plugin=False, prefetch=PREFETCH, host="without") as vanilla,
    ):
        ours.watch()
        for fleet in (ours, vanilla):
            fleet.start(slots=SLOTS)
        ours.wait_open()
        consumer = _Consumer(vanilla)
        consumer.cancel()
        consumer.calls.clear()
        for number in range(pauses):
            with Feeder(ours, low=40, send=lambda count: _feed(ours, count)):
                ours.wait_started(len(ours.started()) + 10)
                ours.pause("bench")
                ours.wait_drained()
            # It must not take the other's processor time: it stays paused until its next turn.
            consumer.add()
            with Feeder(vanilla, low=40, send=lambda count: _feed(vanilla, count)):
                vanilla.wait_started(len(vanilla.started()) + 10)
                consumer.cancel()
            ours.resume("bench")
            ours.wait_open()
            say(f"pauses: {number + 1} of {pauses}")
        return _leak(ours.check()), _leak(check(consumer.evidence()))


def _feed(fleet: Fleet, count: int) -> None:
    fleet.send_naps(count, TASK_S)


class _Consumer:
    """Plain Celery's way to pause: `cancel_consumer`, and `add_consumer` to go on."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        self.calls: list[Call] = []
        self.sightings: list[Sighting] = []
        self._version = 1
        self._nodename = fleet.workers["w1"].nodename
        self._say(1, is_paused=False)

    def cancel(self) -> None:
        """Stop consuming, and return when what had been prefetched has run."""
        at_us = microseconds(time.time())
        control = self.fleet.sender.control
        answer = control.cancel_consumer(self.fleet.queue, [self._nodename], reply=True, timeout=5, limit=1)
        assert answer, "the worker did not answer"
        self._say(at_us, is_paused=True)
        until("nothing is left in its hands", lambda: not self.fleet.contents().unacked, within_s=20)
        until("nothing runs", lambda: not self.fleet.running(), within_s=20)

    def add(self) -> None:
        """Consume again."""
        at_us = microseconds(time.time())
        self._say(at_us, is_paused=False)
        control = self.fleet.sender.control
        control.add_consumer(self.fleet.queue, destination=[self._nodename], reply=True, timeout=5, limit=1)

    def evidence(self) -> Evidence:
        """As the checker wants it: an answer is a sighting."""
        return replace(self.fleet.evidence(), calls=self.calls, sightings=self.sightings)

    def _say(self, called_at_us: int, *, is_paused: bool) -> None:
        self._version += 1
        edition = (1, self._version)
        # An answer is known when it is here; that it may work again is known from the moment it is asked to.
        at_us = microseconds(time.time()) if is_paused else called_at_us
        self.calls.append(Call(at_us=called_at_us, edition=edition, is_paused=is_paused))
        self.sightings.append(Sighting(nodename=self._nodename, at_us=at_us, edition=edition))


def _leak(verdict: Verdict) -> Leak:
    acknowledgements = [p.call.at_us + p.acknowledged_us for p in verdict.pauses if p.acknowledged_us is not None]
    late = [start.record.at_us - (start.after_us or 0) for start in verdict.late_starts]
    return Leak(
        pauses=len(verdict.pauses),
        leaky_pauses=len(set(late) & set(acknowledgements)),
        late_starts=len(verdict.late_starts),
        last_start_ms=tuple((p.last_start_us or 0) / 1000 for p in verdict.pauses),
        acknowledged_ms=tuple((p.acknowledged_us or 0) / 1000 for p in verdict.pauses),
    )
