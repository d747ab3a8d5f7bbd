"""Publishing the truth: sealed, fenced, again and again, and never led astray by what is there already.

What is in Redis is judged BEFORE the truth is read. Every published state was committed before it was
published, and its publication was drawn before that: so whatever was there first can neither be above a truth nor
have a publication above one that is read afterwards, unless the database went back in time (a restore).
"""

from __future__ import annotations

import json
import random
import threading
from collections import Counter
from collections.abc import Callable, Iterable
from time import monotonic

from sluicegate.control.holds import namespaces
from sluicegate.control.holds.namespaces import Truth
from sluicegate.control.links.outages import Outage
from sluicegate.control.links.state_redis import Bus, Slot
from sluicegate.control.store.database import Database
from sluicegate.schemas.boot_asks import answered, asked
from sluicegate.schemas.errors import SnapshotRefused, Unavailable
from sluicegate.schemas.printable import printable_logger
from sluicegate.schemas.snapshots import (
    MAX_ENVELOPE_BYTES,
    NOTHING,
    Edition,
    Sign,
    Snapshot,
    Verify,
    most_bytes,
    seal,
    unseal,
)

logger = printable_logger("sluicegate.control")

ATTEMPTS = 8
"""Among replicas that publish at once; each attempt that fails is another's success."""
INLINE_WAIT_S = 1.0

Mark = tuple[Edition, int]
"""An edition and a publication of it: which of two states came later."""

ALARM_EVERY_S = 10.0
MOST_SHOWN = 32
"""States shown by workers that are checked in one turn."""


