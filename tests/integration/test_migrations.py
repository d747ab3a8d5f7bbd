"""The tables: made from nothing, taken away again, and the same as what the code believes they are."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import NullPool, create_engine, inspect, text
from sqlalchemy.exc import DBAPIError

from sluicegate.control.access import tokens
from sluicegate.control.store import migrate
from sluicegate.control.store.connection import parse_url
from sluicegate.control.store.database import Database
from sluicegate.control.store.tables import METADATA
from sluicegate.schemas.errors import InvalidInput, InvalidSetting, NotMigrated, Unavailable
from tests.integration.world import PAUSE, World


def tables_of(database_url: str) -> set[str]:
    engine = create_engine(parse_url(database_url), poolclass=NullPool)
    try:
        return set(inspect(engine).get_table_names())
    finally:
        engine.dispose()


def test_an_empty_database_is_upgraded_and_downgraded_to_nothing(empty_database_url: str) -> None:
    """Both ways work, twice, and nothing but Alembic's own table stays."""
    assert migrate.current(empty_database_url) is None
    for _ in range(2):
        assert migrate.upgrade(empty_database_url) == migrate.head() == migrate.current(empty_database_url)
        assert tables_of(empty_database_url) == {*METADATA.tables, "alembic_version"}
        assert migrate.downgrade(empty_database_url, "base") == "base"
        assert tables_of(empty_database_url) == {"alembic_version"}


def test_upgrading_what_is_upgraded_changes_nothing(world: World) -> None:
    """`db upgrade` may stand in every start script."""
    before = world.dump()
    assert migrate.upgrade(world.database_url) == migrate.head()
    assert world.dump() == before


def test_replicas_that_upgrade_at_once_do_it_one_after_the_other(empty_database_url: str) -> None:
    """All succeed."""
    with ThreadPoolExecutor(4) as pool:
        reached = list(pool.map(migrate.upgrade, [empty_database_url] * 4))
    assert reached == [migrate.head()] * 4


def test_the_tables_in_code_are_the_tables_that_migrations_make(empty_database_url: str) -> None:
    """A column added on one side alone fails here."""
    migrate.upgrade(empty_database_url)
    engine = create_engine(parse_url(empty_database_url), poolclass=NullPool)
    with engine.connect() as connection:
        drift = compare_metadata(MigrationContext.configure(connection, opts={"compare_type": True}), METADATA)
        made = set(connection.execute(text("select conname from pg_constraint where contype = 'c'")).scalars())
    engine.dispose()
    declared = {
        str(constraint.name)
        for table in METADATA.tables.values()
        for constraint in table.constraints
        if type(constraint).__name__ == "CheckConstraint"
    }
    assert drift == []
    assert {name for name in declared if not any(found.endswith(name) for found in made)} == set()


@pytest.mark.parametrize(
    "statement",
    [
        "update control_events set reason = 'another'",
        "delete from control_events",
        "truncate control_events",
        "set session_replication_role = replica; delete from control_events",
    ],
)
def test_the_audit_is_append_only(world: World, statement: str) -> None:
    """S7: what happened is not rewritten, not even by the owner of the table."""
    world.change(world.replica(), **PAUSE)
    before = world.dump("control_events")
    with pytest.raises(DBAPIError, match="append-only"):
        world.sql(statement)
    assert world.dump("control_events") == before


def test_a_database_without_tables_is_said_to_be_so(empty_database_url: str) -> None:
    """One clear line that names the command to run."""
    database = Database(empty_database_url)
    with pytest.raises(NotMigrated, match="sluicegate db upgrade"):
        database.check()
    database.close()
    with pytest.raises(NotMigrated, match="sluicegate db upgrade"):
        tokens.create(empty_database_url, "alice", "viewer")


def test_a_control_plane_does_not_start_on_a_database_without_tables(world: World, empty_database_url: str) -> None:
    """It says what is missing instead."""
    plane = world.replica(SLUICEGATE_DATABASE_URL=empty_database_url)
    with pytest.raises(NotMigrated, match="sluicegate db upgrade"):
        plane.start()


def test_a_database_of_another_revision_is_refused(world: World) -> None:
    """Tables of the future are as wrong as none."""
    plane = world.replica()
    world.sql("update alembic_version set version_num = '9999'")
    with pytest.raises(NotMigrated, match="revision 9999"):
        world.change(plane, **PAUSE)


def test_tables_that_vanish_under_a_running_control_plane_are_reported(world: World) -> None:
    """The revision is looked at once; what Postgres says counts afterwards."""
    plane = world.replica()
    world.change(plane, **PAUSE)
    migrate.downgrade(world.database_url, "base")
    with pytest.raises(NotMigrated):
        world.read(plane)


def test_a_wrong_url_is_one_line_without_its_password() -> None:
    """Settings end up in logs."""
    for url in ("mysql://u:secret@h/d", "secret", "postgresql://u:secret@h:port/d"):
        with pytest.raises(InvalidSetting) as caught:
            Database(url)
        assert "secret" not in str(caught.value).replace("'secret'", "secret" if url != "secret" else "")
        assert caught.value.field == "SLUICEGATE_DATABASE_URL"


def test_a_postgres_that_is_away_is_one_line() -> None:
    """Nobody listens on port 1."""
    with pytest.raises(Unavailable, match="Postgres"):
        migrate.current("postgresql://u@127.0.0.1:1/d")


def test_an_unknown_revision_is_bad_input(world: World) -> None:
    """Not a traceback of Alembic's."""
    with pytest.raises(InvalidInput, match="revision"):
        migrate.upgrade(world.database_url, "nowhere")
