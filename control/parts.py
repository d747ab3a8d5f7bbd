"""The parts: every use case of the control plane, for every face."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sluicegate.control.access.admission import Access
from sluicegate.control.audit.feed import Feed
from sluicegate.control.fleet.view import Fleet
from sluicegate.control.governors.objects import Objects
from sluicegate.control.links.state_redis import Bus
from sluicegate.control.pausing.change import Orders
from sluicegate.control.pausing.own_records import OwnRecords
from sluicegate.control.pausing.read import Reading
from sluicegate.control.pausing.recovery import Recovery
from sluicegate.control.store.database import Database
from sluicegate.schemas.errors import SluicegateError


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """How the servers are that the control plane stands on: what is not well, by name; empty where all are."""

    faults: Mapping[str, SluicegateError]


class Readiness:
    """Looks whether requests could be served now. Thread-safe."""

    def __init__(self, database: Database, bus: Bus) -> None:
        self._looks = {"redis": bus.ping, "postgres": database.check}

    def look(self) -> Ready:
        """Is Redis there, and the database, migrated? Never raises for one that is not."""
        faults: dict[str, SluicegateError] = {}
        for name, look in self._looks.items():
            try:
                look()
            except SluicegateError as error:
                faults[name] = error
        return Ready(faults=faults)


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What the faces ask of one namespace's control plane."""

    namespace: str
    access: Access
    orders: Orders
    reading: Reading
    fleet: Fleet
    audit: Feed
    readiness: Readiness
    recovery: Recovery
    governors: Objects
    own_records: OwnRecords
