"""What was last heard of each worker, kept in the database: a wiped Redis must not look like rest."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import ARRAY, Connection, Text, and_, any_, case, delete, func, literal, not_, or_, select, update
from sqlalchemy.dialects.postgresql import Insert, insert
from sqlalchemy.exc import DBAPIError

from sluicegate.control.store.connection import first_line
from sluicegate.control.store.tables import WORKERS
from sluicegate.schemas.beats import Beat
from sluicegate.schemas.errors import InvalidInput
from sluicegate.schemas.lives import Life
from sluicegate.schemas.progress import AHEAD_AT_MOST, Sighting, illegible, is_of_another_clock
from sluicegate.schemas.signed_beats import Word
from sluicegate.schemas.times import from_wire_or_none, to_wire_or_none

log = logging.getLogger(__name__)

NEVER = datetime.fromtimestamp(0, UTC)
"""When the bus says that something was seen whose time is no time, or has not come."""

_REFUSED_CLASSES = ("22", "23", "54")
"""SQLSTATE: data, constraints, limits of the program. It is the row's own fault, and no other row's."""

_SINCE, _OTHERS, _WORD = "heardSince", "otherLives", "word"
"""What stands in a row beside the fields of its beat: on whose word it stands, where that is signed, and the others
where there is more than one life. Other versions of this code do not know it, and write the row without: the workers'
next beats say it again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Remembered:
    """A nodename's row: its last beat, and whether an operator said to forget it.

    `since` and `others` where it had several lives: when that one was first heard, and the others that count.
    """

    sighting: Sighting
    is_forgotten: bool
    since: datetime | None = None
    others: tuple[Life, ...] = ()

    @property
    def lives(self) -> list[Life]:
        """All of them, the newest first."""
        return [Life(sighting=self.sighting, since=self.since, is_forgotten=self.is_forgotten), *self.others]


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """What the database remembers, by nodename. `unread`: of how many more nodenames than are read."""

    rows: Mapping[str, Remembered] = field(default_factory=dict)
    unread: int = 0


def recall(connection: Connection, namespace: str, most: int) -> Memory:
    """Every worker that was ever heard of: `most` of them, those that were heard last."""
    rows = read(connection, namespace, most)
    if len(rows) < most:
        return Memory(rows=rows)
    return Memory(rows=rows, unread=_count(connection, namespace) - len(rows))


def read(
    connection: Connection, namespace: str, most: int, nodenames: Collection[str] | None = None
) -> dict[str, Remembered]:
    """Those called `nodenames`, or all, `most` at most, by nodename."""
    column = WORKERS.c
    query = select(column.nodename, column.beat, column.last_seen_at, column.forgotten_at).where(
        column.namespace == namespace
    )
    if nodenames is not None:
        query = query.where(column.nodename.in_(sorted(nodenames)))
    query = query.order_by(column.last_seen_at.desc()).limit(most)
    return {row.nodename: _remembered(row) for row in connection.execute(query)}


def _remembered(row: Any) -> Remembered:
    """The row; one that cannot be read (of another version, it may be) stands for a worker that is unknown."""
    try:
        return Remembered(
            sighting=Sighting(
                beat=Beat.from_wire(row.beat), seen_at=row.last_seen_at, word=Word.from_wire(row.beat.get(_WORD))
            ),
            is_forgotten=row.forgotten_at is not None,
            since=from_wire_or_none(row.beat.get(_SINCE), _SINCE),
            others=tuple(Life.from_wire(one) for one in row.beat.get(_OTHERS, [])),
        )
    except (InvalidInput, KeyError, TypeError, ValueError, AttributeError):
        return Remembered(sighting=illegible(row.nodename, row.last_seen_at), is_forgotten=row.forgotten_at is not None)


def names(connection: Connection, namespace: str, most: int) -> list[str]:
    """The nodenames that are remembered, `most` at most, those that were heard last."""
    query = select(WORKERS.c.nodename).where(WORKERS.c.namespace == namespace)
    query = query.order_by(WORKERS.c.last_seen_at.desc()).limit(most)
    return list(connection.execute(query).scalars())


def _count(connection: Connection, namespace: str) -> int:
    query = select(func.count()).select_from(WORKERS).where(WORKERS.c.namespace == namespace)
    return connection.execute(query).scalar_one()


def alone(connection: Connection, namespace: str) -> dict[str, tuple[str, int | None]]:
    """The incarnation of each nodename that has one life as far as is remembered, and was not forgotten; and where that
    life signs its beats, the number of the last one.
    """
    column = WORKERS.c
    signed = column.beat[_WORD]["signed"].astext == "true"
    last = case((signed, column.beat["seq"].astext))
    rows = connection.execute(
        select(column.nodename, column.incarnation, last.label("last")).where(
            column.namespace == namespace, column.forgotten_at.is_(None), column.beat[_OTHERS].is_(None)
        )
    )
    return {row.nodename: (row.incarnation, None if row.last is None else int(row.last)) for row in rows}


def busy(connection: Connection, namespace: str, most: int) -> dict[str, Beat]:
    """The last beat of each worker that was running something then, by nodename."""
    column = WORKERS.c
    is_busy = func.jsonb_array_length(column.beat["running"]) > 0
    query = select(column.nodename, column.beat).where(column.namespace == namespace, is_busy).limit(most)
    found = {}
    for row in connection.execute(query):
        # What cannot be read says nothing of how long tasks take.
        with suppress(InvalidInput):
            found[row.nodename] = Beat.from_wire(row.beat)
    return found


