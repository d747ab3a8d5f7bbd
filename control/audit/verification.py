"""The audit's chain in the database: where it ends, and whether it is what was recorded."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from typing import Any, Final

from sqlalchemy import Connection, Text, cast, extract, func, select, text

from sluicegate.control.audit import guards
from sluicegate.control.audit.chain import START, Chain, Head, Link
from sluicegate.control.store.connection import connected
from sluicegate.control.store.tables import CONTROL_EVENTS, NAMESPACES
from sluicegate.schemas.errors import AuditBroken
from sluicegate.schemas.snapshots import NOTHING, Edition

BATCH: Final = 5000
"""Events in memory at a time."""

NAMED: Final = 10
"""Tokens that are named in one error."""

# A token is what its event says: the name, the right, the instant; and the digest, since events have it. One that was
# revoked and is not any more has been brought back by nobody who is on record.
_UNRECORDED_TOKENS = text(
    'select t.name, t."right" from tokens t where t.revoked_at is null and not exists ('
    " select from control_events e where e.action = 'token_created' and e.outcome = 'applied'"
    " and e.namespace is null and e.details->>'name' = t.name and e.details->>'right' = t.\"right\""
    " and e.created_at = t.created_at and coalesce(e.details->>'digest', t.digest) = t.digest"
    " and not exists (select from control_events r where r.action = 'token_revoked' and r.outcome = 'applied'"
    " and r.namespace is null and r.details->>'name' = t.name and r.position > e.position)) order by t.name"
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
    that no event made, where what guards the events is missing, off or another than the migrations made, or where
    there are tokens that no event made. Raises InvalidSetting, Unavailable, NotMigrated.
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
        unguarded = guards.fault(connection)
        tokens = [f"{row.name!r} ({row.right})" for row in connection.execute(_UNRECORDED_TOKENS)]
    if unguarded is not None:
        raise AuditBroken(f"all events are as recorded, but nothing guards them: {unguarded}")
    if tokens:
        more = f" and {len(tokens) - NAMED} more" if len(tokens) > NAMED else ""
        raise AuditBroken(
            f"all events are as recorded, but no event made these tokens: {', '.join(tokens[:NAMED])}{more}"
        )
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
