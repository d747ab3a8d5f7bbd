"""A pause by sluicegate beside Celery's own `cancel_consumer` and RQ's `suspend`, on the same work in the same run.

Celery's command answers when it has stopped consuming; that answer is taken for its acknowledgement, as an operator
would, and so is the return of RQ's `suspend`. All three are judged by what the tasks wrote about themselves, the two on
Celery by the fleet tests' checker.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Protocol

from sluicegate.control.process.stack import Stack
from tests.bench.leaks import Leak, OnePause
from tests.bench.rq_suspend import RqWorkers
from tests.fleet.checker import Call, Evidence, Sighting, Verdict, check
from tests.fleet.harness import Feeder, Fleet
from tests.fleet.records import microseconds
from tests.fleet.waiting import until

SLOTS = 2
PREFETCH = 4
TASK_S = 0.03
CHAPTER = 25
"""Pauses of ours that are judged together; then the others have their turn."""

OTHERS_SHARE = 5
"""The others pause once where we pause that often: what they leak shows at once, and they take longer."""

IDLE_TRIALS = 5
IDLE_TASKS = 10
IDLE_S = 1.0
RESTARTED_S = 3.0
"""How long is waited for a start that should not be: longer than anybody's poll."""


class Pausable(Protocol):
    """Workers with two slots that can be paused in one way or another."""

    def busy_pauses(self, count: int, chance: random.Random) -> Leak:
        """Pause `count` times in the middle of work; nothing is left to do afterwards."""

    def pause(self) -> object:
        """Return when the pause is acknowledged."""

    def resume(self) -> object:
        """Go on."""

    def send(self, count: int) -> object:
        """Send so many naps."""

    def count_starts(self) -> int:
        """How many have ever started."""

    def restart(self) -> bool:
        """Kill the workers with -9, and start them again; are they ready, or did they end?"""

    def wait_done(self) -> None:
        """Return once nothing is left to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Paused:
    """What was found of one way to pause.

    `idle_starts`: how many of IDLE_TASKS tasks started that were sent after an idle worker had acknowledged, one number
    a trial. `restart_starts`: how many of twice as many, that waited, after the workers had been killed and started
    again. `restarts`: did they start?
    """

    busy: Leak
    idle_starts: tuple[int, ...]
    restart_starts: tuple[int, ...]
    restarts: bool = True

    def __add__(self, other: Paused) -> Paused:
        return Paused(
            busy=self.busy + other.busy,
            idle_starts=self.idle_starts + other.idle_starts,
            restart_starts=self.restart_starts + other.restart_starts,
            restarts=self.restarts and other.restarts,
        )


def measure(
    stack: Stack, say: Callable[[str], None], *, pauses: int, idle_trials: int = IDLE_TRIALS
) -> dict[str, Paused]:
    """Ours, Celery's and RQ's, under the names `gate`, `cancel_consumer` and `suspend`; they take turns."""
    chance = random.Random(1)
    with _workers(stack) as ways:
        busy = {name: Leak(pauses=()) for name in ways}
        for first in range(0, pauses, CHAPTER):
            count = min(CHAPTER, pauses - first)
            for name, way in ways.items():
                busy[name] += way.busy_pauses(count if name == "gate" else max(1, count // OTHERS_SHARE), chance)
            say(f"pauses: {first + count} of {pauses}")
        found = {}
        for name, way in ways.items():
            idle = tuple(_idle_starts(way) for _ in range(idle_trials))
            starts, restarts = _restarted(way)
            found[name] = Paused(busy=busy[name], idle_starts=idle, restart_starts=(starts,), restarts=restarts)
            say(f"pauses: {name}, idle and restarted")
    return found


@contextmanager
def _workers(stack: Stack) -> Iterator[dict[str, Pausable]]:
    with (
        Fleet(stack, prefetch=PREFETCH, host="with") as ours,
        Fleet(stack, plugin=False, prefetch=PREFETCH, host="without") as vanilla,
        RqWorkers(stack) as rq,
    ):
        for fleet in (ours, vanilla):
            fleet.start(slots=SLOTS)
        yield {"gate": ByGate(ours), "cancel_consumer": ByCancelling(vanilla), "suspend": BySuspending(rq)}


def _idle_starts(way: Pausable) -> int:
    way.pause()
    before = way.count_starts()
    way.send(IDLE_TASKS)
    # Nothing tells when a start that should not be will not come.
    time.sleep(IDLE_S)
    started = way.count_starts() - before
    way.resume()
    way.wait_done()
    return started


def _restarted(way: Pausable) -> tuple[int, bool]:
    way.pause()
    way.send(2 * IDLE_TASKS)
    time.sleep(IDLE_S)
    before = way.count_starts()
    is_there = way.restart()
    time.sleep(RESTARTED_S)
    started = way.count_starts() - before
    way.resume()
    way.wait_done()
    return started, is_there


class _OnCelery:
    """What the two ways on Celery share."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet

    def send(self, count: int) -> None:
        """Naps."""
        self.fleet.send_naps(count, TASK_S)

    def feeder(self) -> Feeder:
        """Keeps the worker busy."""
        return Feeder(self.fleet, low=40, send=self.send)

    def wait_a_few_starts(self, chance: random.Random) -> None:
        """So that each pause comes somewhere else."""
        self.fleet.wait_started(len(self.fleet.started()) + chance.randint(1, 12))
        _let_some_of_a_task_pass(chance)

    def count_starts(self) -> int:
        """By the records."""
        return self.fleet.count_starts()

    def restart(self) -> bool:
        """The whole group at once."""
        self.fleet.workers["w1"].kill()
        self.fleet.restart()
        return True

    def wait_done(self) -> None:
        """All that was sent."""
        self.fleet.wait_done()


