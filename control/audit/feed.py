"""The audit as it is asked for: a page of the events that match."""

from __future__ import annotations

from dataclasses import dataclass

from sluicegate.control.audit import events
from sluicegate.control.audit.events import Query, Recorded
from sluicegate.control.store.database import Database


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """The events that `query` asked for, newest first; `total` counts all that match, whatever its limit."""

    events: tuple[Recorded, ...]
    total: int
    query: Query


class Feed:
    """The events of one namespace, and those that concern the whole database. Thread-safe."""

    def __init__(self, database: Database, namespace: str) -> None:
        self._database = database
        self._namespace = namespace

    def search(self, query: Query) -> Page:
        """The events that match. Raises Unavailable, NotMigrated."""
        with self._database.transaction() as connection:
            found, total = events.search(connection, self._namespace, query)
        return Page(events=tuple(found), total=total, query=query)
