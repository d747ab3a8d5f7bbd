"""Rounds: the leader judges all governors, places and releases their holds, one event for each edge.

A round is made every half second, and at the second at which a governor says that time alone may change its mind.
What is read first is judged again under the namespace's lock before it is stored, within the leader's term.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from time import monotonic
from typing import Any
from uuid import uuid4

from sqlalchemy import Connection

from sluicegate.control.audit import events
from sluicegate.control.governors import rows
from sluicegate.control.governors.judging import Given, Verdict, judge
from sluicegate.control.governors.rows import Stored
from sluicegate.control.holds import namespaces
from sluicegate.control.holds.namespaces import Truth
from sluicegate.control.publishing.publisher import Publisher
from sluicegate.control.store.database import Database
from sluicegate.schemas.governors import capacity
from sluicegate.schemas.governors.decisions import Kind
from sluicegate.schemas.holds.hold import MAX_REASON_CHARS, Cause, Hold
from sluicegate.schemas.holds.transitions import Change, place, release
from sluicegate.schemas.printable import printable_logger
from sluicegate.schemas.snapshots import Edition

logger = printable_logger("sluicegate.control")

EVERY_S = 0.5
KEPT_EVERY_S = 5.0
"""How often a decision that stays as it is gets written into its row."""
NEAR_S = EVERY_S + 0.25
"""An edge that comes sooner is waited for: the next turn might be too late for it."""
MOST_EDGES = 4
MOST_CHANGES = 8
"""Of one governor in one round: a hold that stands elsewhere goes, another comes."""

Looks = Callable[[Truth, Sequence[Stored]], Given]
"""What governors are judged by beside the database, looked at before any lock is taken."""


class Rounds:
    """The governors of one namespace, judged. `database` is the leader's: what it writes counts within its term."""

    def __init__(
        self,
        *,
        database: Database,
        publisher: Publisher,
        namespace: str,
        term: Callable[[], int | None],
        given: Looks = lambda truth, known: Given(),
        prepare: Callable[[], object] = lambda: None,
    ) -> None:
        """`prepare` is called at the beginning of each term, before its first round."""
        self._database = database
        self._publisher = publisher
        self._namespace = namespace
        self._term = term
        self._given = given
        self._prepare = prepare
        self._in_term: int | None = None
        self._is_noted = False
        self._gates: dict[str, capacity.Memory] = {}
        self._kept_at: dict[tuple[Kind, str], tuple[float, object]] = {}
        self._next_at: datetime | None = None
        self._now: datetime | None = None

    def turn(self) -> None:
        """One round, and one more at each edge that comes before the next turn. Raises Unavailable."""
        self.judge_all()
        for _ in range(MOST_EDGES):
            wait_s = self._until_edge_s()
            if wait_s is None:
                return
            # Nothing ends this wait early: it is about as long as the rest between two turns.
            time.sleep(max(wait_s, 0.0))
            self.judge_all()

    def judge_all(self) -> int:
        """Judges all governors once, and returns how many holds were changed. Raises Unavailable, Deposed."""
        self._begin_term()
        with self._database.transaction() as connection:
            if not rows.is_granted(connection):
                return 0
            truth = namespaces.read(connection, self._namespace) or namespaces.lock(connection, self._namespace)
            known = rows.read(connection, self._namespace)
        given = replace(self._given(truth, known), gates=self._gates) if known else Given()
        changed = self._release_orphans(truth, known)
        now = truth.now
        edges = []
        for stored in known:
            done, verdict, now = self._act(stored, given)
            changed += done
            if verdict is not None and verdict.decision.next_at is not None and verdict.decision.next_at > now:
                edges.append(verdict.decision.next_at)
        self._next_at, self._now = min(filter(None, edges), default=None), now
        if not self._is_noted:
            self._note_round()
        return changed

    def _begin_term(self) -> None:
        if (term := self._term()) != self._in_term:
            # Another may have judged meanwhile: nothing that is remembered of before is true any more.
            self._is_noted = False
            self._gates, self._kept_at = {}, {}
            self._prepare()
            # Last: what fails is done again by the next turn.
            self._in_term = term

    def _until_edge_s(self) -> float | None:
        """How long until the next edge, by the database's clock; None where none is near."""
        if self._next_at is None:
            return None
        with self._database.transaction() as connection:
            now = namespaces.clock(connection)
        wait_s = (self._next_at - now).total_seconds()
        return wait_s if wait_s <= NEAR_S else None

    def _note_round(self) -> None:
        if self._in_term is None:
            return
        with self._database.transaction() as connection:
            rows.note_round(connection, self._namespace, self._in_term, namespaces.clock(connection))
        self._is_noted = True

    def _act(self, stored: Stored, given: Given) -> tuple[int, Verdict | None, datetime]:
        """Judges one; where its hold must change, again under the lock, until it is as it should be."""
        changed = 0
        with self._database.transaction() as connection:
            truth = namespaces.read(connection, self._namespace) or namespaces.lock(connection, self._namespace)
            verdict, memory = self._judge(connection, stored, given, truth)
        if _change_of(verdict, truth) is None and verdict.override_ends is None:
            self._remember(verdict, memory, truth.now)
            return 0, verdict, truth.now
        for _ in range(MOST_CHANGES):
            with self._database.transaction() as connection:
                truth = namespaces.lock(connection, self._namespace)
                found = rows.find(connection, self._namespace, stored.kind, stored.name)
                if found is None or found.is_deleted:
                    return changed, None, truth.now
                verdict, memory = self._judge(connection, found, given, truth)
                if verdict.override_ends is not None:
                    self._end_override(connection, truth, verdict)
                    verdict = replace(verdict, stored=replace(found, override=None), override_ends=None)
                change = _change_of(verdict, truth)
                if change is not None:
                    after = namespaces.store(connection, truth, change, _event_of(verdict, truth, change))
                rows.note_judged(connection, self._namespace, found, verdict.told(), dict(verdict.memory), truth.now)
            if change is None:
                break
            changed += 1
            self._publisher.publish_now(after.edition)
        self._remember(verdict, memory, truth.now)
        return changed, verdict, truth.now

    def _judge(
        self, connection: Connection, stored: Stored, given: Given, truth: Truth
    ) -> tuple[Verdict, capacity.Memory | None]:
        is_held = bool(_own(stored.kind, stored.name, truth))
        return judge(connection, self._namespace, stored, given, truth.now, is_held=is_held)

    def _remember(self, verdict: Verdict, memory: capacity.Memory | None, now: datetime) -> None:
        """Keeps what was decided: at once where it is another decision, else now and then."""
        stored, decision = verdict.stored, verdict.decision
        if memory is not None:
            self._gates[stored.name] = memory
        word = (stored.version, decision.should_hold, verdict.wanted, decision.alarm, verdict.memory.get("day"))
        kept_at, kept = self._kept_at.get(stored.key, (0.0, None))
        if kept == word and monotonic() - kept_at < KEPT_EVERY_S:
            return
        with self._database.transaction() as connection:
            was_alarmed = (stored.memory or {}).get("alarm")
            if decision.alarm is not None and decision.alarm != was_alarmed:
                self._alarm(connection, stored, decision.alarm)
            rows.note_judged(connection, self._namespace, stored, verdict.told(), dict(verdict.memory), now)
        self._kept_at[stored.key] = (monotonic(), word)

    def _alarm(self, connection: Connection, stored: Stored, alarm: str) -> None:
        """Once an episode, in the log and on record."""
        truth = namespaces.lock(connection, self._namespace)
        logger.error("ALARM governor %s: %s", stored, alarm)
        event = events.Event(
            action="governor_alarmed",
            outcome=events.APPLIED,
            actor=events.SYSTEM,
            at=truth.now,
            edition=truth.edition,
            cause=str(stored.kind.cause),
            source=stored.kind.source_of(stored.name),
            reason=alarm,
            details={"governor": str(stored)},
        )
        events.record(connection, self._namespace, event)

    def _end_override(self, connection: Connection, truth: Truth, verdict: Verdict) -> None:
        stored = verdict.stored
        rows.set_override(connection, self._namespace, stored, None)
        event = events.Event(
            action="override_ended",
            outcome=events.APPLIED,
            actor=events.SYSTEM,
            at=truth.now,
            edition=truth.edition,
            cause=str(stored.kind.cause),
            source=stored.kind.source_of(stored.name),
            reason=verdict.override_ends,
            details={"governor": str(stored), "decision": verdict.told()},
        )
        events.record(connection, self._namespace, event)

    def _release_orphans(self, truth: Truth, known: list[Stored]) -> int:
        """Releases holds of governors that there are no more, and returns how many: one was deleted, or restored."""
        named = {(one.kind.cause, one.kind.source_of(one.name)) for one in known}
        done = 0
        for hold in truth.holds.sorted():
            if not _is_a_governors(hold) or (hold.cause, hold.source) in named:
                continue
            with self._database.transaction() as connection:
                now = namespaces.lock(connection, self._namespace)
                name = hold.source.removeprefix("fleet:")
                found = rows.find(connection, self._namespace, Kind(hold.cause), name)
                change = release(
                    now.holds, hold.key, actor=events.SYSTEM, reason="no governor has this name any more", now=now.now
                )
                if change.is_noop or (found is not None and not found.is_deleted):
                    continue
                event = _recorded(f"{hold.cause}_resumed", now, change, {"governor": f"{hold.cause}/{name}"})
                edition = namespaces.store(connection, now, change, event).edition
            self._publisher.publish_now(edition)
            done += 1
        return done


