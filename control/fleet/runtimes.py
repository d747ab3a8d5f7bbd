"""How long tasks took, kept in the database: rows of `tables.RUNTIMES`, learnt from heartbeats."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime

from sqlalchemy import Connection, select
from sqlalchemy.dialects.postgresql import insert

from sluicegate.control.store.tables import RUNTIMES
from sluicegate.schemas.runtimes import Runtime


def read(connection: Connection, namespace: str, names: Iterable[str] | None = None) -> dict[str, Runtime]:
    """What is known of the tasks called `names` (None: of all), by name."""
    column = RUNTIMES.c
    query = select(column.task, column.count, column.recent_s).where(column.namespace == namespace)
    if names is not None:
        query = query.where(column.task.in_(sorted(names)))
    return {
        row.task: Runtime(name=row.task, count=row._mapping["count"], recent_s=tuple(row.recent_s))
        for row in connection.execute(query)
    }


def learn(connection: Connection, namespace: str, runs_s: Mapping[str, list[float]], now: datetime) -> None:
    """Adds runs, by the name of their task. Only a leader does: two would count each run twice."""
    if not runs_s:
        return
    known = read(connection, namespace, runs_s)
    new = insert(RUNTIMES)
    changed = {name: new.excluded[name] for name in ("count", "recent_s", "updated_at")}
    rows = []
    for name in sorted(runs_s):
        runtime = known.get(name, Runtime(name=name)).with_runs(runs_s[name])
        rows.append(
            {
                "namespace": namespace,
                "task": name,
                "count": runtime.count,
                "recent_s": list(runtime.recent_s),
                "updated_at": now,
            }
        )
    index = [RUNTIMES.c.namespace, RUNTIMES.c.task]
    connection.execute(new.on_conflict_do_update(index_elements=index, set_=changed), rows)
