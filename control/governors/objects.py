"""Governors as operators change them: audited, versioned rows, each changed by who has seen its version."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any
from uuid import uuid4

from sqlalchemy import Connection

from sluicegate.control.audit import events
from sluicegate.control.governors import rows, spend_rows
from sluicegate.control.governors.judging import rehearse
from sluicegate.control.governors.rows import FILE, Stored
from sluicegate.control.governors.schedules import schedule_of
from sluicegate.control.governors.spend_rows import Cost
from sluicegate.control.holds import namespaces
from sluicegate.control.holds.namespaces import Truth
from sluicegate.control.store.database import Database
from sluicegate.schemas.errors import InvalidInput, NotFound, Refused
from sluicegate.schemas.governors import budgets, specs
from sluicegate.schemas.governors.budgets import Budget
from sluicegate.schemas.governors.decisions import Decision, Kind, Override
from sluicegate.schemas.governors.windows import Window
from sluicegate.schemas.holds.hold import check_reason
from sluicegate.schemas.money import millionths

LONGEST_OVERRIDE_S = 7 * 86_400


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """One governor, and the holds that are in force because of it."""

    stored: Stored
    holds: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Changed:
    """What a change did to a governor."""

    outcome: str
    shown: Shown


def checked(kind: Kind, spec: object) -> dict[str, Any]:
    """`spec` in the one spelling, with all its defaults said; raises InvalidInput naming the field that is wrong."""
    governor = specs.parse(kind, spec)
    if isinstance(governor, Window):
        schedule_of(governor.cron, governor.zone)
    return specs.to_wire(governor)


class Objects:
    """The governors of one namespace. Thread-safe. Every method raises Unavailable and NotMigrated."""

    def __init__(self, *, database: Database, namespace: str) -> None:
        self._database = database
        self._namespace = namespace

    def all(self) -> list[Shown]:
        """By kind and name."""
        with self._database.transaction() as connection:
            if not rows.is_granted(connection):
                return []
            truth = namespaces.read(connection, self._namespace)
            return [_shown(stored, truth) for stored in rows.read(connection, self._namespace)]

    def one(self, kind: Kind, name: str) -> Shown:
        """Raises NotFound."""
        with self._database.transaction() as connection:
            stored = self._found(connection, kind, name)
            return _shown(stored, namespaces.read(connection, self._namespace))

    def put(
        self,
        kind: Kind,
        name: str,
        spec: object,
        *,
        version: int | None,
        reason: object,
        actor: str,
        is_dry: bool = False,
    ) -> Changed:
        """Makes it or changes it. `version`: the one that was seen; None for one that is to be new.

        Raises InvalidInput, and Refused where another version stands there, or a file manages it.
        """
        specs.check_name(name)
        said, why = checked(kind, spec), check_reason(reason)
        with self._database.transaction() as connection:
            truth = namespaces.lock(connection, self._namespace)
            present = rows.find(connection, self._namespace, kind, name)
            _refuse_file_managed(present)
            _refuse_other(present, version, f"{kind}/{name}")
            return self._write(connection, truth, (kind, name), said, why=why, actor=actor, is_dry=is_dry)

    def manage(self, wanted: Mapping[tuple[Kind, str], Mapping[str, Any]], *, database: Database) -> int:
        """Makes the governors that a file names what it says, and lets go of those that it names no more.

        `database` is the leader's. How many were changed. Raises Unavailable, Deposed.
        """
        count = 0
        with database.transaction() as connection:
            if not rows.is_granted(connection):
                return 0
            truth = namespaces.lock(connection, self._namespace)
            for key, said in wanted.items():
                done = self._write(
                    connection, truth, key, dict(said), why="as its file says", actor=events.SYSTEM, managed_by=FILE
                )
                count += done.outcome == events.APPLIED
            for stored in rows.read(connection, self._namespace):
                if stored.managed_by == FILE and stored.key not in wanted:
                    self._delete(connection, truth, stored, "its file names it no more", events.SYSTEM)
                    count += 1
        return count

    def delete(self, kind: Kind, name: str, *, version: int | None, reason: object, actor: str) -> Stored:
        """Its hold goes with the leader's next round. Raises NotFound, Refused, InvalidInput."""
        why = check_reason(reason)
        with self._database.transaction() as connection:
            truth = namespaces.lock(connection, self._namespace)
            stored = self._found(connection, kind, name)
            _refuse_file_managed(stored)
            _refuse_other(stored, version, str(stored))
            return self._delete(connection, truth, stored, why, actor)

    def override(self, kind: Kind, name: str, *, for_s: object, reason: object, actor: str) -> Shown:
        """Goes on past it until its condition turns false, or so many seconds; of a budget no longer than its day.

        Raises NotFound, InvalidInput, Refused where it holds nothing.
        """
        why, span = check_reason(reason), _span(for_s)
        with self._database.transaction() as connection:
            truth = namespaces.lock(connection, self._namespace)
            stored = self._found(connection, kind, name)
            if not (stored.decision or {}).get("shouldPause"):
                raise Refused(f"{stored} holds nothing now: there is nothing to go past")
            until = _ends(stored, truth.now + span, truth.now)
            begun = Override(by=actor, reason=why, at=truth.now, until=until)
            rows.set_override(connection, self._namespace, stored, begun)
            self._record(connection, truth, "override_begun", stored, why, actor, begun.to_wire())
            return _shown(replace(stored, override=begun), truth)

    def end_override(self, kind: Kind, name: str, *, reason: object, actor: str) -> Shown:
        """Raises NotFound, InvalidInput, Refused where nobody goes past it."""
        why = check_reason(reason)
        with self._database.transaction() as connection:
            truth = namespaces.lock(connection, self._namespace)
            stored = self._found(connection, kind, name)
            if stored.override is None:
                raise Refused(f"nobody goes past {stored}")
            rows.set_override(connection, self._namespace, stored, None)
            self._record(connection, truth, "override_ended", stored, why, actor, stored.override.to_wire())
            return _shown(replace(stored, override=None), truth)

    def adjust(self, name: str, *, amount: object, reason: object, key: object, actor: str) -> bool:
        """Adds to what the budget's day has cost, or takes off; was it new? Raises NotFound, InvalidInput, Refused."""
        why, sum_ = check_reason(reason), millionths(amount, "amount")
        if sum_ == 0:
            raise InvalidInput("amount", "is zero")
        if key is not None and (not isinstance(key, str) or not 0 < len(key) <= 200 or not key.isprintable()):
            raise InvalidInput("key", "is no text of at most 200 characters")
        with self._database.transaction() as connection:
            truth = namespaces.lock(connection, self._namespace)
            stored = self._found(connection, Kind.BUDGET, name)
            budget = specs.parse(stored.kind, stored.spec)
            assert isinstance(budget, Budget)
            cost = Cost(
                key=f"adjust:{name}:{key or uuid4()}",
                amount=sum_,
                currency=budget.currency,
                at=truth.now,
                origin=spend_rows.ADJUST,
                budget=name,
            )
            is_new = spend_rows.add(connection, self._namespace, [cost]) == 1
            told = {"amount": str(amount), "currency": budget.currency, "key": cost.key}
            outcome = events.APPLIED if is_new else events.NOOP
            self._record(connection, truth, "budget_adjusted", stored, why, actor, told, outcome)
        return is_new

    def rehearse(self, kind: Kind, spec: object, *, at: datetime | None, reading: object) -> Decision:
        """What a governor would decide; changes nothing. Raises InvalidInput."""
        said = checked(kind, spec)
        if not isinstance(reading, Mapping):
            raise InvalidInput("reading", "is no object")
        if at is None:
            with self._database.transaction() as connection:
                at = namespaces.clock(connection)
        return rehearse(specs.parse(kind, said), at, reading)

    def _write(
        self,
        connection: Connection,
        truth: Truth,
        key: tuple[Kind, str],
        said: dict[str, Any],
        *,
        why: str,
        actor: str,
        managed_by: str | None = None,
        is_dry: bool = False,
    ) -> Changed:
        kind, name = key
        present = rows.find(connection, self._namespace, kind, name)
        is_new = present is None or present.is_deleted
        wanted = Stored(
            kind=kind,
            name=name,
            version=1 if present is None else present.version + 1,
            spec=said,
            managed_by=managed_by,
            updated_at=truth.now,
            updated_by=actor,
        )
        if present is not None and not is_new:
            if (present.spec, present.managed_by) == (said, managed_by):
                return Changed(outcome=events.NOOP, shown=_shown(present, truth))
            # What somebody said of it is another; what it is overridden by, and has seen of this day, is not.
            wanted = replace(wanted, override=present.override, decision=present.decision, memory=present.memory)
        if not is_dry:
            rows.write(connection, self._namespace, wanted, truth.now)
            action = "governor_created" if is_new else "governor_changed"
            before = None if is_new or present is None else dict(present.spec)
            self._record(connection, truth, action, wanted, why, actor, {"before": before, "after": said})
        return Changed(outcome=events.APPLIED, shown=_shown(wanted, truth))

    def _delete(self, connection: Connection, truth: Truth, stored: Stored, why: str, actor: str) -> Stored:
        gone = replace(stored, version=stored.version + 1, is_deleted=True, override=None, updated_by=actor)
        rows.write(connection, self._namespace, gone, truth.now)
        self._record(connection, truth, "governor_deleted", gone, why, actor, {"before": dict(stored.spec)})
        return gone

    def _found(self, connection: Connection, kind: Kind, name: str) -> Stored:
        stored = rows.find(connection, self._namespace, kind, name)
        if stored is None or stored.is_deleted:
            raise NotFound(f"there is no {kind} governor {name!r}")
        return stored

    def _record(
        self,
        connection: Connection,
        truth: Truth,
        action: str,
        stored: Stored,
        reason: str,
        actor: str,
        details: Mapping[str, Any],
        outcome: str = events.APPLIED,
    ) -> None:
        event = events.Event(
            action=action,
            outcome=outcome,
            actor=actor,
            at=truth.now,
            edition=truth.edition,
            cause=str(stored.kind.cause),
            source=stored.kind.source_of(stored.name),
            reason=reason,
            details={"governor": str(stored), "governorVersion": stored.version, **details},
        )
        events.record(connection, self._namespace, event)


