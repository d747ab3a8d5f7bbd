"""A worker's own governor: judges what its probe reads, and holds the worker itself, whoever else is away.

The rules are pure (`schemas.health`). Here is what they need of the world: a clock, what an earlier life held, what an
operator cleared; and what follows from them: the holds in force, the GPU let go of, the words in the log.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Protocol

from sluicegate.schemas.health.judge import Memory, Place, Verdict, clear, judge, judge_silence, stand_by
from sluicegate.schemas.health.local_holds import LocalHold
from sluicegate.schemas.health.readings import Readings
from sluicegate.schemas.health.rules.table import RULES
from sluicegate.schemas.health.thresholds import Thresholds
from sluicegate.workers.idling import Idling
from sluicegate.workers.log import logger
from sluicegate.workers.release import Release

log = logger(__name__)

SILENT_AFTER_INTERVALS = 3
SLACK_S = 0.5
"""A reading takes a moment to be made and heard."""
FIRST_WITHIN_S = 30.0
"""How long a worker that starts waits for its first reading: opening a driver may take seconds for each GPU."""
WAITING = "waiting for the first reading of its GPUs and its host"


class OwnHolds(Protocol):
    """Where the holds that a worker places on itself are put into force."""

    @property
    def cleared(self) -> Mapping[str, datetime]:
        """When an operator last cleared each rule."""

    def inherited(self) -> tuple[LocalHold, ...]:
        """What an earlier life left, each once."""

    def take(self, holds: Iterable[LocalHold]) -> None:
        """All that is to be held now."""


class Probe(Protocol):
    """What reads."""

    @property
    def interval_s(self) -> float:
        """How often."""

    def let_go(self) -> None:
        """Hold no device open; look again briefly now and then."""

    def take_up(self) -> None:
        """Keep the devices open again."""


class Health:
    """The rules of one worker, at work. `take` is called on the probe's thread, `look` again and again on another.

    `hold_boot` keeps the gate closed for a reason, or lets go of it (None), without a record: until the first reading.
    `has_opened`: was the gate ever open in this life, so that a task may have had a GPU?
    """

    def __init__(
        self,
        *,
        thresholds: Thresholds,
        place: Place,
        own_holds: OwnHolds,
        probe: Probe,
        idling: Idling,
        hold_boot: Callable[[str | None], None],
        has_opened: Callable[[], bool],
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._thresholds = thresholds
        self._place = place
        self._own_holds = own_holds
        self._probe = probe
        self._idling = idling
        self._hold_boot = hold_boot
        self._has_opened = has_opened
        self._clock = clock
        self._now = now
        self._lock = threading.Lock()
        self._memory = Memory()
        self._cleared: dict[str, datetime] = {}
        self._last: Readings | None = None
        self._heard_s = clock()
        self._verdict: Verdict | None = None
        self._is_booting = True
        self._release = Release(idling)
        self._has_let_go = False
        self._said: set[str] = set()
        hold_boot(WAITING)

    def take(self, readings: Readings) -> None:
        """Judge `readings`: what they ask for is in force when this returns."""
        with self._lock:
            self._last, self._heard_s = readings, self._clock()
            self._catch_up()
            self._judged(judge(readings, self._thresholds, self._memory, self._place, self._heard_s))
            self._end_boot()
        self._say_once(readings.notes)

    def look(self) -> None:
        """Has the probe fallen silent, and has what was to be let go of been let go of?"""
        with self._lock:
            silent_s = self._clock() - self._heard_s
            if self._is_booting and silent_s >= FIRST_WITHIN_S:
                log.error("sluicegate: no reading for %.0f s: nothing is known of this worker's GPUs", silent_s)
                self._end_boot()
            if not self._is_booting and silent_s > SILENT_AFTER_INTERVALS * self._probe.interval_s + SLACK_S:
                self._fall_silent(silent_s)
            elif self._verdict is not None:
                self._apply(self._verdict)

    def _fall_silent(self, silent_s: float) -> None:
        self._catch_up()
        now_s = self._clock()
        self._judged(
            judge_silence(self._last, silent_s, self._thresholds, self._memory, self._place, self._now(), now_s)
        )

    def _catch_up(self) -> None:
        """With what an operator has cleared, and with what an earlier life left."""
        for rule, at in self._own_holds.cleared.items():
            if self._cleared.get(rule) != at:
                self._cleared[rule] = at
                self._memory = clear(self._memory, rule, at)
                self._release.forget(rule)
        self._memory = stand_by(self._own_holds.inherited(), self._thresholds, self._memory, self._clock())

    def _judged(self, verdict: Verdict) -> None:
        self._verdict, self._memory = verdict, verdict.memory
        self._apply(verdict)
        self._say_warnings(verdict)

    def _apply(self, verdict: Verdict) -> None:
        holds = self._release.keep(verdict, has_opened=self._has_opened())
        self._own_holds.take([*holds, *_shadows(verdict)])
        self._release.go_on()
        if self._release.lets_go and self._idling.is_let_go and not self._has_let_go:
            self._has_let_go = True
            log.warning("sluicegate: drained, and letting go of the GPUs until they are well")
            self._probe.let_go()
        elif not self._release.lets_go and self._has_let_go:
            self._has_let_go = False
            self._probe.take_up()

    def _end_boot(self) -> None:
        if self._is_booting:
            self._is_booting = False
            self._hold_boot(None)

    def _say_warnings(self, verdict: Verdict) -> None:
        standing = {warned.rule for warned in verdict.warned}
        for warned in verdict.warned:
            if warned.rule not in self._said and warned.would_hold is not None:
                log.warning("sluicegate: %s would hold this worker: %s", warned.rule, warned.text)
            elif warned.rule not in self._said:
                log.warning("sluicegate: %s: %s", warned.rule, warned.text)
        for rule in (self._said & set(RULES)) - standing:
            log.warning("sluicegate: %s is over", rule)
        self._said = (self._said - set(RULES)) | standing

    def _say_once(self, notes: Iterable[str]) -> None:
        for note in notes:
            if note not in self._said:
                self._said.add(note)
                log.warning("sluicegate: %s", note)


def _shadows(verdict: Verdict) -> list[LocalHold]:
    return [warned.would_hold for warned in verdict.warned if warned.would_hold is not None]
