"""A world for each test: a database copied from a migrated one, a namespace of its own, a key of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from sqlalchemy import NullPool, create_engine, make_url, text

from sluicegate.control.embedded import EmbeddedPostgres, EmbeddedValkey
from sluicegate.control.store import grants, migrate
from sluicegate.control.store.connection import parse_url
from tests.integration.world import CONTROL_ROLE, World

TEMPLATE = "sluicegate_template"


def make_database(server_url: str, name: str, template: str = "template1") -> str:
    """Makes a database on the server, and returns its URL."""
    engine = create_engine(parse_url(server_url), poolclass=NullPool, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(f'create database "{name}" template "{template}"'))
    engine.dispose()
    return make_url(server_url).set(database=name).render_as_string(hide_password=False)


@pytest.fixture
def empty_database_url(postgres: EmbeddedPostgres) -> str:
    """A database with nothing in it."""
    return make_database(postgres.url, f"test_{uuid4().hex}")


@pytest.fixture(scope="session")
def template(postgres: EmbeddedPostgres) -> str:
    """The name of a migrated database, to copy."""
    url = make_database(postgres.url, TEMPLATE)
    migrate.upgrade(url)
    grants.create_role(url, CONTROL_ROLE)
    grants.grant(url, CONTROL_ROLE)
    return TEMPLATE


@pytest.fixture
def world(postgres: EmbeddedPostgres, valkey: EmbeddedValkey, template: str, tmp_path: Path) -> Iterator[World]:
    """A migrated database and a fresh namespace."""
    name = f"test_{uuid4().hex}"
    made = World(
        database_url=make_database(postgres.url, name, template),
        redis_url=valkey.url,
        namespace=name,
        key_file=tmp_path / "signing.key",
    )
    yield made
    made.close()