def _shown(stored: Stored, truth: Truth | None) -> Shown:
    key = (stored.kind.cause, stored.kind.source_of(stored.name))
    holds = () if truth is None else truth.holds.sorted()
    return Shown(stored=stored, holds=tuple(str(hold.id) for hold in holds if (hold.cause, hold.source) == key))


def _refuse_file_managed(present: Stored | None) -> None:
    if present is not None and not present.is_deleted and present.managed_by == FILE:
        raise Refused(f"{present} is managed by the file that the control plane was started with: change it there")


def _refuse_other(present: Stored | None, version: int | None, name: str) -> None:
    """Whoever changes what stands there must have seen it."""
    if present is None or present.is_deleted:
        if version is not None:
            raise Refused(f"{name} is not there any more", {"version": None})
        return
    if version != present.version:
        seen = "say which version you have seen (If-Match)" if version is None else f"you have seen version {version}"
        raise Refused(f"{name} is at version {present.version}: {seen}", {"version": present.version})


def _span(for_s: object) -> timedelta:
    if isinstance(for_s, bool) or not isinstance(for_s, int | float) or not 0 < for_s <= LONGEST_OVERRIDE_S:
        raise InvalidInput("forS", f"must be a number of seconds above zero, at most {LONGEST_OVERRIDE_S}")
    return timedelta(seconds=for_s)


def _ends(stored: Stored, until: datetime, now: datetime) -> datetime:
    """An override of a budget is not carried over midnight: the new day is judged by what it costs."""
    governor = specs.parse(stored.kind, stored.spec)
    return min(until, budgets.day_at(governor, now).ends_at) if isinstance(governor, Budget) else until