class Publisher:
    """Keeps one namespace's state in Redis. Thread-safe; one publication at a time in a process.

    `alarms` counts, by kind, what should not have been found there: `malformed_snapshot`, `bad_signature`,
    `rolled_back` (older than what this process published), `missing`, `restored` (the database was), `ahead` (a worker
    stands by a state that the database knows nothing of).
    """

    def __init__(
        self,
        *,
        database: Database,
        bus: Bus,
        namespace: str,
        key: Sign,
        trusted: Verify,
        on_change: Callable[[Edition], None],
        may_publish: Callable[[], bool] = lambda: True,
    ) -> None:
        """`may_publish` is asked before each publication; no other comes before its first yes. Raises Unavailable."""
        self._database = database
        self._bus = bus
        self._namespace = namespace
        self._key = key
        self._trusted = trusted
        self._on_change = on_change
        self._may_publish = may_publish
        self._lock = threading.Lock()
        # The edition and the publication that this process knows to be there; only ever replaced as one.
        self._published: Mark = (NOTHING, 0)
        self._alarmed_at: dict[str, float] = {}
        self._outage = Outage("publishing")
        self.alarms: Counter[str] = Counter()

    @property
    def is_cut_off(self) -> bool:
        """Did the last publication fail?"""
        return self._outage.is_on

    def look(self) -> Snapshot | None:
        """What is there of ours, before a change: who then reads the truth tells by `is_restored`, and calls `meet`.

        Raises Unavailable where Redis is away.
        """
        return self._find()[1]

    def publish_now(self, edition: Edition) -> bool:
        """After a change: is `edition`, or a newer one, in Redis? Within about a second; never raises."""
        if not self._lock.acquire(timeout=INLINE_WAIT_S):
            return False  # the loop is stuck on a Redis that hangs; it goes on trying
        try:
            # Another's publication that began after our commit carries our change too.
            if self._published[0] < edition:
                if not self._may_publish():
                    return False
                self._publish()
        except Unavailable as error:
            self._outage.begin(error)
            return False
        else:
            self._outage.end()
            return True
        finally:
            self._lock.release()

    def republish(self) -> None:
        """One turn of the loop: the truth with a new publication. Raises Unavailable, and then did not publish."""
        with self._lock:
            try:
                if self._may_publish():
                    self._publish()
            except Unavailable as error:
                self._outage.begin(error)
                raise
            self._outage.end()

    def _publish(self) -> None:
        truth: Truth | None = None
        asks: list[str] = []
        for _ in range(ATTEMPTS):
            slot, met = self._find()
            if truth is not None and met is not None and _is_beyond(met, truth):
                # Another replica was faster, with a truth that was read no earlier than ours: ours is in it.
                self._note(met.edition, met.publication)
                return
            if truth is None or not _is_behind(met, truth):
                # Before the truth is read: who is answered started before what it is told was true.
                asks = asked(self._bus.read_asks())
                truth = self._draw(met)
            room = MAX_ENVELOPE_BYTES - most_bytes(self._namespace, truth.holds) if asks else 0
            sealed = Snapshot(
                namespace=self._namespace,
                epoch=truth.epoch,
                holds=truth.holds,
                publication=truth.publication,
                issued_at=truth.now,
                answers=answered(asks, room),
            )
            if self._bus.replace_slot(slot, seal(sealed, self._key), _hint(sealed)):
                self._note(truth.edition, truth.publication)
                return
        raise Unavailable("the state in Redis is changed by others all the time")

    def _draw(self, met: Snapshot | None) -> Truth:
        """The truth with its publication, above `met` in both."""
        truth = self._read()
        if met is not None and is_restored(met, truth):
            self.meet(met)
            truth = self._read()
        if met is not None and met.publication >= truth.publication:
            # The same edition with a publication of the future: restored to a copy that misses only publications.
            with self._database.transaction() as connection:
                namespaces.raise_publications(connection, met.publication)
            truth = self._read()
        return truth

    def _read(self) -> Truth:
        with self._database.transaction() as connection:
            truth = namespaces.read(connection, self._namespace, draws_publication=True)
            if truth is None:
                namespaces.create(connection, self._namespace)
                truth = namespaces.read(connection, self._namespace, draws_publication=True)
        if truth is None:
            raise Unavailable(f"the namespace {self._namespace!r} went away")
        return truth

    def _read_only(self) -> Truth | None:
        with self._database.transaction() as connection:
            return namespaces.read(connection, self._namespace)

    def _find(self) -> tuple[Slot, Snapshot | None]:
        """What is there, and judged; looks are not under the lock, so that an order waits for no publication."""
        # Before the slot is read: what is published meanwhile, by another thread, cannot be asked of it.
        known = self._published
        slot = self._bus.read_slot()
        return slot, self._judge(slot, known)

    def _judge(self, slot: Slot, known: Mark) -> Snapshot | None:
        """The state that is there if our key made it; None, and an alarm, for anything else or older than `known`."""
        if slot.kind == "none":
            if known[0] > NOTHING:
                self.alarm("missing", "the state was gone from Redis")
            return None
        try:
            met = unseal(slot.content, self._trusted, self._namespace)
        except SnapshotRefused as error:
            self.alarm(error.code, f"a state in Redis was not ours: {error}")
            return None
        if (met.edition, met.publication) < known:
            self.alarm("rolled_back", f"an old state {met.edition} (publication {met.publication}) was put back")
        return met

    def meet_shown(self, envelopes: Iterable[str]) -> bool:
        """Meet the newest state that workers show, where the database knows nothing of it; did that raise the epoch?

        What is shown comes from whoever can write a heartbeat. So it is believed by its signature alone: the key's
        holder made it, at an edition that only a database with our holds can have reached. A few of many are looked at,
        by chance: a flood of forgeries costs little, and does not keep a true one from its turn. Raises Unavailable.
        """
        different = sorted(set(envelopes))
        met = []
        for envelope in random.sample(different, min(len(different), MOST_SHOWN)):
            try:
                met.append(unseal(envelope.encode(), self._trusted, self._namespace))
            except SnapshotRefused as error:
                self.alarm("forged", f"a heartbeat shows a state that is not ours: {error}")
        # Read after what is shown was heard: nothing that was ordered can be above it.
        truth = self._read_only() if met else None
        restored = [one for one in met if truth is not None and is_restored(one, truth)]
        if not restored:
            return False
        self.meet(max(restored, key=lambda one: (one.edition, one.publication)))
        self.republish()
        return True

    def meet(self, met: Snapshot) -> None:
        """Bump the epoch, where the database was restored, and keep what was held.

        Raises Unavailable, also where no epoch is left.
        """
        with self._database.transaction() as connection:
            truth = namespaces.lock(connection, self._namespace)
            # Another replica may have bumped it since: the second one finds nothing to do.
            if is_restored(met, truth):
                truth = namespaces.bump_epoch(connection, truth, met)
                self.alarm("restored", f"met {met.edition}: the database was restored; now {truth.edition}")

    def _note(self, edition: Edition, publication: int) -> None:
        is_change = edition > self._published[0]
        self._published = (edition, publication)
        if is_change:
            self._on_change(edition)

    def alarm(self, kind: str, message: str) -> None:
        """Counts what should not have been found, and says so, each kind at most every ALARM_EVERY_S."""
        self.alarms[kind] += 1
        now = monotonic()
        if now - self._alarmed_at.get(kind, -ALARM_EVERY_S) >= ALARM_EVERY_S:
            self._alarmed_at[kind] = now
            logger.error("ALARM %s: %s (%d so far)", kind, message, self.alarms[kind])


def _is_beyond(met: Snapshot, truth: Truth) -> bool:
    """Does `met` come from a truth that was read after `truth` was, or at least says no less?"""
    return met.edition >= truth.edition and met.publication > truth.publication


def _is_behind(met: Snapshot | None, truth: Truth) -> bool:
    """Was `met`, which came after `truth` was read, published from an earlier truth (or by nobody)?"""
    if met is None:
        return True
    is_same = met.edition == truth.edition and met.holds == truth.holds
    return met.publication < truth.publication and (is_same or met.edition < truth.edition)


def is_restored(met: Snapshot, truth: Truth) -> bool:
    """Did a database with our key once know more, or something else at this very edition? `met` was read before."""
    return met.edition > truth.edition or (met.edition == truth.edition and met.holds != truth.holds)


def _hint(snapshot: Snapshot) -> bytes:
    body = {"epoch": snapshot.epoch, "version": snapshot.holds.version, "beat": snapshot.publication}
    return json.dumps(body, separators=(",", ":")).encode()
