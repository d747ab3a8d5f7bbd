"""What work has cost, as rows: each report counts once, and sums are made anew for each local day."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, ColumnElement, Connection, and_, cast, delete, func, or_, select, true
from sqlalchemy.dialects.postgresql import insert

from sluicegate.control.store.tables import SPEND
from sluicegate.schemas.scopes import Scope, ScopeKind

REPORT, ADJUST = "report", "adjust"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """Something that was spent. `amount` in millionths of `currency`; `budget` only of an adjustment."""

    key: str
    amount: int
    currency: str
    at: datetime
    origin: str = REPORT
    budget: str | None = None
    host: str | None = None
    worker: str | None = None
    queue: str | None = None
    task: str | None = None
    task_id: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)


def add(connection: Connection, namespace: str, costs: Iterable[Cost]) -> int:
    """Adds those whose key is new, and returns how many were."""
    rows = [_row(namespace, cost) for cost in costs]
    if not rows:
        return 0
    added = connection.execute(insert(SPEND).values(rows).on_conflict_do_nothing().returning(SPEND.c.key))
    return len(added.all())


def total(
    connection: Connection, namespace: str, budget: str, currency: str, scope: Scope, span: tuple[datetime, datetime]
) -> int:
    """What was spent from the first instant of `span` to the last, which is not in it; in millionths."""
    column = SPEND.c
    is_ours = or_(
        column.budget == budget,
        and_(column.budget.is_(None), column.currency == currency, _within(scope)),
    )
    asked = select(func.coalesce(cast(func.sum(column.amount), BigInteger), 0)).where(
        column.namespace == namespace, column.at >= span[0], column.at < span[1], is_ours
    )
    return int(connection.execute(asked).scalar_one())


def purge(connection: Connection, namespace: str, before: datetime) -> None:
    """Lets go of what no day that is looked at has."""
    connection.execute(delete(SPEND).where(SPEND.c.namespace == namespace, SPEND.c.at < before))


def _within(scope: Scope) -> ColumnElement[bool]:
    column = SPEND.c
    match scope.kind:
        case ScopeKind.GLOBAL:
            return true()
        case ScopeKind.LABEL:
            key, _, value = scope.name.partition("=")
            is_labelled: ColumnElement[bool] = column.labels[key].astext == value
            return is_labelled
        case _:
            named: ColumnElement[bool] = column[str(scope.kind)] == scope.name
            return named


def _row(namespace: str, cost: Cost) -> dict[str, Any]:
    return {
        "namespace": namespace,
        "key": cost.key,
        "amount": cost.amount,
        "currency": cost.currency,
        "at": cost.at,
        "origin": cost.origin,
        "budget": cost.budget,
        "host": cost.host,
        "worker": cost.worker,
        "queue": cost.queue,
        "task": cost.task,
        "task_id": cost.task_id,
        "labels": dict(cost.labels),
    }
