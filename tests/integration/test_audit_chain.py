"""The chain over the audit: the database makes it, we check it with other code, and whatever is changed is named."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from sqlalchemy import NullPool, create_engine, insert, make_url, text
from sqlalchemy.exc import DBAPIError

from sluicegate.control.access import tokens
from sluicegate.control.audit import events, guards, verification
from sluicegate.control.audit.chain import START, Head
from sluicegate.control.audit.guards import GUARDS
from sluicegate.control.cli.root import sluicegate
from sluicegate.control.holds import namespaces
from sluicegate.control.store import migrate
from sluicegate.control.store.connection import parse_url
from sluicegate.control.store.database import Database
from sluicegate.control.store.tables import CONTROL_EVENTS
from sluicegate.schemas.errors import AuditBroken
from sluicegate.schemas.exits import Exit
from tests.integration.world import PAUSE, RESUME, World

WITHOUT_GUARDS = "alter table control_events disable trigger user;"
GUARDED_AGAIN = (
    "; alter table control_events enable always trigger control_events_append_only;"
    "alter table control_events enable always trigger control_events_chain"
)
HASH_ANEW = "update control_events set hash = sluicegate_event_hash(control_events) where id = 4"
NOTHING_MUCH: dict[str, Any] = {
    "epoch": 0,
    "action": "x",
    "outcome": "noop",
    "actor": "y",
    "details": {},
    "created_at": datetime(2026, 1, 31, tzinfo=UTC),
}


def verified(world: World, exported: Head | None = None) -> Head:
    return verification.verify(world.database_url, exported, lambda done, total: None)


def tamper(world: World, statement: str) -> None:
    """As the superuser, with the triggers off, and on again afterwards: nothing of it shows but in the chain."""
    world.sql(WITHOUT_GUARDS + statement + GUARDED_AGAIN)


def fill(world: World, changes: int = 3) -> None:
    """Events 1 (the namespace) and then two for each change, the second of them a noop."""
    plane = world.replica()
    for number in range(changes):
        for _ in range(2):
            world.change(plane, **PAUSE | {"reason": f"reason {number}"})


def call(world: World, *args: str) -> Result:
    result = CliRunner().invoke(sluicegate, args, env={"SLUICEGATE_DATABASE_URL": world.control_url})
    assert "Traceback" not in result.output
    return result


def test_an_audit_that_nobody_touched_verifies(world: World) -> None:
    """Every kind of writer, and every kind of text: Postgres and Python come to the same hash."""
    assert verified(world) == verification.head(world.database_url) == START
    plane = world.start()
    client = world.client(plane)
    client.post("/api/system/worker-pause", json=PAUSE | {"reason": "naïve — “日本” 🙂 12:3,-,\\ '\" %s"})
    client.post("/api/system/worker-pause", json=RESUME)
    world.client(plane, None).get("/api/audit")
    tokens.create(world.database_url, "bob", "viewer")
    odd = {"pi": 3.14159265358979323846, "big": 10**30, "tiny": 1e-300, "deep": [{"": None}], "ключ": "\u2028\t\\u0000"}
    database = Database(world.control_url)
    with database.transaction() as connection:
        now = namespaces.clock(connection)
        for reason in ("", "-", "0:", None):
            made = events.Event(action="x", outcome="noop", actor="y", at=now, reason=reason, details=odd)
            events.record(connection, None, made)
    database.close()
    plane.stop()
    head = verified(world)
    assert head == verification.head(world.database_url)
    assert head.position == len(world.events())
    assert [e["position"] for e in sorted(world.events(), key=lambda e: e["position"])] == [
        *range(1, head.position + 1)
    ]


TAMPERED: dict[str, tuple[str, str]] = {
    "changed reason": ("update control_events set reason = 'harmless' where id = 4", "event 4 at position 4"),
    "changed actor": ("update control_events set actor = 'mallory' where id = 1", "event 1 at position 1"),
    "changed details": ("update control_events set details = details - 'change' where id = 5", "event 5 at"),
    "changed time": ("update control_events set created_at = created_at - interval '1 us' where id = 6", "event 6 at"),
    "a time without end": ("update control_events set created_at = 'infinity' where id = 2", "event 2 at position 2"),
    "nothing became empty": ("update control_events set scope = '' where id = 1", "event 1 at position 1"),
    "a text moved to its neighbour": (
        "update control_events set scope = 'globalmanual', cause = '' where id = 3",
        "event 3 at position 3",
    ),
    "changed and hashed anew": (
        f"update control_events set reason = 'harmless' where id = 4; {HASH_ANEW}",
        "event 5 at position 5: it was not recorded after event 4",
    ),
    "deleted first": ("delete from control_events where id = 1", "position 1 is missing: after the start"),
    "deleted": ("delete from control_events where id = 4", "position 4 is missing: after event 3 comes event 5"),
    "deleted, and the rest moved up": (
        "delete from control_events where id = 4; update control_events set position = -position where id > 4;"
        "update control_events set position = -position - 1 where id > 4",
        "event 5 at position 4",
    ),
    "swapped": (
        "update control_events set position = -position where id in (3, 5);"
        "update control_events set position = 5 where id = 3; update control_events set position = 3 where id = 5",
        "event 5 at position 3",
    ),
    "inserted between": (
        "update control_events set position = -position where id > 4;"
        "update control_events set position = 1 - position where id > 4;"
        "insert into control_events (position, previous_hash, hash, epoch, action, outcome, actor, details, created_at)"
        " select 5, hash, hash, 0, 'x', 'noop', 'mallory', '{}', now() from control_events where id = 4",
        "event 8 at position 5",
    ),
    "inserted at the same place": (
        "drop index uq_control_events_position; insert into control_events"
        " (position, previous_hash, hash, epoch, action, outcome, actor, details, created_at)"
        " select position, previous_hash, hash, 0, 'x', 'noop', 'eve', '{}', now() from control_events where id = 4",
        "event 8 at position 4: its position is event 4's already",
    ),
    "inserted without a place": (
        "alter table control_events alter position drop not null; insert into control_events"
        " (previous_hash, hash, epoch, action, outcome, actor, details, created_at)"
        " values ('', '', 0, 'x', 'noop', 'mallory', '{}', now())",
        "event 8 has no position",
    ),
    "another hash": ("update control_events set hash = sha256('x') where id = 7", "event 7 at position 7"),
    "tail deleted": ("delete from control_events where id > 5", "is at 1.4, but the newest version that an event made"),
    "all deleted": ("delete from control_events", "is at 1.4, but the newest version that an event made is 0.0"),
}


@pytest.mark.parametrize("way", TAMPERED)
def test_the_first_row_that_was_tampered_with_is_named(world: World, way: str) -> None:
    """By the superuser, with the triggers off meanwhile."""
    statement, named = TAMPERED[way]
    fill(world)
    verified(world)
    tamper(world, statement)
    with pytest.raises(AuditBroken) as caught:
        verified(world)
    assert named in str(caught.value)


def test_an_exported_head_shows_what_was_removed_from_the_end_and_what_was_written_anew(world: World) -> None:
    """Event 7 made no version: without an export nobody could know of it."""
    fill(world)
    middle = Head(4, world.sql("select encode(hash, 'hex') from control_events where id = 4")[0][0])
    last = verification.head(world.database_url)
    assert last.position == 7
    tamper(world, "delete from control_events where id = 7")
    assert verified(world, middle).position == 6
    with pytest.raises(AuditBroken, match=r"position 7 is missing: the chain ends with event 6.* at position 7"):
        verified(world, last)
    world.change(world.replica(), **PAUSE | {"reason": "reason 2"})
    with pytest.raises(AuditBroken, match=r"event 8 at position 7: it is another than in the exported head"):
        verified(world, last)
    tamper(
        world,
        "update control_events set reason = 'harmless' where id = 3;"
        "do $$ declare e record; h bytea; begin for e in select id from control_events where id >= 3 order by id loop"
        " update control_events set previous_hash = coalesce(h, previous_hash) where id = e.id;"
        " update control_events set hash = sluicegate_event_hash(control_events) where id = e.id returning hash into h;"
        " end loop; end $$",
    )
    verified(world)
    with pytest.raises(AuditBroken, match=r"event 4 at position 4: it is another than in the exported head"):
        verified(world, middle)


@pytest.mark.parametrize("guard", [guard.trigger for guard in GUARDS])
def test_a_guard_that_is_off_is_named_though_all_events_are_as_recorded(world: World, guard: str) -> None:
    """Somebody who may alter the table is about to alter events, or did and forgot."""
    fill(world, 1)
    for statement in (f"disable trigger {guard}", f"enable trigger {guard}"):
        world.sql(f"alter table control_events {statement}")
        with pytest.raises(AuditBroken, match=f"nothing guards them: the trigger {guard} is not on"):
            verified(world)
    world.sql(f"drop trigger {guard} on control_events")
    with pytest.raises(AuditBroken, match=guard):
        verified(world)


NOTHING_CHECKED = "create or replace function {} language plpgsql as 'begin return new; end'"
UNGUARDED: dict[str, tuple[str, str]] = {
    "what refuses changes does nothing": (
        NOTHING_CHECKED.format("sluicegate_refuse_change() returns trigger"),
        "function sluicegate_refuse_change",
    ),
    "it refuses some": (
        "create or replace function sluicegate_refuse_change() returns trigger language plpgsql as 'begin"
        " if current_user = ''mallory'' then return new; end if; raise ''no''; end'",
        "function sluicegate_refuse_change",
    ),
    "what chains runs as whoever inserts": (
        "alter function sluicegate_chain_event() security invoker",
        "function sluicegate_chain_event",
    ),
    "what chains looks elsewhere": (
        "alter function sluicegate_chain_event() set search_path = public",
        "function sluicegate_chain_event",
    ),
    "what hashes has a second meaning": (
        "create function sluicegate_event_hash(json) returns bytea language sql as 'select null::bytea'",
        "function sluicegate_event_hash",
    ),
    "it fires never": (
        "drop trigger control_events_append_only on control_events;"
        "create trigger control_events_append_only before update or delete on control_events"
        " for each row when (false) execute function sluicegate_refuse_change();"
        "alter table control_events enable always trigger control_events_append_only",
        "trigger control_events_append_only is not the one",
    ),
    "it calls another function": (
        "create function harmless() returns trigger language plpgsql as 'begin return new; end';"
        "drop trigger control_events_append_only on control_events;"
        "create trigger control_events_append_only before update or delete or truncate on control_events"
        " for each statement execute function harmless();"
        "alter table control_events enable always trigger control_events_append_only",
        "trigger control_events_append_only is not the one",
    ),
    "another comes first": (
        "create function swallow() returns trigger language plpgsql as 'begin return null; end';"
        "create trigger a before insert on control_events for each row execute function swallow()",
        "trigger a is not ours",
    ),
    "a rule takes it elsewhere": (
        "create rule r as on delete to control_events do instead nothing",
        "no plain table",
    ),
    "rows are hidden": ("alter table control_events enable row level security", "row security is on"),
}


@pytest.mark.parametrize("way", UNGUARDED)
def test_a_guard_that_is_not_what_the_migrations_made_is_named(world: World, way: str) -> None:
    """Its trigger may be on, and still guard nothing: what it does is compared, not what it is called."""
    statement, named = UNGUARDED[way]
    fill(world, 1)
    verified(world)
    world.sql(statement)
    with pytest.raises(AuditBroken, match=f"all events are as recorded, but nothing guards them: .*{named}"):
        verified(world)


def test_a_trigger_that_only_listens_is_nobodys_fault(world: World) -> None:
    """One that comes after the insert, to tell somebody of it, cannot change what is inserted."""
    fill(world, 1)
    world.sql(
        "create function tell() returns trigger language plpgsql as 'begin return null; end';"
        "create trigger tells after insert on control_events for each row execute function tell()"
    )
    assert verified(world).position == 3


def test_the_guards_of_every_revision_are_known(empty_database_url: str) -> None:
    """In any schema; so that a database is verified before it is upgraded, and after."""
    engine = create_engine(parse_url(empty_database_url), poolclass=NullPool)
    with engine.begin() as connection:
        connection.exec_driver_sql('create schema "Odd one"')
        connection.exec_driver_sql(f'alter database "{engine.url.database}" set search_path = "Odd one"')
    for number in migrate.known():
        migrate.upgrade(empty_database_url, number)
        with engine.connect() as connection:
            assert number == "0001" or guards.fault(connection) is None
    engine.dispose()


def test_a_token_that_no_event_made_is_named(world: World) -> None:
    """By name and right: one that was made by SQL, given another right or secret, or brought back."""
    for name in ("alice", "bob", "carol", "dave"):
        tokens.create(world.database_url, name, "viewer")
    tokens.revoke(world.database_url, "dave")
    tokens.create(world.database_url, "dave", "viewer")
    tokens.revoke(world.database_url, "dave")
    verified(world)
    for statement, named in (
        ("insert into tokens values ('digest', 'eve', 'admin', now())", "'eve' (admin)"),
        ("update tokens set \"right\" = 'admin' where name = 'alice'", "'alice' (admin), 'eve' (admin)"),
        ("update tokens set digest = 'another' where name = 'bob'", "'alice' (admin), 'bob' (viewer), 'eve' (admin)"),
        (
            "update tokens set revoked_at = null where name = 'dave' and created_at ="
            " (select max(created_at) from tokens where name = 'dave')",
            "'alice' (admin), 'bob' (viewer), 'dave' (viewer), 'eve' (admin)",
        ),
    ):
        world.sql(statement)
        with pytest.raises(AuditBroken) as caught:
            verified(world)
        assert str(caught.value) == f"all events are as recorded, but no event made these tokens: {named}"
    world.sql("insert into tokens select md5(n::text), 'n' || n, 'viewer', now() from generate_series(1, 20) n")
    with pytest.raises(AuditBroken, match=r"'n14' \(viewer\) and 14 more$"):
        verified(world)


def test_a_token_of_before_its_digest_was_recorded_is_known_by_its_event(world: World) -> None:
    world.sql("insert into tokens values ('digest', 'old', 'viewer', '2026-01-31 00:00:00+00')")
    world.sql(
        "insert into control_events (epoch, action, outcome, actor, details, created_at) values"
        " (0, 'token_created', 'applied', 'sluicegate', '{\"name\": \"old\", \"right\": \"viewer\"}',"
        " '2026-01-31 00:00:00+00')"
    )
    assert verified(world).position == 1


def test_no_role_that_can_only_log_in_holds_changes_up(world: World) -> None:
    """Advisory locks are open to everyone: whoever knew the number of ours could stop all changes with it."""
    plane = world.replica()
    world.change(plane, **PAUSE)
    world.sql("do $$ begin create role stranger login; exception when duplicate_object then null; end $$")
    url = make_url(world.database_url).set(username="stranger")
    engine = create_engine(url.set(drivername="postgresql+psycopg"), poolclass=NullPool)
    with engine.connect() as connection:
        connection.exec_driver_sql("select pg_advisory_lock(7283114905216336)")
        for statement in (
            "select 1 from audit_chain for update",
            "select 1 from audit_chain for share",
            "lock table audit_chain in share mode",
            "lock table control_events in share mode",
        ):
            with pytest.raises(DBAPIError, match="permission denied"), connection.begin_nested():
                connection.exec_driver_sql(statement)
        assert world.change(plane, **RESUME, forceResume=True)["published"] is True
    engine.dispose()


def test_events_of_many_namespaces_at_once_form_one_chain(world: World) -> None:
    """No position twice, none left out, no deadlock: the changes of four fleets, and denials beside them."""
    planes = [world.replica(SLUICEGATE_NAMESPACE=f"{world.namespace}-{n}") for n in range(4)]
    database = Database(world.control_url)

    def toggle(number: int) -> None:
        for turn in range(10):
            world.change(planes[number % 4], **(PAUSE | {"reason": f"{number} {turn}"}))

    def deny(number: int) -> None:
        for _ in range(10):
            with database.transaction() as connection:
                now = namespaces.clock(connection)
                events.record(
                    connection, world.namespace, events.Event(action="x", outcome="denied", actor="y", at=now)
                )

    with ThreadPoolExecutor(8) as pool:
        jobs = [pool.submit(work, n) for n in range(6) for work in ([toggle] if n < 4 else [toggle, deny])]
        for job in jobs:
            job.result()
    database.close()
    assert verified(world).position == len(world.events()) == 4 + 60 + 20


def test_positions_are_in_the_order_of_commits(world: World) -> None:
    """Who inserts first has the lower position, and the second waits until the first is through."""
    fill(world, 1)
    database = Database(world.control_url)
    order: list[str] = []
    has_inserted = threading.Event()

    def record(name: str) -> None:
        with database.transaction() as connection:
            now = namespaces.clock(connection)
            events.record(connection, None, events.Event(action=name, outcome="noop", actor="y", at=now))
            order.append(name)

    def first() -> None:
        with database.transaction() as connection:
            now = namespaces.clock(connection)
            events.record(connection, None, events.Event(action="first", outcome="noop", actor="y", at=now))
            has_inserted.set()
            waiting = text("select 1 from pg_locks where locktype = 'transactionid' and not granted")
            while connection.execute(waiting).first() is None:
                pass
            order.append("first")

    with ThreadPoolExecutor(2) as pool:
        one = pool.submit(first)
        assert has_inserted.wait(10)
        two = pool.submit(record, "second")
        one.result(10)
        two.result(10)
    database.close()
    assert order == ["first", "second"]
    by_position = sorted(world.events(namespace=None), key=lambda event: event["position"])
    assert [event["action"] for event in by_position] == order
    verified(world)


def test_a_transaction_that_cannot_see_the_last_event_adds_none(world: World) -> None:
    """At a stricter isolation its view is older than the lock: Postgres refuses, instead of a chain with a fork."""
    fill(world, 1)
    with world.connected_as_control() as old, old.begin():
        old.exec_driver_sql("set transaction isolation level repeatable read")
        old.exec_driver_sql("select 1 from control_events")
        world.change(world.replica(), **RESUME)
        with pytest.raises(DBAPIError, match="uq_control_events_position"):
            old.execute(insert(CONTROL_EVENTS).values(NOTHING_MUCH))
        old.rollback()
    verified(world)


def test_events_of_before_the_chain_are_chained_by_the_migration(world: World) -> None:
    """In the order of their ids; and the way back leaves them as they were."""
    fill(world, 2)
    chained = world.events()
    migrate.downgrade(world.database_url, "0001")
    bare = world.events()
    assert [set(c) - set(b) for c, b in zip(chained, bare, strict=True)] == [{"position", "previous_hash", "hash"}] * 5
    with pytest.raises(DBAPIError, match="append-only"):
        world.sql("delete from control_events")
    migrate.upgrade(world.database_url)
    assert world.events() == chained
    assert verified(world).position == 5
    with pytest.raises(DBAPIError, match="append-only"):
        world.sql("delete from control_events")


def test_verify_and_head_as_commands(world: World, tmp_path: Path) -> None:
    """R-A13: exit 0 and one line; exit 9 and the first broken event; the head in both forms."""
    fill(world)
    plain, as_json = tmp_path / "head.txt", tmp_path / "head.json"
    plain.write_text(call(world, "audit", "head").stdout)
    as_json.write_text(call(world, "audit", "head", "--json").stdout)
    assert Head.parse(plain.read_text()) == Head.parse(as_json.read_text()) == verification.head(world.database_url)
    for file in (plain, as_json):
        result = call(world, "audit", "verify", "--head", str(file))
        assert (result.exit_code, result.stdout) == (
            Exit.OK,
            f"verified: 7 events are as recorded; head {plain.read_text()}",
        )
    assert json.loads(call(world, "audit", "verify", "--json").stdout)["verified"] is True
    tamper(world, "update control_events set reason = 'harmless' where id = 4")
    result = call(world, "audit", "verify")
    assert (result.exit_code, result.stdout) == (Exit.AUDIT_BROKEN, "")
    assert result.stderr == (
        "sluicegate: event 4 at position 4: it does not say what was recorded: its hash is another\n"
    )
    broken = json.loads(call(world, "audit", "verify", "--json").stderr)
    assert (broken["error"]["code"], broken["position"], broken["eventId"]) == ("audit_broken", 4, 4)


def test_what_is_no_exported_head_is_bad_usage(world: World, tmp_path: Path) -> None:
    """Exit 2, one line: a typo must not look like a broken audit, nor like a sound one."""
    file = tmp_path / "head"
    zeros = "0" * 64
    for content in (
        "",
        "{",
        "{}",
        "[]",
        "7",
        "7 abc",
        f"-1 {zeros}",
        f'{{"position": null, "hash": "{zeros}"}}',
        "\udcff",
    ):
        file.write_text(content, errors="surrogateescape")
        result = call(world, "audit", "verify", "--head", str(file))
        assert (result.exit_code, result.stdout) == (Exit.USAGE, ""), content
        assert result.stderr.startswith("sluicegate: head: ")
    assert call(world, "audit", "verify", "--head", str(tmp_path / "none")).exit_code == Exit.USAGE


def test_a_long_walk_shows_progress_and_keeps_few_events_in_memory(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Batches of two, for the test's sake."""
    fill(world)
    monkeypatch.setattr(verification, "BATCH", 2)
    shown: list[tuple[int, int]] = []
    verification.verify(world.database_url, None, lambda done, total: shown.append((done, total)))
    assert shown == [(2, 7), (4, 7), (6, 7)]
