"""The truth about one namespace: its edition and its holds, read at once, changed under a row lock."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, and_, func, select, text, true, update
from sqlalchemy.dialects.postgresql import insert

from sluicegate.control.audit import events
from sluicegate.control.holds import drain_rows, hold_rows
from sluicegate.control.store.tables import HOLDS, NAMESPACES, PUBLICATIONS
from sluicegate.schemas.errors import Unavailable
from sluicegate.schemas.holds.drains import Ending
from sluicegate.schemas.holds.hold import Cause, Hold, Holds, Then
from sluicegate.schemas.holds.transitions import Change
from sluicegate.schemas.snapshots import MAX_EPOCH, Edition, Snapshot


@dataclass(frozen=True, slots=True, kw_only=True)
class Truth:
    """What is ordered, at one moment of the database's clock. `publication` is 0 where none was drawn."""

    namespace: str
    epoch: int
    holds: Holds
    updated_at: datetime
    now: datetime
    publication: int = 0

    @property
    def edition(self) -> Edition:
        """The pair that orders states."""
        return Edition(self.epoch, self.holds.version)


def read(connection: Connection, namespace: str, *, draws_publication: bool = False) -> Truth | None:
    """The truth as one statement sees it, or None where nobody has used this namespace yet.

    With `draws_publication` it also draws the next number: whoever publishes it has read this truth after any state
    that carries a lower one was read.
    """
    columns: list[Any] = [NAMESPACES, func.clock_timestamp().label("now"), HOLDS]
    in_force = and_(HOLDS.c.namespace == NAMESPACES.c.namespace, HOLDS.c.released_at.is_(None))
    source = NAMESPACES.outerjoin(HOLDS, in_force)
    if draws_publication:
        # nextval must run once, not once for each hold.
        drawn = select(func.nextval(PUBLICATIONS.name).label("publication")).cte("drawn").prefix_with("materialized")
        columns.append(drawn.c.publication)
        source = source.join(drawn, true())
    rows = connection.execute(select(*columns).select_from(source).where(NAMESPACES.c.namespace == namespace)).all()
    if not rows:
        return None
    first = rows[0]._mapping
    active = frozenset(hold_rows.from_row(_hold_columns(row._mapping)) for row in rows if row._mapping[HOLDS.c.id])
    return Truth(
        namespace=namespace,
        epoch=first[NAMESPACES.c.epoch],
        holds=Holds(version=first[NAMESPACES.c.version], active=active),
        updated_at=first[NAMESPACES.c.updated_at],
        now=first["now"],
        publication=first["publication"] if draws_publication else 0,
    )


def _hold_columns(row: Mapping[Any, Any]) -> dict[str, Any]:
    return {column.name: row[column] for column in HOLDS.c}


def lock(connection: Connection, namespace: str) -> Truth:
    """As `read`, holding the row until the transaction ends; makes the namespace where it is new."""
    statement = select(NAMESPACES.c.namespace).where(NAMESPACES.c.namespace == namespace).with_for_update()
    if connection.execute(statement).first() is None:
        create(connection, namespace)
        connection.execute(statement)
    # Read after the lock is had: this statement's snapshot has what the one before us committed.
    truth = read(connection, namespace)
    if truth is None:  # nothing deletes namespaces; somebody did by hand
        raise Unavailable(f"the namespace {namespace!r} went away")
    return truth


def create(connection: Connection, namespace: str) -> None:
    """Makes the namespace at edition 1.1 with the event that says so; nothing where it is there already."""
    now = clock(connection)
    row = {"namespace": namespace, "epoch": 1, "version": 1, "updated_at": now}
    made = connection.execute(
        insert(NAMESPACES).values(row).on_conflict_do_nothing().returning(NAMESPACES.c.namespace)
    ).first()
    if made is not None:
        born = events.Event(
            action="namespace_created",
            outcome=events.APPLIED,
            actor=events.SYSTEM,
            at=now,
            edition=Edition(1, 1),
            version=1,
        )
        events.record(connection, namespace, born)


