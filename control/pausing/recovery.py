"""After a restore: workers that stand by a state which the database knows nothing of are brought below it again.

A worker that refuses what is published shows the signed state that it obeys. Its signature is proof, and the epoch is
raised above it at once (docs/decisions/0032). What a heartbeat only says proves nothing: it is an alarm, and somebody
raises the epoch, on record.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from sluicegate.control.audit import events
from sluicegate.control.fleet.view import Fleet
from sluicegate.control.holds import namespaces
from sluicegate.control.holds.namespaces import Truth
from sluicegate.control.pausing.read import Reading
from sluicegate.control.publishing.publisher import Publisher
from sluicegate.control.store.database import Database
from sluicegate.schemas.beats import Beat
from sluicegate.schemas.errors import Refused
from sluicegate.schemas.holds.hold import check_reason
from sluicegate.schemas.progress import WorkerView, is_ahead
from sluicegate.schemas.snapshots import Edition

FURTHEST = 100
"""By how many epochs a heartbeat may be ahead before somebody must say that he means it: each restore is one."""
_NAMED = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Raised:
    """What came of it: `outcome` noop where the epoch was above it already. `published`: is it in Redis?"""

    outcome: str
    truth: Truth
    above: Edition
    published: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovery:
    """Raises the epoch of one namespace. Thread-safe; several replicas may run at once."""

    database: Database
    fleet: Fleet
    reading: Reading
    publisher: Publisher
    namespace: str

    def follow(self) -> list[Beat]:
        """A turn of the loop: folds the heartbeats, and raises the epoch where one shows proof; what it heard.

        Raises Unavailable.
        """
        beats = self.fleet.fold()
        if self.publisher.meet_shown(beat.shown for beat in beats if beat.shown is not None):
            return beats
        with self.database.transaction() as connection:
            truth = namespaces.read(connection, self.namespace)
        if truth is not None:
            self._tell(truth, beats)
        return beats

    def _tell(self, truth: Truth, beats: Iterable[Beat]) -> None:
        ahead = [beat for beat in beats if is_ahead(beat, truth.edition, truth.holds.fingerprint)]
        if ahead:
            named = _names(f"{beat.nodename} at {beat.stands_at}" for beat in ahead)
            self.publisher.alarm("ahead", f"{named}: ahead of {truth.edition}, which is ordered (docs/recovery.md)")

    def raise_epoch(self, *, above: Edition | None, reason: object, actor: str) -> Raised:
        """Goes above the edition `above`, or where it is None above the furthest that a worker stands at.

        Raises InvalidInput, Refused (on record): nobody is ahead, or so far that it is hardly true; Unavailable.
        """
        why = check_reason(reason)
        found = above or self._furthest(why, actor)
        with self.database.transaction() as connection:
            truth = namespaces.lock(connection, self.namespace)
            if truth.edition > found:
                outcome = events.NOOP
                events.record(connection, self.namespace, _event(events.NOOP, truth, found, why, actor))
            else:
                outcome = events.APPLIED
                event = _event(events.APPLIED, truth, found, why, actor)
                truth = namespaces.raise_epoch(connection, truth, found, event)
        published = self.publisher.publish_now(truth.edition)
        return Raised(outcome=outcome, truth=truth, above=found, published=published)

    def _furthest(self, reason: str, actor: str) -> Edition:
        """The furthest edition of those workers that are ahead; raises Refused where it cannot be taken by itself."""
        progress = self.reading.state().progress
        ordered = progress.truth.edition
        ahead = [worker for worker in progress.workers if worker.is_ahead]
        furthest = max((worker.beat.stands_at for worker in ahead), default=None)
        if furthest is not None and furthest.epoch - ordered.epoch <= FURTHEST:
            return furthest
        with self.database.transaction() as connection:
            truth = namespaces.lock(connection, self.namespace)
            refusal = _refusal(ahead, ordered)
            event = _event(events.REFUSED, truth, furthest, reason, actor, why=str(refusal))
            events.record(connection, self.namespace, event)
        raise refusal


def _refusal(ahead: list[WorkerView], ordered: Edition) -> Refused:
    if not ahead:
        return Refused(f"no worker is ahead of {ordered}: name the edition to go above, if there is one")
    named = _names(f"{worker.beat.nodename} at {worker.beat.stands_at}" for worker in ahead)
    return Refused(f"{named}: more than {FURTHEST} epochs ahead of {ordered}: name the edition to go above")


def _names(told: Iterable[str]) -> str:
    known = sorted(told)
    more = len(known) - _NAMED
    return ", ".join(known[:_NAMED]) + (f" and {more} more" if more > 0 else "")


def _event(
    outcome: str, truth: Truth, above: Edition | None, reason: str, actor: str, why: str | None = None
) -> events.Event:
    details = {"above": None if above is None else str(above), "previousEpoch": truth.epoch}
    return events.Event(
        action="epoch_raised",
        outcome=outcome,
        actor=actor,
        at=truth.now,
        edition=truth.edition,
        reason=reason,
        details=details if why is None else details | {"why": why},
    )
