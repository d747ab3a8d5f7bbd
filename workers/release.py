"""From the end of a GPU's fault to a worker that may start again: what had the GPU must be gone by then.

Without this a worker whose GPU was reset would open with processes whose work on it is dead.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from sluicegate.schemas.health.judge import Verdict
from sluicegate.schemas.health.local_holds import LocalHold
from sluicegate.schemas.health.rules.table import RULES
from sluicegate.workers.idling import Idling

DRAINS = "is over, and waits until nothing runs here, so that new pool children take the place of those it hit"
FORKS = "is over, and waits for new pool children"
RESTART = "is over; restart this worker: what its process had on the GPU is dead"


class Release:
    """Which holds stay although their rules have released them. Used from one thread at a time."""

    def __init__(self, idling: Idling) -> None:
        self._idling = idling
        self._last: tuple[LocalHold, ...] = ()
        # Of this life: those after which what tasks had on a GPU is dead, until others run them.
        self._spoilt: dict[str, LocalHold] = {}
        self._is_taking_up = False
        self.lets_go = False

    def keep(self, verdict: Verdict, *, has_opened: bool) -> list[LocalHold]:
        """The holds of `verdict`, and those that must stay. `has_opened`: may a task have had a GPU in this life?"""
        now = tuple(hold for hold in verdict.holds if RULES[hold.rule].lets_go)
        self._note_spoilt(verdict, now, has_opened=has_opened)
        if now:
            self._last, self._is_taking_up, self.lets_go = now, False, True
            held = {hold.rule for hold in now}
            over = [] if self._idling.can_renew else [hold for hold in self._spoilt.values() if hold.rule not in held]
            return [*verdict.holds, *_said(over, RESTART)]
        return [*verdict.holds, *self._staying()]

    def go_on(self) -> None:
        """What follows from `keep`, once its holds are in force."""
        if self.lets_go:
            self._idling.let_go()
        else:
            self._idling.take_up()

    def forget(self, rule: str) -> None:
        """An operator says that it is over."""
        self._spoilt.pop(rule, None)

    def _note_spoilt(self, verdict: Verdict, holds: Iterable[LocalHold], *, has_opened: bool) -> None:
        for hold in holds:
            taken = verdict.memory.latches[hold.rule].taken
            if RULES[hold.rule].ends_contexts and has_opened and taken is not None and not taken.is_adopted:
                self._spoilt.setdefault(hold.rule, hold)

    def _staying(self) -> list[LocalHold]:
        """No rule holds any more that lets go: these hold until new processes can run tasks."""
        if not self._idling.can_renew:
            self._last, self.lets_go = (), False
            return _said(self._spoilt.values(), RESTART)
        if not self._last:
            return []
        if self._spoilt and not self._is_taking_up and not self._idling.is_let_go:
            return _said(self._last, DRAINS)
        self._is_taking_up, self.lets_go = True, False
        if not self._idling.is_serving:
            return _said(self._last, FORKS)
        self._last, self._is_taking_up = (), False
        self._spoilt.clear()
        return []


def _said(holds: Iterable[LocalHold], what: str) -> list[LocalHold]:
    return [replace(hold, reason=f"{hold.rule} {what}") for hold in holds]