class Judged:
    """May this replica publish? Not before the leader of the present term has judged all governors (R-G2).

    What workers that start wait for is a publication: with none they start nothing. Where there are no governors it is
    always yes, and once it was yes it stays so.
    """

    def __init__(self, database: Database, namespace: str, present_term: Callable[[Connection], int]) -> None:
        self._database = database
        self._namespace = namespace
        self._present_term = present_term
        self._is_open = False

    def may_publish(self) -> bool:
        """Raises Unavailable."""
        if not self._is_open:
            with self._database.transaction() as connection:
                self._is_open = self._are_judged(connection)
        return self._is_open

    def _are_judged(self, connection: Connection) -> bool:
        if not rows.is_granted(connection) or not rows.read(connection, self._namespace):
            return True
        return rows.last_round(connection, self._namespace) == self._present_term(connection)


def _own(kind: Kind, name: str, truth: Truth) -> list[Hold]:
    source = kind.source_of(name)
    return [hold for hold in truth.holds.sorted() if hold.cause == kind.cause and hold.source == source]


def _is_a_governors(hold: Hold) -> bool:
    """Is it one that only a governor makes? A worker's own capacity hold has a rule for its source."""
    return hold.cause in (Cause.WINDOW, Cause.BUDGET) or (
        hold.cause == Cause.CAPACITY and hold.source.startswith("fleet:")
    )


