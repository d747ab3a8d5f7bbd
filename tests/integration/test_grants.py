"""What the control plane's own role may do in the database, and what nobody may do to the audit."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from click.testing import CliRunner
from sqlalchemy.exc import DBAPIError

from sluicegate.control.access import tokens
from sluicegate.control.audit import verification
from sluicegate.control.cli.root import sluicegate
from sluicegate.control.holds import namespaces
from sluicegate.control.store import grants
from sluicegate.control.store.tables import METADATA
from sluicegate.schemas.errors import InvalidInput, NotFound, Refused, Unavailable
from sluicegate.schemas.exits import Exit
from sluicegate.schemas.snapshots import MAX_PUBLICATION
from tests.integration.world import CONTROL_ROLE, PAUSE, World


def verified(world: World) -> int:
    """How many events the chain has, all as recorded."""
    return verification.verify(world.database_url, None, lambda done, total: None).position


FORBIDDEN = [
    "update control_events set reason = 'another'",
    "delete from control_events",
    "truncate control_events",
    "alter table control_events disable trigger control_events_chain",
    "alter table control_events disable trigger all",
    "drop trigger control_events_append_only on control_events",
    "drop table control_events",
    "create trigger mine before insert on control_events execute function sluicegate_refuse_change()",
    "create or replace function sluicegate_chain_event() returns trigger language plpgsql as 'begin return new; end'",
    "set session_replication_role = replica",
    "insert into control_events (hash, epoch, action, outcome, actor, details, created_at)"
    " values (sha256('x'), 0, 'x', 'noop', 'y', '{}', now())",
    "insert into control_events (position, epoch, action, outcome, actor, details, created_at)"
    " values (1, 0, 'x', 'noop', 'y', '{}', now())",
    "insert into control_events (id, epoch, action, outcome, actor, details, created_at)"
    " overriding system value values (1, 0, 'x', 'noop', 'y', '{}', now())",
    "insert into tokens values ('digest', 'mallory', 'admin', now())",
    "update tokens set \"right\" = 'admin'",
    "delete from tokens",
    "delete from holds",
    "delete from namespaces",
    "update alembic_version set version_num = '0001'",
    "select setval('snapshot_publications', 9223372036854775807)",
    "select 1 from audit_chain for update",
    "lock table audit_chain in share mode",
    "insert into audit_chain values (true)",
    "delete from audit_chain",
]


def is_denied(world: World, statement: str) -> bool:
    """Does Postgres refuse it for want of a right, and for nothing else?"""
    with world.connected_as_control() as connection:
        try:
            connection.exec_driver_sql(statement)
        except DBAPIError as error:
            return bool(re.search("permission denied|must be owner", str(error.orig)))
    return False


def test_the_control_planes_role_may_do_no_more_than_add_to_the_audit(world: World) -> None:
    """Whoever takes over the control plane can neither change an event, nor forge a hash, nor make a token."""
    world.change(world.replica(), **PAUSE)
    before = world.dump()
    assert [statement for statement in FORBIDDEN if not is_denied(world, statement)] == []
    assert world.dump() == before
    assert verified(world) == 2


def test_the_control_planes_role_cannot_end_the_counting_of_publications(world: World) -> None:
    """It may raise the counter by what a lost backup can miss; the end is 2^32 such steps away."""
    plane = world.replica()
    plane.publisher.republish()
    database = plane.database
    with pytest.raises(Unavailable, match=r"too far ahead of \d+: somebody set the counter"):  # noqa: SIM117
        with database.transaction() as connection:
            namespaces.raise_publications(connection, MAX_PUBLICATION)
    with database.transaction() as connection:
        namespaces.raise_publications(connection, 2**31)
        namespaces.raise_publications(connection, 5)
    plane.publisher.republish()
    published = world.published()
    assert published is not None
    assert published.publication == 2**31 + 1


def test_a_temporary_table_does_not_take_the_place_of_the_chain(world: World) -> None:
    """The trigger runs as the owner, and looks where the owner said, whatever the caller's path is."""
    world.change(world.replica(), **PAUSE)
    with world.connected_as_control() as connection:
        connection.exec_driver_sql("create temp table control_events (position bigint, hash bytea)")
        connection.exec_driver_sql("insert into control_events values (1000, '')")
        connection.exec_driver_sql("create function pg_temp.sha256(bytea) returns bytea language sql as 'select $1'")
        connection.exec_driver_sql("set search_path = pg_temp, public, pg_catalog")
        connection.exec_driver_sql(
            "insert into public.control_events (epoch, action, outcome, actor, details, created_at)"
            " values (0, 'x', 'noop', 'y', '{}', now())"
        )
        connection.commit()
    assert verified(world) == 3


