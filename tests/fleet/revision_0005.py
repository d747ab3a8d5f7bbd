"""A fleet as it was before revision 0006: its database, with rows in it, and what its control plane published."""

from __future__ import annotations

import threading
from types import TracebackType
from typing import Any, Self
from uuid import uuid4

from sqlalchemy import Connection, NullPool, create_engine, text

from sluicegate.control.holds import namespaces
from sluicegate.control.process.stack import Stack
from sluicegate.control.publishing import signing_key
from sluicegate.control.store import migrate
from sluicegate.control.store.connection import parse_url
from sluicegate.schemas import settings
from sluicegate.schemas.names import hint_channel, snapshot_key
from sluicegate.schemas.snapshots import Snapshot, seal
from tests.fleet.sentinels import client_of

EVERY_S = 0.3
_EVENT = text(
    "insert into control_events (namespace, epoch, version, action, outcome, actor, hold_id, scope, cause, source,"
    " mode, reason, details, created_at) values (:namespace, 1, :version, :action, 'applied', 'alice', :hold, :scope,"
    " :cause, :source, :mode, 'of old', '{}', now())"
)
_TOKEN_CREATED = text(
    "insert into control_events (epoch, version, action, outcome, actor, details, created_at) values (0, 0,"
    " 'token_created', 'applied', 'sluicegate', jsonb_build_object("
    "'name', cast(:name as text), 'right', cast(:right as text)), :created_at)"
)
_HOLD = text(
    "insert into holds (id, namespace, scope, cause, source, mode, reason, actor, created_at, updated_at)"
    " values (:hold, :namespace, 'global', 'manual', '', 'drain', 'of old', 'alice', now(), now())"
)
_DRAIN = text(
    "insert into drains (hold_id, version, namespace, begun_at, moment, tasks)"
    " values (:hold, 2, :namespace, now(), null, '[]')"
)


def make_database(stack: Stack, *, held: bool) -> None:
    """Puts a database of revision 0005 in the place of the stack's, whose control plane does not run.

    It has the token of the stack, a fleet at version 1, or, `held`, at 2 with a hold whose drain is under way, and the
    events that say so. What was published before is forgotten.
    """
    engine = create_engine(parse_url(stack.postgres.url), poolclass=NullPool)
    with engine.connect() as connection:
        known = connection.execute(text("select * from tokens")).mappings().all()
    migrate.downgrade(stack.postgres.url, "base")
    migrate.upgrade(stack.postgres.url, "0005")
    with engine.begin() as connection:
        for row in known:
            columns = ", ".join(f'"{name}"' for name in row)
            values = ", ".join(f":{name}" for name in row)
            connection.execute(text(f"insert into tokens ({columns}) values ({values})"), dict(row))
            connection.execute(_TOKEN_CREATED, {name: row[name] for name in ("name", "right", "created_at")})
        _fill(connection, stack.environ[settings.NAMESPACE.name], held=held)
    engine.dispose()
    with client_of(stack.environ[settings.REDIS_URL.name]) as redis:
        redis.flushdb()


def _fill(connection: Connection, namespace: str, *, held: bool) -> None:
    hold = str(uuid4())
    about: dict[str, Any] = dict.fromkeys(("hold", "scope", "cause", "source", "mode"))
    connection.execute(
        text("insert into namespaces values (:namespace, 1, :version, now())"),
        {"namespace": namespace, "version": 2 if held else 1},
    )
    connection.execute(_EVENT, {"namespace": namespace, "version": 1, "action": "namespace_created", **about})
    if held:
        about = {"hold": hold, "scope": "global", "cause": "manual", "source": "", "mode": "drain"}
        connection.execute(_EVENT, {"namespace": namespace, "version": 2, "action": "pause", **about})
        connection.execute(_HOLD, {"namespace": namespace, "hold": hold})
        connection.execute(_DRAIN, {"namespace": namespace, "hold": hold})


class OldControlPlane:
    """Publishes what the database of 0005 says, as its code did: with a number of its sequence. A context manager."""

    def __init__(self, stack: Stack) -> None:
        self._engine = create_engine(parse_url(stack.postgres.url))
        self._key = signing_key.load(stack.state_dir / "signing.key")
        self._redis = client_of(stack.environ[settings.REDIS_URL.name])
        self._namespace = stack.environ[settings.NAMESPACE.name]
        self._stop = threading.Event()
        self._error: Exception | None = None

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._run, name="old-control", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        self._redis.close()
        self._engine.dispose()
        if self._error is not None and error is None:
            raise self._error

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                self._publish()
                self._stop.wait(EVERY_S)
        except Exception as error:
            self._error = error

    def _publish(self) -> None:
        with self._engine.begin() as connection:
            number = connection.execute(text("select nextval('snapshot_beats')")).scalar_one()
            truth = namespaces.read(connection, self._namespace)
        assert truth is not None
        snapshot = Snapshot(
            namespace=self._namespace, epoch=truth.epoch, holds=truth.holds, publication=number, issued_at=truth.now
        )
        self._redis.set(snapshot_key(self._namespace), seal(snapshot, self._key))
        self._redis.publish(hint_channel(self._namespace), b"{}")
