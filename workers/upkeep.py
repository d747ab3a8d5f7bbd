"""What is to be done at the broker now and then: for messages whose tasks wait, and for those that were set aside."""

from __future__ import annotations

import time

from sluicegate.schemas.scopes import ScopeKind
from sluicegate.schemas.snapshots import Edition
from sluicegate.workers.gate import Standing
from sluicegate.workers.log import logger
from sluicegate.workers.ports import Books, PoolSide, WayBack

log = logger(__name__)

_FRESH_EVERY_S = 1.0
_SWEEP_EVERY_S = 5.0


class Upkeep:
    """On the consumer's own thread; raises the broker's errors."""

    def __init__(self, *, pool: PoolSide, way_back: WayBack, books: Books) -> None:
        self._pool = pool
        self._way_back = way_back
        self._books = books
        self._kept_fresh_at = 0.0
        self._swept_at = 0.0
        self._swept_for: Edition | None = None

    def note_new_connection(self) -> None:
        """It may lead to another server: sweep anew."""
        self._swept_for = None

    def keep_fresh(self) -> None:
        """Whose task waits at a checkpoint has not been lost, however long it takes."""
        now = time.monotonic()
        if now - self._kept_fresh_at >= _FRESH_EVERY_S:
            self._kept_fresh_at = now
            self._way_back.keep([request for request in self._books.running() if self._pool.is_waiting(request)])

    def sweep_aside(self, standing: Standing) -> None:
        """What was set aside and is held no more goes back, whoever set it aside: at each order, and now and then."""
        now = time.monotonic()
        if self._way_back.can_set_aside and (
            self._swept_for != standing.edition or now - self._swept_at >= _SWEEP_EVERY_S
        ):
            held = {hold.scope.name for hold in standing.scoped if hold.scope.kind is ScopeKind.TASK}
            self._way_back.hand_back_aside(held)
            if (news := self._way_back.look_at_redelivery()) is not None:
                log.warning("sluicegate: %s", news)
            self._swept_at, self._swept_for = now, standing.edition

    def due_in_s(self, standing: Standing) -> float | None:
        """When to look again; None: there is nothing to do while nothing happens."""
        if standing.is_open and self._way_back.can_set_aside:
            # Somebody may have set tasks aside by older orders than ours, and be gone.
            return _SWEEP_EVERY_S
        return _FRESH_EVERY_S if self._books.running() else None
