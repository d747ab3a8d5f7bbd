"""The tables: made from nothing, taken away again, and the same as what the code believes they are."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import NullPool, create_engine, inspect, text
from sqlalchemy.exc import DBAPIError

from sluicegate.control.access import tokens
from sluicegate.control.process.plane import ControlPlane
from sluicegate.control.store import migrate
from sluicegate.control.store.connection import parse_url
from sluicegate.control.store.database import Database
from sluicegate.control.store.revisions import Revision
from sluicegate.control.store.tables import METADATA
from sluicegate.schemas.errors import (
    DatabaseTooNew,
    InvalidInput,
    InvalidSetting,
    NotMigrated,
    Refused,
    Unavailable,
)
from sluicegate.schemas.exits import Exit
from tests import next_version
from tests.integration.world import PAUSE, World, eventually

COLUMNS = text(
    "select table_name, column_name, data_type || case when is_nullable = 'NO' and column_default is null"
    " and is_identity = 'NO' then ' needed' else '' end as kind"
    " from information_schema.columns where table_schema = current_schema()"
)


def tables_of(database_url: str) -> set[str]:
    engine = create_engine(parse_url(database_url), poolclass=NullPool)
    try:
        return set(inspect(engine).get_table_names())
    finally:
        engine.dispose()


def test_an_empty_database_is_upgraded_and_downgraded_to_nothing(empty_database_url: str) -> None:
    """Both ways work, twice, and nothing but Alembic's own table stays."""
    assert migrate.current(empty_database_url).number is None
    for _ in range(2):
        assert migrate.upgrade(empty_database_url) == migrate.head() == migrate.current(empty_database_url).number
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


def newer(world: World, usable_from: str) -> None:
    """As a revision of the future leaves the database that takes nothing away which this code asks for."""
    world.sql("update alembic_version set version_num = '9999'")
    world.sql("update compatibility set usable_from = :r", r=usable_from)


@pytest.mark.parametrize("usable_from", ["0006", migrate.head()])
def test_a_newer_database_that_this_code_can_use_is_used(world: World, usable_from: str) -> None:
    """By one that runs, by one that starts, and `db upgrade` in a start script does nothing to it."""
    plane = world.start()
    world.change(plane, **PAUSE)
    newer(world, usable_from)
    published = plane.publisher.alarms.copy()
    assert world.change(plane, action="resume", reason="done", forceResume=True)["outcome"] == "applied"
    assert world.client(plane, None).get("/readyz").status_code == 200
    other = world.start()
    assert world.change(other, **PAUSE)["outcome"] == "applied"
    assert migrate.upgrade(world.database_url) == "9999"
    assert plane.publisher.alarms == published


def test_a_newer_database_that_this_code_cannot_use_is_refused_in_words_of_its_own(world: World) -> None:
    """`db upgrade` is not the advice: this version has nothing to bring it to."""
    plane = world.start()
    world.change(plane, **PAUSE)
    newer(world, "9999")
    answer = eventually(lambda: not_ready(world, plane))
    assert answer["code"] == "database_too_new"
    assert "revision 9999, which can be used from 9999 on" in answer["message"]
    assert "db upgrade" not in answer["message"]
    with pytest.raises(DatabaseTooNew, match="upgrade this control plane"):
        world.change(plane, **PAUSE)
    with pytest.raises(DatabaseTooNew):
        world.start()
    with pytest.raises(DatabaseTooNew):
        migrate.upgrade(world.database_url)
    with pytest.raises(DatabaseTooNew, match="only a version that has it"):
        migrate.downgrade(world.database_url, "base")


def not_ready(world: World, plane: ControlPlane) -> dict[str, Any]:
    """Why it is not; empty where it is."""
    error: dict[str, Any] = world.client(plane, None).get("/readyz").json().get("error", {})
    return error


def test_a_running_control_plane_finds_out_without_being_asked_for_its_health(world: World) -> None:
    """Its loops go by what the database says now, and not by what it said when they began."""
    plane = world.start()
    world.change(plane, **PAUSE)
    eventually(lambda: (published := world.published()) is not None and published.edition == world.edition())
    newer(world, "9999")

    def is_refused() -> bool:
        try:
            plane.publisher.republish()
        except DatabaseTooNew:
            return True
        return False

    eventually(is_refused, within_s=3)


def test_an_older_database_is_refused_with_the_command_that_helps(world: World) -> None:
    migrate.downgrade(world.database_url, "0006")
    with pytest.raises(NotMigrated, match=f"revision 0006, this version needs {migrate.head()}: run `sluicegate db up"):
        world.replica().start()


def test_a_column_that_goes_under_a_running_control_plane_is_told_by_the_revision(world: World) -> None:
    """What met it first is a statement: what is wrong is said all the same."""
    plane = world.replica()
    world.change(plane, **PAUSE)
    newer(world, "9999")
    world.sql("alter table holds drop column ramp")
    with pytest.raises(DatabaseTooNew):
        plane.parts.reading.state()


