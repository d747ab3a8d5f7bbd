"""Costs as tasks report them: read from Redis, stored once by their keys, and only then taken away there."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from time import monotonic

from sqlalchemy import Connection

from sluicegate.control.audit import events
from sluicegate.control.governors import rows, spend_rows
from sluicegate.control.governors.spend_rows import Cost
from sluicegate.control.holds import namespaces
from sluicegate.control.links.state_redis import Bus
from sluicegate.control.store.database import Database
from sluicegate.schemas import telling
from sluicegate.schemas.errors import InvalidInput, Unavailable
from sluicegate.schemas.money import millionths
from sluicegate.schemas.printable import printable_logger

logger = printable_logger("sluicegate.control")

EVERY_S = 1.0
AT_ONCE = 500
STALE_AFTER_S = 600.0
MAX_BYTES = 8192


class Intake:
    """Takes in what tasks report. Only a leader does; twice is no harm, since each key counts once."""

    def __init__(self, *, database: Database, bus: Bus, namespace: str) -> None:
        self._database = database
        self._bus = bus
        self._namespace = namespace
        self._taken_at = monotonic()
        self._fault: str | None = None

    @property
    def fault(self) -> str | None:
        """Why reports do not arrive; None while they do."""
        return self._fault

    @property
    def is_stale(self) -> bool:
        """Have they not arrived for so long that nothing may be held by what is known?"""
        return self._fault is not None and monotonic() - self._taken_at > STALE_AFTER_S

    def turn(self) -> int:
        """Takes in all that is there; how many entries. Raises Unavailable, Deposed."""
        count = 0
        try:
            while entries := self._bus.costs(AT_ONCE):
                self._store(entries)
                count += len(entries)
        except Unavailable as error:
            self._fault = f"reports of costs cannot be read: {error}"
            raise
        self._taken_at, self._fault = monotonic(), None
        return count

    def _store(self, entries: list[tuple[bytes, bytes]]) -> None:
        costs: dict[str, Cost] = {}
        refused: list[str] = []
        for entry, raw in entries:
            try:
                cost = read(entry, raw)
            except InvalidInput as error:
                refused.append(str(error))
            else:
                costs.setdefault(cost.key, cost)
        with self._database.transaction() as connection:
            if not rows.is_granted(connection):
                raise Unavailable("the role may not store costs yet: `sluicegate db grant`")
            if refused:
                self._refuse(connection, refused)
            spend_rows.add(connection, self._namespace, costs.values())
        # Stored: whoever dies here reads them once more, and each counts once.
        self._bus.drop_costs([entry for entry, _ in entries])

    def _refuse(self, connection: Connection, refused: list[str]) -> None:
        """A figure that is none counts as nothing, and somebody must look at it; a batch is one event."""
        truth = namespaces.lock(connection, self._namespace)
        logger.error("ALARM costs: %d reports refused, the first: %s", len(refused), refused[0])
        event = events.Event(
            action="costs_refused",
            outcome=events.REFUSED,
            actor=events.SYSTEM,
            at=truth.now,
            edition=truth.edition,
            reason=refused[0],
            details={"refused": len(refused)},
        )
        events.record(connection, self._namespace, event)


def read(entry: bytes, raw: bytes) -> Cost:
    """The cost that an entry of the stream is, at the time that Redis gave it; raises InvalidInput."""
    if len(raw) > MAX_BYTES:
        raise InvalidInput("cost", f"has {len(raw)} bytes")
    try:
        said = telling.mapping(json.loads(raw), "cost")
        at = datetime.fromtimestamp(int(entry.partition(b"-")[0]) / 1000, UTC)
    except (ValueError, RecursionError, OverflowError) as error:
        raise InvalidInput("cost", f"is no report: {type(error).__name__}") from None
    amount = millionths(said.get("amount"), "amount")
    if amount < 0:
        raise InvalidInput("amount", "is negative: only an adjustment can be")
    labels = telling.mapping(said.get("labels", {}), "labels")
    return Cost(
        key=f"report:{telling.text(said.get('key'), 'key')}",
        amount=amount,
        currency=telling.text(said.get("currency"), "currency"),
        at=at,
        labels={telling.text(key, "labels"): telling.text(value, "labels") for key, value in labels.items()},
        host=telling.text_or_none(said.get("host"), "host"),
        worker=telling.text_or_none(said.get("worker"), "worker"),
        queue=telling.text_or_none(said.get("queue"), "queue"),
        task=telling.text_or_none(said.get("task"), "task"),
        task_id=telling.text_or_none(said.get("taskId"), "taskId"),
    )