def store(connection: Connection, truth: Truth, change: Change, event: events.Event) -> Truth:
    """Writes a change and its event, and returns the new truth. `truth` must come from `lock`.

    A no-op writes the event alone.
    """
    if change.is_noop:
        events.record(connection, truth.namespace, event)
        return truth
    if change.hold is not None:
        hold_rows.store(connection, truth.namespace, change.hold, event.at)
        if change.hold.released_at is None and change.hold.ramp is None:
            drain_rows.begin(connection, truth.namespace, change.hold.id, change.holds.version, event.at)
        else:
            drain_rows.end(connection, change.hold.id, Ending.RELEASED, event.at)
    _advance(connection, truth, Edition(truth.epoch, change.holds.version), event.at)
    events.record(connection, truth.namespace, event)
    return Truth(
        namespace=truth.namespace,
        epoch=truth.epoch,
        holds=change.holds,
        updated_at=event.at,
        now=truth.now,
    )


def bump_epoch(connection: Connection, truth: Truth, met: Snapshot) -> Truth:
    """Goes above `met`, which our own key signed and this database knows nothing of: it was restored.

    What `met` holds and this database never heard of is held from now on here too: whoever ordered it has not taken it
    back, and a restore must open nothing. The publications go above the one that was met. `truth` must come from
    `lock`. Raises Unavailable where no epoch is left.
    """
    edition = _above(met.edition, truth)
    now = clock(connection)
    raise_publications(connection, met.publication)
    kept = _unheard_of(connection, truth, met.holds)
    for hold in kept:
        hold_rows.store(connection, truth.namespace, hold, now)
        if hold.ramp is None:
            drain_rows.begin(connection, truth.namespace, hold.id, edition.version, now)
    bumped = events.Event(
        action="epoch_bumped",
        outcome=events.APPLIED,
        actor=events.SYSTEM,
        at=now,
        edition=edition,
        version=edition.version,
        reason=f"a validly signed state {met.edition} is above this database's {truth.edition}: it was restored",
        details={
            "metEpoch": met.epoch,
            "metVersion": met.holds.version,
            "previousEpoch": truth.epoch,
            "keptHolds": [{"id": str(hold.id), "scope": str(hold.scope), "cause": str(hold.cause)} for hold in kept],
        },
    )
    return _raised(connection, truth, edition, bumped, {*truth.holds.active, *kept})


def raise_epoch(connection: Connection, truth: Truth, above: Edition, event: events.Event) -> Truth:
    """Goes above `above` because somebody said so; `event` gets the edition. `truth` must come from `lock`.

    Raises Unavailable where no epoch is left.
    """
    edition = _above(above, truth)
    said = replace(event, edition=edition, version=edition.version)
    return _raised(connection, truth, edition, said, truth.holds.active)


def _above(met: Edition, truth: Truth) -> Edition:
    if met.epoch >= MAX_EPOCH:
        raise Unavailable(f"a state has epoch {met.epoch}, and no epoch is left above it")
    return Edition(met.epoch + 1, truth.holds.version + 1)


def _unheard_of(connection: Connection, truth: Truth, met: Holds) -> list[Hold]:
    """What `met` holds that this database has no row of. Where another hold stands at its place, that one holds."""
    return [
        hold
        for hold in map(_understood, met.sorted())
        if truth.holds.find(hold.key) is None and hold_rows.find(connection, truth.namespace, hold.id) is None
    ]


def _understood(hold: Hold) -> Hold:
    """`hold` in words of this version: a newer one may have made it. What has another cause, an operator can resume."""
    cause = hold.cause if hold.cause in list(Cause) else Cause.MANUAL
    return replace(hold, cause=cause, then=hold.then if hold.then in list(Then) else None)


def _raised(
    connection: Connection, truth: Truth, edition: Edition, event: events.Event, active: Iterable[Hold]
) -> Truth:
    _advance(connection, truth, edition, event.at)
    events.record(connection, truth.namespace, event)
    return Truth(
        namespace=truth.namespace,
        epoch=edition.epoch,
        holds=Holds(version=edition.version, active=frozenset(active)),
        updated_at=event.at,
        now=event.at,
    )


def raise_publications(connection: Connection, publication: int) -> None:
    """Makes the next publication higher than `publication`, for a database whose counter was set back by a restore."""
    # By a function of the owner's: whoever may set the counter at will could put it to its end.
    connection.execute(text("select sluicegate_raise_publications(:number)"), {"number": publication})


def clock(connection: Connection) -> datetime:
    """The database's time now: one clock for all replicas."""
    now: datetime = connection.execute(select(func.clock_timestamp())).scalar_one()
    return now


def _advance(connection: Connection, truth: Truth, edition: Edition, now: datetime) -> None:
    connection.execute(
        update(NAMESPACES)
        .where(NAMESPACES.c.namespace == truth.namespace)
        .values(epoch=edition.epoch, version=edition.version, updated_at=now)
    )