def test_what_a_revision_declares_is_what_the_database_says(empty_database_url: str) -> None:
    """Upwards and downwards; what is older than the word says nothing, and is used by its own code alone."""
    migrate.upgrade(empty_database_url, "0005")
    assert migrate.current(empty_database_url) == Revision(number="0005")
    for number, usable_from in (("0006", "0006"), ("0007", "0006"), ("0008", "0006"), ("0009", "0006")):
        migrate.upgrade(empty_database_url, number)
        assert migrate.current(empty_database_url) == Revision(number=number, usable_from=usable_from)
    migrate.downgrade(empty_database_url, "0006")
    assert migrate.current(empty_database_url) == Revision(number="0006", usable_from="0006")


def test_an_expanding_revision_leaves_what_older_code_uses(empty_database_url: str) -> None:
    """Each column of the oldest revision that may go on is there, of its type, and no insert needs another."""

    def columns() -> dict[tuple[str, str], str]:
        engine = create_engine(parse_url(empty_database_url), poolclass=NullPool)
        with engine.connect() as connection:
            found = connection.execute(COLUMNS).all()
        engine.dispose()
        return {(row.table_name, row.column_name): row.kind for row in found}

    made: dict[str, dict[tuple[str, str], str]] = {}
    for number in migrate.known():
        migrate.upgrade(empty_database_url, number)
        made[number] = columns()
        oldest = made[migrate.current(empty_database_url).usable_from or number]
        tables = {table for table, _ in oldest}
        assert {key: made[number].get(key) for key in oldest} == oldest
        new = {key: kind for key, kind in made[number].items() if key not in oldest and key[0] in tables}
        assert [key for key, kind in new.items() if kind.endswith("needed")] == []


def test_an_upgrade_is_refused_while_a_control_plane_runs_that_could_not_go_on(world: World, tmp_path: Path) -> None:
    """It is named with its revision, and nothing was changed; once it has stopped the upgrade is done."""
    contract = next_version.make(tmp_path, usable_from=next_version.REVISION)
    plane = world.start()
    eventually(lambda: plane.leader.term)
    run = contract.run("db", "upgrade", environ={"SLUICEGATE_DATABASE_URL": world.database_url})
    assert run.returncode == Exit.REFUSED
    assert f"{plane.leader.replica.id} (fleet {world.namespace}, code of revision {migrate.head()})" in run.stderr
    assert migrate.current(world.database_url).number == migrate.head()
    plane.stop()
    run = contract.run("db", "upgrade", environ={"SLUICEGATE_DATABASE_URL": world.database_url})
    assert (run.returncode, migrate.current(world.database_url)) == (
        Exit.OK,
        Revision(number=next_version.REVISION, usable_from=next_version.REVISION),
    )


def test_an_upgrade_that_every_running_control_plane_can_use_is_done_under_them(world: World, tmp_path: Path) -> None:
    """And the way back is open to the version that made it, as long as none of its own control planes runs."""
    expand = next_version.make(tmp_path, usable_from=migrate.head())
    url = {"SLUICEGATE_DATABASE_URL": world.database_url}
    plane = world.start()
    eventually(lambda: plane.leader.term)
    run = expand.run("db", "upgrade", environ=url)
    assert run.returncode == Exit.OK, run.stderr
    assert f"revision {next_version.REVISION}, which can be used from {migrate.head()} on" in run.stdout
    assert world.change(plane, **PAUSE)["outcome"] == "applied"
    run = expand.run("db", "downgrade", migrate.head(), environ=url)
    assert run.returncode == Exit.OK, run.stderr
    assert world.change(plane, action="resume", reason="done", forceResume=True)["outcome"] == "applied"


def test_tables_are_not_taken_from_under_a_control_plane_that_runs(world: World) -> None:
    plane = world.start()
    eventually(lambda: plane.leader.term)
    for target in ("0006", "base", "-1"):
        with pytest.raises(Refused, match="cannot be used by control planes that run"):
            migrate.downgrade(world.database_url, target)
    plane.stop()
    assert migrate.downgrade(world.database_url, "0006") == "0006"


def test_a_table_that_is_in_use_stops_an_upgrade_and_not_the_orders(world: World) -> None:
    """Who waits for a table makes all others wait: the migration gives up before an order does."""
    plane = world.replica()
    world.change(plane, **PAUSE)
    migrate.downgrade(world.database_url, "0004")
    before = world.dump("holds")
    engine = create_engine(parse_url(world.database_url), poolclass=NullPool)
    with engine.connect() as reader:
        reader.execute(text("select count(*) from holds"))
        with pytest.raises(Unavailable, match="in use by a long transaction"):
            migrate.upgrade(world.database_url)
    engine.dispose()
    assert (migrate.current(world.database_url).number, world.dump("holds")) == ("0004", before)
    assert migrate.upgrade(world.database_url) == migrate.head()


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