def is_newer(seen_at: datetime, known_at: datetime, now: datetime) -> bool:
    """Does what was seen at `seen_at` replace what is known from `known_at`? All by the clock that says `now`."""
    return seen_at > known_at or (is_of_another_clock(known_at, now) and seen_at > NEVER)


def fold(connection: Connection, namespace: str, fleet: Iterable[Sequence[Life]], now: datetime, most: int) -> None:
    """Remembers what is newer than what is known (`is_newer`). A worker that was forgotten and beats again is back.

    Of each nodename its lives, the newest first. What is new where `most` are known is not remembered, and a
    row that Postgres refuses is left out and logged: the others are remembered all the same.
    """
    rows = [
        {
            "namespace": namespace,
            "nodename": newest.sighting.beat.nodename,
            "incarnation": newest.incarnation,
            "beat": newest.sighting.beat.to_wire() | _beside(newest, others),
            "last_seen_at": newest.seen_at,
        }
        # In one order, so that two replicas that fold at once do not lock each other out.
        for newest, *others in sorted(fleet, key=lambda lives: lives[0].sighting.beat.nodename)
    ]
    rows = _within(connection, namespace, rows, most)
    if not rows:
        return
    new = insert(WORKERS)
    changed: Mapping[str, Any] = {
        "incarnation": new.excluded.incarnation,
        "beat": new.excluded.beat,
        "last_seen_at": new.excluded.last_seen_at,
        "forgotten_at": None,
        "forgotten_by": None,
        "forgotten_reason": None,
    }
    statement = new.on_conflict_do_update(
        index_elements=[WORKERS.c.namespace, WORKERS.c.nodename],
        set_=changed,
        where=or_(
            WORKERS.c.last_seen_at < new.excluded.last_seen_at,
            and_(WORKERS.c.last_seen_at > now + AHEAD_AT_MOST, new.excluded.last_seen_at > NEVER),
        ),
    )
    if not _is_taken(connection, statement, rows):
        for row in rows:
            if not _is_taken(connection, statement, [row]):
                log.warning("what %.100r said cannot be stored", row["nodename"])


def _within(connection: Connection, namespace: str, rows: list[dict[str, Any]], most: int) -> list[dict[str, Any]]:
    """Those that are remembered already, and as many more as there is room for."""
    if len(rows) + _count(connection, namespace) <= most:
        return rows
    known = set(names(connection, namespace, most))
    room = max(0, most - len(known))
    known |= set([row["nodename"] for row in rows if row["nodename"] not in known][:room])
    return [row for row in rows if row["nodename"] in known]


def _is_taken(connection: Connection, statement: Insert, rows: list[dict[str, Any]]) -> bool:
    """Executes it within a savepoint; False where Postgres refuses what stands in the rows, and nothing is done."""
    try:
        with connection.begin_nested():
            connection.execute(statement, rows)
    except DBAPIError as error:
        if not str(getattr(error.orig, "sqlstate", None)).startswith(_REFUSED_CLASSES):
            raise
        log.info("heartbeats: %s", first_line(error.orig))
        return False
    return True


def forget(connection: Connection, namespace: str, nodename: str, *, by: str, reason: str, now: datetime) -> None:
    """Marks the worker as forgotten until it beats again."""
    connection.execute(
        update(WORKERS)
        .where(WORKERS.c.namespace == namespace, WORKERS.c.nodename == nodename)
        .values(forgotten_at=now, forgotten_by=by, forgotten_reason=reason)
    )


def forget_others(connection: Connection, namespace: str, nodename: str, silent: Collection[str]) -> None:
    """Marks those of a nodename's other lives as forgotten whose incarnations are `silent`."""
    row = read(connection, namespace, 1, [nodename])[nodename]
    others = [replace(one, is_forgotten=one.is_forgotten or one.incarnation in silent) for one in row.others]
    beat = row.sighting.beat.to_wire() | _beside(row.lives[0], others)
    mine = (WORKERS.c.namespace == namespace, WORKERS.c.nodename == nodename)
    connection.execute(update(WORKERS).where(*mine).values(beat=beat))


def purge(connection: Connection, namespace: str, before: datetime, *, still_told: Collection[str]) -> None:
    """Removes the rows of workers that said goodbye or were forgotten, and were not seen since `before`.

    Of those that were forgotten, the ones that Redis tells of no more (`still_told`: those that it does): the row says
    that they are given up, and without it their old heartbeat would be that of a worker that fell silent.
    """
    said_goodbye = WORKERS.c.beat["goodbye"].as_boolean()
    is_done = and_(or_(said_goodbye, WORKERS.c.forgotten_at.is_not(None)), WORKERS.c.beat[_OTHERS].is_(None))
    is_old = and_(WORKERS.c.namespace == namespace, WORKERS.c.last_seen_at < before)
    # What has a NUL in it cannot stand in a row; Postgres would refuse the question.
    names = literal(sorted(name for name in still_told if "\0" not in name), ARRAY(Text))
    is_kept = and_(WORKERS.c.forgotten_at.is_not(None), WORKERS.c.nodename == any_(names))
    connection.execute(delete(WORKERS).where(is_old, is_done, not_(is_kept)))


def _beside(newest: Life, others: Sequence[Life]) -> dict[str, Any]:
    word = newest.sighting.word
    told: dict[str, Any] = {_WORD: word.to_wire()} if word.is_signed else {}
    if others:
        told |= {_SINCE: to_wire_or_none(newest.since), _OTHERS: [one.to_wire() for one in others]}
    return told
