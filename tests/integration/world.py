"""A fleet's control plane under test: its own database, its own namespace, and everything to look at it with."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import httpx
from redis import Redis
from sqlalchemy import Connection, NullPool, create_engine, make_url, text

from sluicegate.control import spelling
from sluicegate.control.access import tokens
from sluicegate.control.process.plane import ControlPlane
from sluicegate.control.publishing import signing_key
from sluicegate.control.store.connection import parse_url
from sluicegate.schemas import names
from sluicegate.schemas.adapters.trusted_keys import TrustedKeys
from sluicegate.schemas.api.orders import order_of
from sluicegate.schemas.api.pausing import PauseRequest
from sluicegate.schemas.api.workers import WorkersAnswer
from sluicegate.schemas.beats import Beat, WorkerState
from sluicegate.schemas.snapshots import Edition, Snapshot, unseal

T = TypeVar("T")
CONTROL_ROLE = "control"
PAUSE = {"action": "pause", "mode": "drain", "reason": "deploy"}
RESUME = {"action": "resume", "reason": "done"}
TABLES = ("namespaces", "holds", "control_events", "idempotency_keys", "tokens", "workers", "drains", "runtimes")


def eventually(ask: Callable[[], T], *, within_s: float = 10.0) -> T:
    """The first true answer of `ask`; fails when none came in time."""
    ends_at = time.monotonic() + within_s
    while not (answer := ask()):
        assert time.monotonic() < ends_at, f"not within {within_s} s"
        time.sleep(0.01)
    return answer


@dataclass
class World:
    """What one test stands on. Planes and clients made here are stopped and closed at its end.

    `database_url` is the owner's; control planes use `control_url`, whose role has no more than it needs.
    """

    database_url: str
    redis_url: str
    namespace: str
    key_file: Path
    planes: list[ControlPlane] = field(default_factory=list)
    clients: list[httpx.Client] = field(default_factory=list)

    def __post_init__(self) -> None:
        signing_key.create(self.key_file)
        self.redis: Any = Redis.from_url(self.redis_url)

    @property
    def control_url(self) -> str:
        """The database as the control plane's role."""
        return make_url(self.database_url).set(username=CONTROL_ROLE).render_as_string(hide_password=False)

    def environ(self, **overrides: str) -> dict[str, str]:
        return {
            "SLUICEGATE_DATABASE_URL": self.control_url,
            "SLUICEGATE_REDIS_URL": self.redis_url,
            "SLUICEGATE_NAMESPACE": self.namespace,
            "SLUICEGATE_SIGNING_KEY_FILE": str(self.key_file),
            "SLUICEGATE_BIND": "127.0.0.1:0",
            "SLUICEGATE_REPUBLISH_INTERVAL_MS": "100",
        } | overrides

    def replica(self, **overrides: str) -> ControlPlane:
        """A control plane with neither loops nor HTTP: what it does, a test asks it to do."""
        plane = ControlPlane(self.environ(**overrides))
        self.planes.append(plane)
        return plane

    def start(self, **overrides: str) -> ControlPlane:
        """A control plane that runs."""
        plane = self.replica(**overrides)
        plane.start()
        return plane

    def client(self, plane: ControlPlane, right: str | None = "operator", name: str | None = None) -> httpx.Client:
        """A client with a token of its own; `right` None for one without."""
        headers = {}
        if right is not None:
            name = name or f"{right}-{len(self.clients)}"
            headers["Authorization"] = f"Bearer {tokens.create(self.database_url, name, right)}"
        made = httpx.Client(base_url=plane.url, headers=headers, timeout=15)
        self.clients.append(made)
        return made

    def change(self, plane: ControlPlane, actor: str = "alice", **body: Any) -> dict[str, Any]:
        """What an order is answered."""
        request = PauseRequest.model_validate(body)
        done = plane.parts.orders.take(order_of(request), actor=actor, key=request.idempotency_key)
        return spelling.change_of(done).to_json()

    def read(self, plane: ControlPlane) -> dict[str, Any]:
        """What `GET /api/system/worker-pause` answers."""
        return spelling.state_of(plane.parts.reading.state()).to_json()

    def workers(self, plane: ControlPlane) -> list[dict[str, Any]]:
        """What `GET /api/workers` lists."""
        listed: list[dict[str, Any]] = WorkersAnswer.of(plane.parts.reading.workers()).to_json()["workers"]
        return listed

    def sql(self, statement: str, **values: Any) -> list[Any]:
        engine = create_engine(parse_url(self.database_url), poolclass=NullPool)
        with engine.begin() as connection:
            result = connection.execute(text(statement), values)
            rows = list(result.all()) if result.returns_rows else []
        engine.dispose()
        return rows

    @contextmanager
    def connected_as_control(self) -> Iterator[Connection]:
        """A connection of the control plane's role, with errors as Postgres words them."""
        engine = create_engine(parse_url(self.control_url), poolclass=NullPool)
        try:
            with engine.connect() as connection:
                yield connection
        finally:
            engine.dispose()

    def dump(self, *tables: str) -> dict[str, list[Any]]:
        """Everything that the tables say."""
        return {table: self.sql(f'select to_jsonb(t) from "{table}" t order by 1') for table in tables or TABLES}

    def events(self, **columns: Any) -> list[dict[str, Any]]:
        rows = self.sql("select to_jsonb(e) from control_events e order by id")
        return [row[0] for row in rows if all(row[0][name] == value for name, value in columns.items())]

    def edition(self) -> Edition:
        """What the database says."""
        ((epoch, version),) = self.sql("select epoch, version from namespaces where namespace = :n", n=self.namespace)
        return Edition(epoch, version)

    @property
    def slot(self) -> str:
        return names.snapshot_key(self.namespace)

    def published(self) -> Snapshot | None:
        """What workers see; None where nothing is there."""
        key = signing_key.load(self.key_file)
        raw = self.redis.get(self.slot)
        return None if raw is None else unseal(raw, TrustedKeys({key.kid: key.public_bytes}), self.namespace)

    def beat(self, nodename: str, *, age_s: float = 0.0, **fields: Any) -> Beat:
        """Leaves a heartbeat in Redis as a worker does; `age_s` seconds ago."""
        values: dict[str, Any] = {
            "nodename": nodename,
            "incarnation": f"life-of-{nodename}",
            "host": names.host_of(nodename),
            "pool": "prefork",
            "pid": 1,
            "seq": 1,
            "sent_at": datetime.now(UTC),
            "state": WorkerState.RUNNING,
            "applied": Edition(1, 1),
            "applied_at": None,
            "ended": (),
        }
        beat = Beat(**(values | fields))
        self.leave(nodename, beat.encode(), age_s=age_s)
        return beat

    def leave(self, nodename: str, raw: bytes, *, age_s: float = 0.0) -> None:
        seconds, microseconds = self.redis.time()
        self.redis.set(names.beat_key(self.namespace, nodename), raw)
        self.redis.zadd(names.beats_key(self.namespace), {nodename: seconds + microseconds / 1e6 - age_s})

    def close(self) -> None:
        for client in self.clients:
            client.close()
        for plane in self.planes:
            plane.stop()
        self.redis.close()


def check_one_event_per_version(world: World) -> None:
    """S7: version n exists ⇔ exactly one applied event made it."""
    made = [event["version"] for event in world.events(outcome="applied", namespace=world.namespace)]
    versions = [version for version in made if version is not None]
    assert sorted(versions) == list(range(1, world.edition().version + 1))