def _change_of(verdict: Verdict, truth: Truth) -> Change | None:
    """The next change that brings this governor's holds to what it wants; None where they are."""
    stored = verdict.stored
    if verdict.wanted is None:
        return None
    own = _own(stored.kind, stored.name, truth)
    wrong = [hold for hold in own if not verdict.wanted or hold.scope != verdict.scope]
    if wrong:
        reason = verdict.decision.reason
        if stored.override is not None and verdict.override_ends is None:
            reason = f"overridden by {stored.override.by}: {stored.override.reason}"
        reason = reason[:MAX_REASON_CHARS]
        return release(truth.holds, wrong[0].key, actor=events.SYSTEM, reason=reason, now=truth.now)
    if not verdict.wanted or any(hold.mode == verdict.decision.mode for hold in own):
        # The numbers go on changing while it holds; the words that stand with the hold are those of its edge.
        return None
    wish = Hold(
        id=uuid4(),
        scope=verdict.scope,
        cause=stored.kind.cause,
        source=stored.kind.source_of(stored.name),
        mode=verdict.decision.mode,
        reason=verdict.decision.reason[:MAX_REASON_CHARS],
        actor=events.SYSTEM,
        created_at=truth.now,
    )
    return place(truth.holds, wish)


def _event_of(verdict: Verdict, truth: Truth, change: Change) -> events.Event:
    stored = verdict.stored
    is_released = change.hold is not None and change.hold.released_at is not None
    action = f"{stored.kind}_{'resumed' if is_released else 'paused'}"
    details = {"governor": str(stored), "governorVersion": stored.version, "decision": verdict.told()}
    return _recorded(action, truth, change, details)


def _recorded(action: str, truth: Truth, change: Change, details: Mapping[str, Any]) -> events.Event:
    hold = change.hold
    reason = None if hold is None else hold.released_reason or hold.reason
    return events.Event(
        action=action,
        outcome=events.APPLIED,
        actor=events.SYSTEM,
        at=truth.now,
        edition=Edition(truth.epoch, change.holds.version),
        version=change.holds.version,
        reason=reason,
        details={"change": str(change.kind)} | dict(details),
        **events.about(hold),
    )