class ByGate(_OnCelery):
    """A worker with the plugin, paused through the control plane."""

    def __init__(self, fleet: Fleet) -> None:
        super().__init__(fleet)
        fleet.watch()
        fleet.wait_open()

    def pause(self) -> None:
        """Until it is drained."""
        self.fleet.pause("bench")
        self.fleet.wait_drained()

    def resume(self) -> None:
        """Until it runs again."""
        self.fleet.resume("bench")
        self.fleet.wait_open()

    def busy_pauses(self, count: int, chance: random.Random) -> Leak:
        """Judged by the checker."""
        self.fleet.turn_page()
        with self.feeder():
            for _ in range(count):
                self.wait_a_few_starts(chance)
                self.pause()
                self.resume()
        self.fleet.wait_done()
        return _leak(self.fleet.check())


class ByCancelling(_OnCelery):
    """Plain Celery's way to pause: `cancel_consumer`, and `add_consumer` to go on."""

    def __init__(self, fleet: Fleet) -> None:
        super().__init__(fleet)
        self._calls: list[Call] = []
        self._sightings: list[Sighting] = []
        self._version = 1
        self._nodename = fleet.workers["w1"].nodename

    def pause(self) -> None:
        """Stop consuming, and return when what had been prefetched has run."""
        at_us = microseconds(time.time())
        control = self.fleet.sender.control
        answer = control.cancel_consumer(self.fleet.queue, [self._nodename], reply=True, timeout=5, limit=1)
        assert answer, "the worker did not answer"
        self._say(at_us, is_paused=True)
        until("nothing is left in its hands", lambda: not self.fleet.contents().unacked, within_s=20)
        until("nothing runs", lambda: not self.fleet.running(), within_s=20)

    def resume(self) -> None:
        """Consume again."""
        at_us = microseconds(time.time())
        self._say(at_us, is_paused=False)
        control = self.fleet.sender.control
        control.add_consumer(self.fleet.queue, destination=[self._nodename], reply=True, timeout=5, limit=1)

    def busy_pauses(self, count: int, chance: random.Random) -> Leak:
        """Judged by the checker, which takes an answer for a worker's word."""
        self.fleet.sent.clear()
        self.fleet.records.forget()
        self._calls.clear()
        self._sightings.clear()
        self._say(microseconds(time.time()), is_paused=False)
        with self.feeder():
            for _ in range(count):
                self.wait_a_few_starts(chance)
                self.pause()
                self.resume()
        self.fleet.wait_done()
        return _leak(check(self._evidence()))

    def _evidence(self) -> Evidence:
        return replace(self.fleet.evidence(), calls=self._calls, sightings=self._sightings)

    def _say(self, called_at_us: int, *, is_paused: bool) -> None:
        self._version += 1
        edition = (1, self._version)
        # An answer is known when it is here; that it may work again is known from the moment it is asked to.
        at_us = microseconds(time.time()) if is_paused else called_at_us
        self._calls.append(Call(at_us=called_at_us, edition=edition, is_paused=is_paused))
        self._sightings.append(Sighting(nodename=self._nodename, at_us=at_us, edition=edition))


class BySuspending:
    """RQ's `suspend` and `resume`."""

    def __init__(self, rq: RqWorkers) -> None:
        self.rq = rq

    def pause(self) -> None:
        """`suspend` returns at once; the workers find out when they look."""
        self.rq.suspend()

    def resume(self) -> None:
        """Noticed within a second."""
        self.rq.resume()

    def send(self, count: int) -> None:
        """Naps."""
        self.rq.send(count, TASK_S)

    def count_starts(self) -> int:
        """By the records."""
        return len(self.rq.starts())

    def restart(self) -> bool:
        """Both workers."""
        self.rq.kill()
        return self.rq.start()

    def wait_done(self) -> None:
        """And every worker ready for the next job: where it is not blocked on its queue, it is not idle."""
        self.rq.wait_done()

    def busy_pauses(self, count: int, chance: random.Random) -> Leak:
        """Each until both workers have seen it."""
        done: list[OnePause] = []
        for _ in range(count):
            self.rq.refill(TASK_S)
            self.rq.wait_started(len(self.rq.starts()) + chance.randint(1, 12))
            _let_some_of_a_task_pass(chance)
            pause = self.rq.suspend()
            self.rq.wait_suspended()
            done.append(pause.with_starts(at_us for at_us, _ in self.rq.starts()))
            self.rq.resume()
        self.rq.wait_done()
        return Leak(pauses=tuple(done))


def _let_some_of_a_task_pass(chance: random.Random) -> None:
    """A pause that always came right after a start would be in force before the next: tasks take longer than pauses."""
    time.sleep(chance.uniform(0, TASK_S))


def _leak(verdict: Verdict) -> Leak:
    late = Counter(start.record.at_us - (start.after_us or 0) for start in verdict.late_starts)
    pauses = []
    for pause in verdict.pauses:
        assert pause.acknowledged_us is not None, "a pause that was never acknowledged"
        at_us = pause.call.at_us
        last_us = None if pause.last_start_us is None else at_us + pause.last_start_us
        acknowledged_us = at_us + pause.acknowledged_us
        pauses.append(
            OnePause(
                called_us=at_us,
                acknowledged_us=acknowledged_us,
                last_start_us=last_us,
                late_starts=late.pop(acknowledged_us, 0),
            )
        )
    # A start that no acknowledgement allows at all counts too; it has no pause of its own.
    if late:
        pauses[-1] = replace(pauses[-1], late_starts=pauses[-1].late_starts + sum(late.values()))
    return Leak(pauses=tuple(pauses))