def test_the_owner_may_neither_update_nor_delete_nor_choose_a_hash(world: World) -> None:
    """The triggers bind everyone for whom they are on."""
    world.change(world.replica(), **PAUSE)
    for statement in ("update control_events set hash = ''", "delete from control_events", "truncate control_events"):
        with pytest.raises(DBAPIError, match="append-only"):
            world.sql(statement)
    world.sql(
        "insert into control_events (position, previous_hash, hash, epoch, action, outcome, actor, details, created_at)"
        " values (99, 'x', 'y', 0, 'x', 'noop', 'y', '{}', now())"
    )
    assert verified(world) == 3


def test_what_is_granted_is_exactly_what_is_documented(world: World) -> None:
    """Every table of ours is spoken of; a second time changes nothing, and takes away what was there beside."""
    page = (Path(__file__).parents[2] / "docs/security.md").read_text()
    for name, privileges in {**grants.TABLES, **grants.SEQUENCES, **grants.FUNCTIONS}.items():
        assert f"| `{name}` | {privileges} |" in page
    assert set(grants.TABLES) == {*METADATA.tables, "alembic_version"}

    def held() -> list[Any]:
        return world.sql(
            "select relname, relacl::text, array(select attname || attacl::text from pg_attribute"
            " where attrelid = c.oid and attacl is not null order by attname) from pg_class c"
            " where relacl is not null or exists (select from pg_attribute where attrelid = c.oid"
            " and attacl is not null) and relnamespace = current_schema()::regnamespace order by 1"
        )

    before = held()
    world.sql(f"grant update, delete, truncate on control_events, tokens to {CONTROL_ROLE}")
    assert held() != before
    for _ in range(2):
        result = CliRunner().invoke(
            sluicegate, ("db", "grant", CONTROL_ROLE), env={"SLUICEGATE_DATABASE_URL": world.database_url}
        )
        assert result.exit_code == Exit.OK, result.output
        assert "tokens: select\n" in result.stdout
        assert held() == before


def test_a_role_from_which_nothing_can_be_kept_is_refused(world: World) -> None:
    """A superuser, a member of the owner, what PUBLIC may: each in one line, and nothing is granted."""
    name = f"role_{uuid4().hex}"
    for role, kind, why in (
        ("postgres", Refused, "superuser"),
        ("nobody_there", NotFound, "no role"),
        ("public", NotFound, "no role"),
        ("", InvalidInput, "not the name of a role"),
    ):
        with pytest.raises(kind, match=why):
            grants.grant(world.database_url, role)
    grants.create_role(world.database_url, name)
    world.sql(f"grant postgres to {name}")
    with pytest.raises(Refused, match="member of the role"):
        grants.grant(world.database_url, name)
    world.sql(f"revoke postgres from {name}; grant delete on control_events to public")
    with pytest.raises(Refused, match="DELETE on control_events by PUBLIC"):
        grants.grant(world.database_url, name)
    assert world.sql("select has_table_privilege(:role, 'tokens', 'SELECT')", role=name) == [(False,)]
    world.sql("revoke delete on control_events from public")
    grants.grant(world.database_url, name)
    world.sql(f"drop owned by {name}; drop role {name}")


def test_tokens_are_not_made_by_the_control_planes_role(world: World) -> None:
    """One line that says where to look."""
    with pytest.raises(Unavailable, match=r"permission denied.*sluicegate db grant"):
        tokens.create(world.control_url, "mallory", "admin")
