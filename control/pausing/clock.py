"""What time does to holds: those whose time has run out are released, and deadlines come.

With several replicas, the row lock lets exactly one do each.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sqlalchemy import Connection

from sluicegate.control.audit import events
from sluicegate.control.holds import drain_rows, namespaces
from sluicegate.control.holds.namespaces import Truth
from sluicegate.control.publishing.publisher import Publisher
from sluicegate.control.store.database import Database
from sluicegate.schemas.holds.transitions import Change, escalate, expire
from sluicegate.schemas.snapshots import Edition
from sluicegate.schemas.times import to_wire_or_none

Judge = Callable[[Connection, Truth], tuple[Change, events.Event] | None]
"""What the clock does to a truth, with the event that says so; None: nothing is due."""


class Clock:
    """Does to one namespace's holds what is due by the database's time. Thread-safe."""

    def __init__(self, *, database: Database, publisher: Publisher, namespace: str) -> None:
        self._database = database
        self._publisher = publisher
        self._namespace = namespace

    def expire_due(self) -> int:
        """Releases the holds whose time has run out, one a transaction; how many. Raises Unavailable."""
        return self._while_due(_expired)

    def escalate_due(self) -> int:
        """Begins what follows each deadline that has come with work left; how many. As `expire_due`."""
        return self._while_due(_escalated)

    def _while_due(self, judge: Judge) -> int:
        count = 0
        while self._has_due(judge):
            edition = self._act(judge)
            if edition is None:
                break
            count += 1
            self._publisher.publish_now(edition)
        return count

    def _has_due(self, judge: Judge) -> bool:
        # Without the lock: nearly always nothing is due, and then nobody is to wait.
        with self._database.transaction() as connection:
            truth = namespaces.read(connection, self._namespace)
            return truth is not None and judge(connection, truth) is not None

    def _act(self, judge: Judge) -> Edition | None:
        with self._database.transaction() as connection:
            truth = namespaces.lock(connection, self._namespace)
            due = judge(connection, truth)
            if due is None:
                return None  # another replica was first
            change, event = due
            return namespaces.store(connection, truth, change, event).edition


def _expired(connection: Connection, truth: Truth) -> tuple[Change, events.Event] | None:
    change = expire(truth.holds, now=truth.now)
    if change.hold is None:
        return None
    if change.hold.ramp is not None:
        return change, _by_the_clock("ramp_completed", truth, change, {"ramp": change.hold.ramp.rate})
    return change, _by_the_clock("hold_expired", truth, change, {"expiresAt": to_wire_or_none(change.hold.expires_at)})


def _escalated(connection: Connection, truth: Truth) -> tuple[Change, events.Event] | None:
    if not any(hold.is_overdue(truth.now) for hold in truth.holds.active):
        return None
    change = escalate(truth.holds, now=truth.now, drained=drain_rows.drained(connection, truth.namespace))
    if change.hold is None:
        return None
    details = {
        "deadline": to_wire_or_none(change.hold.deadline),
        "then": change.hold.then,
        # What it does to each of these: asks it to stop at its next checkpoint, and then what `then` says. The
        # receipt tells what came of it.
        "running": drain_rows.running(connection, change.hold.id),
    }
    return change, _by_the_clock("hold_escalated", truth, change, details)


def _by_the_clock(action: str, truth: Truth, change: Change, details: dict[str, Any]) -> events.Event:
    """What goes on record about a change that nobody asked for at this moment."""
    hold = change.hold
    return events.Event(
        action=action,
        outcome=events.APPLIED,
        actor=events.SYSTEM,
        at=truth.now,
        edition=Edition(truth.epoch, change.holds.version),
        version=change.holds.version,
        reason=None if hold is None else hold.reason,
        details=details | {"change": str(change.kind)},
        **events.about(hold),
    )
