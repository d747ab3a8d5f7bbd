"""Who leads: of all replicas on one database, the one that does what must be done once (docs/decisions/0014).

Each replica looks every second. A leader holds a lease, by the database's clock, and renews it at each look; where the
lease has run out, or was given up, whoever looks first is elected, and the number of the term goes up by one. A leader
that ended without a word is replaced within LEASE + LOOK_EVERY_S, one that stops in order within LOOK_EVERY_S.

The lease only saves work. What makes a second leader harmless is the term: a transaction of `Leader.fenced` is
committed only while its term is the present one.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timedelta
from time import monotonic
from uuid import UUID, uuid4

from sqlalchemy import Connection

from sluicegate.control.holds.namespaces import clock
from sluicegate.control.process.loops import Loop
from sluicegate.control.store import replicas, terms
from sluicegate.control.store.database import Database
from sluicegate.control.store.replicas import Replica
from sluicegate.control.store.terms import Deposed, Term
from sluicegate.schemas.printable import printable_logger

logger = printable_logger("sluicegate.control")

LEASE = timedelta(seconds=3)
LOOK_EVERY_S = 1.0


PATIENCE_S = 10.0
"""How long a leader that does not hear Redis keeps its term, and leads where nobody else hears it either."""
GRACE = timedelta(seconds=2)
"""How much longer than others a replica that does not hear Redis waits before it is elected."""


def decide(term: Term, me: UUID, now: datetime, *, is_fit: bool = True) -> Term | None:
    """What `me` makes of the present term at `now`, by one clock: its own renewed or given up, a new one, or None.

    A lease that ends later than any that could have been given by now was given by a clock that was set back since:
    it does not count, and at worst a leader that is alive is elected away. Who is not fit to lead makes room, and leads
    only where nobody else has come for `GRACE`.
    """
    could_be_given = term.leased_until <= now + LEASE
    is_in_force = term.replica is not None and now < term.leased_until and could_be_given
    if not is_in_force:
        if not is_fit and could_be_given and now < term.leased_until + GRACE:
            return None
        return Term(number=term.number + 1, replica=me, leased_until=now + LEASE)
    if term.replica != me:
        return None
    return Term(number=term.number, replica=me if is_fit else None, leased_until=now + LEASE if is_fit else now)


class Leader:
    """One replica's part in it. `loop` looks; `run_when_leading` makes a turn that only a leader's process does.

    `fenced` is the database for such turns: outside of them, and when their term has ended, nothing that is written
    through it is stored. Thread-safe.
    """

    def __init__(
        self, *, database: Database, namespace: str, code_revision: str, is_fit: Callable[[], bool] = lambda: True
    ) -> None:
        """`is_fit`: can this replica do what a leader must? Asked at each look, and not to take long."""
        self.replica = Replica(id=uuid4(), namespace=namespace, code_revision=code_revision)
        self.fenced = database.fenced(self._check)
        self.loop = Loop("lead", self.look, interval_s=LOOK_EVERY_S, at_end=self.resign)
        self._database = database
        self._namespace = namespace
        self._is_fit = is_fit
        self._fit_at = monotonic()
        # What the last look said, and until when (monotonic) that is believed without another.
        self._term: int | None = None
        self._believed_until = 0.0
        self._of_turn = threading.local()

    @property
    def term(self) -> int | None:
        """The number of the term in which this replica leads; None where it does not, or cannot know any more."""
        term = self._term
        return term if monotonic() < self._believed_until else None

    def run_when_leading(self, turn: Callable[[], object]) -> Callable[[], None]:
        """`turn` for a loop of any replica: nothing where another leads, and no error where it was just deposed."""

        def turn_of_the_leader() -> None:
            term = self.term
            if term is None:
                return
            self._of_turn.term = term
            try:
                # Deposed in the middle: the next leader does it, from what is stored.
                with suppress(Deposed):
                    turn()
            finally:
                self._of_turn.term = None

        return turn_of_the_leader

    def look(self) -> None:
        """One look: says that this replica is there, renews its lease or is elected. Raises Unavailable."""
        asked_at = monotonic()
        if self._is_fit():
            self._fit_at = asked_at
        is_fit = asked_at - self._fit_at < PATIENCE_S
        with self._database.transaction() as connection:
            # Without the lock: one that only watches must not stand in the way, however long it is frozen here.
            mine = decide(terms.read(connection, self._namespace), self.replica.id, clock(connection), is_fit=is_fit)
            if mine is not None:
                mine = self._take_or_give_up(connection, is_fit=is_fit)
            replicas.announce(connection, self.replica, clock(connection))
        self._note(mine if mine is not None and mine.replica is not None else None, asked_at)

    def _take_or_give_up(self, connection: Connection, *, is_fit: bool) -> Term | None:
        present = terms.lock(connection, self._namespace)
        now = clock(connection)
        mine = decide(present, self.replica.id, now, is_fit=is_fit)
        if mine is None:
            return None  # another was faster
        terms.store(connection, self._namespace, mine)
        if mine.number != present.number:
            # Elected although it is not fit, since nobody else was: it is given its time.
            self._fit_at = max(self._fit_at, monotonic() - PATIENCE_S / 2)
            replicas.purge(connection, now)
        return mine

    def resign(self) -> None:
        """Gives up the term, so that another replica need not wait for its lease to run out. Raises Unavailable."""
        was_leading, self._term = self._term, None
        with self._database.transaction() as connection:
            present = terms.lock(connection, self._namespace)
            replicas.withdraw(connection, self.replica)
            if was_leading is None or present.replica != self.replica.id:
                return
            terms.store(
                connection,
                self._namespace,
                Term(number=present.number, replica=None, leased_until=present.leased_until),
            )
        logger.info("term %d of namespace %s: given up", was_leading, self._namespace)

    def _note(self, mine: Term | None, asked_at: float) -> None:
        before, self._term = self._term, None if mine is None else mine.number
        # Counted from before the database counts it: this replica never believes longer than the others do.
        self._believed_until = asked_at + LEASE.total_seconds()
        if mine is not None and mine.number != before:
            logger.info("term %d of namespace %s: this replica leads", mine.number, self._namespace)
        if mine is None and before is not None:
            logger.warning("term %d of namespace %s: this replica leads no more", before, self._namespace)

    def _check(self, connection: Connection) -> None:
        terms.check(connection, self._namespace, getattr(self._of_turn, "term", None), self.replica.id)
