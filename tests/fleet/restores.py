"""What is lost with the stores of a stack, and what comes back of them: everything, or what they had a while ago.

The broker's messages stay: what a restored broker has lost or has twice is Celery's, and another matter.
"""

from __future__ import annotations

from typing import Any

import redis
from sqlalchemy import NullPool, create_engine, make_url, text

from sluicegate.control.process.stack import CONTROL_ROLE, Stack
from sluicegate.control.store import grants, migrate
from sluicegate.control.store.connection import parse_url
from sluicegate.schemas.settings import REDIS_URL

COPY = "an_hour_ago"
_TOKENS = 'select name, digest, "right", created_at from tokens where revoked_at is null'
_TOKEN = 'insert into tokens (name, digest, "right", created_at) values (:name, :digest, :right, :created_at)'


class Stores:
    """Postgres and the Redis of the state of one stack, as whoever looks after them sees them."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self._kept: dict[bytes, bytes] = {}
        self._redis: Any = redis.Redis.from_url(stack.environ[REDIS_URL.name])
        self._name = make_url(stack.postgres.url).database

    def copy(self) -> None:
        """Make a copy of both, with the control plane stopped meanwhile."""
        self._stack.stop_control()
        self._sql(f"drop database if exists {COPY} with (force)", f"create database {COPY} template {self._name}")
        self._kept = {key: self._redis.dump(key) for key in self._redis.keys("*")}
        self._stack.start_control()

    def restore(self) -> None:
        """Both as they were when they were copied."""
        self._stack.kill_control()
        self._sql(
            f"drop database {self._name} with (force)",
            f"alter database {COPY} rename to {self._name}",
        )
        self._redis.flushdb()
        for key, value in self._kept.items():
            self._redis.restore(key, 0, value)
        self._stack.start_control()

    def lose(self) -> None:
        """Nothing of either; set up anew, with the same tokens, so that operators can still ask."""
        self._stack.kill_control()
        known = self._run(self._stack.postgres.url, _TOKENS)
        self._sql(f"drop database {self._name} with (force)", f"create database {self._name}")
        self._redis.flushdb()
        migrate.upgrade(self._stack.postgres.url)
        grants.grant(self._stack.postgres.url, CONTROL_ROLE)
        for row in known:
            self._run(self._stack.postgres.url, _TOKEN, **row._mapping)
        self._stack.start_control()

    def _sql(self, *statements: str) -> None:
        maintenance = make_url(self._stack.postgres.url).set(database="template1")
        for statement in statements:
            self._run(maintenance.render_as_string(hide_password=False), statement)

    def _run(self, url: str, statement: str, **values: Any) -> list[Any]:
        engine = create_engine(parse_url(url), poolclass=NullPool, isolation_level="AUTOCOMMIT")
        try:
            with engine.connect() as connection:
                result = connection.execute(text(statement), values)
                return list(result.all()) if result.returns_rows else []
        finally:
            engine.dispose()
