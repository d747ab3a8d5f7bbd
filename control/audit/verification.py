"""The audit's chain in the database: where it ends, and whether it is what was recorded."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from typing import Any, Final

from sqlalchemy import Connection, Text, cast, extract, func, select, text

from sluicegate.control.audit.chain import START, Chain, Head, Link
from sluicegate.control.store.connection import connected
from sluicegate.control.store.tables import CONTROL_EVENTS, NAMESPACES
from sluicegate.schemas.errors import AuditBroken
from sluicegate.schemas.snapshots import NOTHING, Edition

BATCH: Final = 5000
"""Events in memory at a time."""

GUARDS: Final = ("control_events_append_only", "control_events_chain")

_GUARDS = text(
    "select tgname from pg_trigger where tgrelid = to_regclass('control_events') and tgenabled = 'A'"
    " and tgname = any(:names)"
)


def head(database_url: str) -> Head:
    """Where the chain ends now. Raises InvalidSetting, Unavailable, NotMigrated."""
    column = CONTROL_EVENTS.c
    last = select(column.position, column.hash).order_by(column.position.desc()).limit(1)
    with _reading(database_url) as connection:
        row = connection.execute(last).first()
    return START if row is None else Head(row.position, row.hash.hex())


def verify(database_url: str, exported: Head | None, progress: Callable[[int, int], object]) -> Head:
    """Walks the whole chain as one moment shows it, and returns its head. `progress(done, total)` now and then.

    Raises AuditBroken naming the first event that is not what was recorded, else where a namespace is at a version
    that no event made, or a trigger that guards the events is missing or off. Raises InvalidSetting, Unavailable,
    NotMigrated.
    """
    chain = Chain(exported)
    with _reading(database_url) as connection:
        total = connection.execute(select(func.count()).select_from(CONTROL_EVENTS)).scalar_one()
        with closing(_links(connection)) as links:
            for done, link in enumerate(links, start=1):
                chain.add(link)
                if done % BATCH == 0:
                    progress(done, total)
        chain.end()
        for namespace, edition in _editions(connection):
            made = chain.editions.get(namespace, NOTHING)
            if made != edition:
                raise AuditBroken(
                    f"namespace {namespace!r} is at {edition}, but the newest version that an event made is {made}",
                    position=chain.head.position + 1,
                )
        on = set(connection.execute(_GUARDS, {"names": list(GUARDS)}).scalars())
    for guard in GUARDS:
        if guard not in on:
            raise AuditBroken(f"all events are as recorded, but nothing guards them: the trigger {guard} is not on")
    return chain.head


def _links(connection: Connection) -> Generator[Link, None, None]:
    column = CONTROL_EVENTS.c
    # Postgres spells these two: its JSON keeps numbers that ours would round, and a date may be out of Python's range.
    as_text: dict[str, Any] = {
        "details": cast(column.details, Text),
        "created_at": cast(extract("epoch", column.created_at), Text),
    }
    wanted = select(*(as_text.get(name, column[name]).label(name) for name in Link.__dataclass_fields__))
    in_order = wanted.order_by(column.position, column.id)
    with connection.execute(in_order, execution_options={"yield_per": BATCH}) as rows:
        for row in rows.mappings():
            yield Link(**row)


def _editions(connection: Connection) -> list[tuple[str, Edition]]:
    column = NAMESPACES.c
    rows = connection.execute(select(column.namespace, column.epoch, column.version).order_by(column.namespace))
    return [(row.namespace, Edition(row.epoch, row.version)) for row in rows]


@contextmanager
def _reading(database_url: str) -> Iterator[Connection]:
    """A transaction that sees one moment and changes nothing, without the control plane's limits of time."""
    with connected(database_url) as connection:
        yield connection.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
