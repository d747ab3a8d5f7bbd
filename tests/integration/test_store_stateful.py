"""The store against the model: whatever is asked, in whatever order, of either of two replicas (S7, R-A2 to R-A8).

Real are Postgres, Valkey, both control planes and what they publish; the database's clock is the test's. Hypothesis
plays; each mutant at the end must be caught.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from sqlalchemy import Connection, Engine, create_engine, text

from sluicegate.control.audit import events, guards, verification
from sluicegate.control.holds import namespaces
from sluicegate.control.pausing import change as orders_module
from sluicegate.control.pausing import clock as clock_module
from sluicegate.control.pausing import idempotency
from sluicegate.control.store.connection import parse_url
from sluicegate.schemas.beats import RunningTask
from sluicegate.schemas.errors import AuditBroken, InvalidInput, Refused
from sluicegate.schemas.holds import transitions
from sluicegate.schemas.holds.hold import Hold, HoldKey, Holds
from sluicegate.schemas.holds.transitions import Change, ChangeKind
from sluicegate.schemas.modes import Mode
from sluicegate.schemas.scopes import Scope
from sluicegate.schemas.snapshots import NOTHING, Edition
from sluicegate.schemas.times import to_wire
from tests.integration.world import World
from tests.model.holds_model import DRAIN, QUIESCE, Made, Orders, Row

BEGAN = datetime(2026, 3, 1, tzinfo=UTC)
SCOPES = ("global", "queue:emails", "host:a")
"""The one worker that there may be is in all of them."""
WORK = RunningTask(id="t1", name="app.work", started_at=BEGAN)

replicas = st.integers(0, 1)
scopes = st.sampled_from(SCOPES)
modes = st.sampled_from([DRAIN, QUIESCE])
actors = st.sampled_from(["alice", "bob"])
reasons = st.sampled_from(["deploy", "upgrade"])
spans = st.sampled_from([None, 5, 20])
ANY = st.integers(0, 999)

CLOCK = """
create schema fake_time;
create table fake_time.clock (moment timestamptz not null);
insert into fake_time.clock values ('2026-03-01T00:00:00Z');
create function fake_time.clock_timestamp() returns timestamptz language sql volatile
    as 'select moment from fake_time.clock';
grant usage on schema fake_time to control;
grant select on fake_time.clock to control;
"""
"""Named before Postgres's own schema, which would else be looked at first, whatever stands in the path."""


def at(moment: int | None) -> datetime | None:
    return None if moment is None else BEGAN + timedelta(seconds=moment)


class Store(RuleBasedStateMachine):
    """One namespace of one database; each example has its own."""

    engine: Engine
    world: World
    folder: Path
    count = itertools.count()

    @initialize(
        has_worker=st.booleans(),
        pauses=st.lists(st.tuples(scopes, modes, actors, reasons, spans, spans), min_size=2, max_size=3),
        follows=st.booleans(),
        obeys=st.booleans(),
        by=st.sampled_from([3, 10, 60]),
    )
    def begin(
        self,
        has_worker: bool,
        pauses: list[tuple[str, str, str, str, int | None, int | None]],
        follows: bool,
        obeys: bool,
        by: int,
    ) -> None:
        """A few pauses and some time to begin with: what ends by itself is else seldom met."""
        name = f"example-{next(self.count)}"
        self.now = 0
        self.set_clock()
        self.here = World(
            database_url=self.world.database_url,
            redis_url=self.world.redis_url,
            namespace=name,
            key_file=self.folder / f"{name}.key",
        )
        self.planes = [self.here.replica(), self.here.replica()]
        self.here.read(self.planes[0])
        self.orders = Orders()
        self.head = verification.head(self.world.database_url)
        self.asked: list[tuple[dict[str, Any], str, dict[str, Any]]] = []
        self.ends: set[int] = set()
        # What the worker has applied, and whether it runs something; None: there is none.
        self.worker: tuple[int, bool] | None = (0, True) if has_worker else None
        for number, (scope, mode, actor, reason, lasts, deadline) in enumerate(pauses):
            self.pause(number % 2, scope, mode, actor, reason, lasts, deadline, has_key=number == 0)
            self.what_is_stored_is_what_the_model_has()
        if follows and has_worker:
            self.the_worker_says(0, obeys, runs=not obeys)
        elif follows:
            self.follow(0)
        self.time_passes(by, 1, is_raced=obeys, expires_first=not follows)

    def teardown(self) -> None:
        if hasattr(self, "here"):
            try:
                verification.verify(self.world.database_url, self.head, lambda *_: None)
            finally:
                self.here.close()

    # --- what operators ask ---

    @rule(
        replica=replicas,
        scope=scopes,
        mode=modes,
        actor=actors,
        reason=reasons,
        lasts=spans,
        deadline=spans,
        has_key=st.booleans(),
    )
    def pause(
        self,
        replica: int,
        scope: str,
        mode: str,
        actor: str,
        reason: str,
        lasts: int | None,
        deadline: int | None,
        has_key: bool,
    ) -> None:
        wish = self.wish(scope, mode, actor, reason, lasts, deadline)
        self.ask(replica, self.body(wish, has_key), actor, self.orders.place(wish))

    @rule(replica=replicas, which=ANY, actor=actors, is_forced=st.booleans(), has_key=st.booleans())
    def resume(self, replica: int, which: int, actor: str, is_forced: bool, has_key: bool) -> None:
        """Mostly of what is held."""
        held = sorted({row.scope for row in self.orders.rows}) or list(SCOPES)
        scope = held[which % len(held)] if which % 10 else "global"
        body = {"action": "resume", "reason": "done", "scope": scope, "forceResume": is_forced}
        body |= self.key() if has_key else {}
        self.beat()
        after = self.orders.resume(scope, actor, is_forced=is_forced, is_drained=self.is_drained())
        if after is not None:
            self.ask(replica, body, actor, after)
            return
        with suppress(Refused):
            answer = self.here.change(self.planes[replica], actor, **body)
            raise AssertionError(f"R-A7: {answer['outcome']}, and must be refused")
        self.orders = self.orders.refused()

    @rule(replica=replicas, which=ANY)
    def ask_again(self, replica: int, which: int) -> None:
        """The same request with its key is answered, and not done again, whatever happened since."""
        if not self.asked:
            return
        body, actor, first = self.asked[which % len(self.asked)]
        try:
            again = self.here.change(self.planes[replica], actor, **body)
        except (InvalidInput, Refused) as error:
            raise AssertionError(f"a repeated request is answered anew: {error}") from error
        for part in ("outcome", "system", "remaining", "audit"):
            assert again[part] == first[part], f"a repeated request is answered anew: {again[part]}, was {first[part]}"
        self.wrong(replica, body | {"reason": "another"}, "idempotencyKey", actor)

    @rule(replica=replicas, scope=scopes, past=st.integers(0, 5))
    def ask_wrongly(self, replica: int, scope: str, past: int) -> None:
        """Refused with the field named, and nothing is different (R-A4)."""
        body = {"action": "pause", "mode": DRAIN, "reason": "late", "scope": scope}
        self.wrong(replica, body | {"expiresAt": to_wire(BEGAN + timedelta(seconds=self.now - past))}, "expiresAt")
        late = {"deadline": to_wire(BEGAN + timedelta(seconds=self.now - past)), "then": "quiesce"}
        self.wrong(replica, body | late, "deadline")
        self.wrong(replica, body | {"reason": " "}, "reason")

    @rule(wishes=st.lists(st.tuples(scopes, modes, actors, reasons), min_size=2, max_size=2))
    def pause_twice_at_once(self, wishes: list[tuple[str, str, str, str]]) -> None:
        """Both are stored, one after the other, whichever is first (R-A3)."""
        rows = [self.wish(*wish, None, None) for wish in wishes]

        def send(index: int) -> dict[str, Any]:
            return self.here.change(self.planes[index], rows[index].actor, **self.body(rows[index], has_key=False))

        with ThreadPoolExecutor(2) as pool:
            list(pool.map(send, (0, 1)))
        serial = [self.orders.place(one).place(other) for one, other in (rows, reversed(rows))]
        stored = self.stored()
        self.orders = next((orders for orders in serial if said(orders) == stored), serial[0])

    # --- other owners ---

    @rule(
        replica=replicas, scope=scopes, cause=st.sampled_from(["capacity", "budget"]), mode=modes, places=st.booleans()
    )
    def an_owner_acts(self, replica: int, scope: str, cause: str, mode: str, places: bool) -> None:
        """A governor places its own hold, or takes it back."""
        row = Row(scope=scope, mode=mode, reason="full", actor="governor", created_at=self.now, cause=cause, source="s")
        now = BEGAN + timedelta(seconds=self.now)
        wish = Hold(
            id=uuid4(),
            scope=Scope.parse(scope),
            mode=Mode.of_hold(mode),
            reason=row.reason,
            actor=row.actor,
            created_at=now,
            cause=cause,
            source=row.source,
        )
        if places:
            self.transact(replica, "placed", lambda holds: transitions.place(holds, wish))
            self.orders = self.orders.place(row, "placed")
        else:
            self.transact(
                replica,
                "released",
                lambda holds: transitions.release(holds, wish.key, actor="governor", reason="room", now=now),
            )
            self.orders = self.orders.release(row.key, "governor", "released")

    # --- time ---

    @rule(by=st.sampled_from([0, 10, 60]), replica=replicas, is_raced=st.booleans(), expires_first=st.booleans())
    def time_passes(self, by: int, replica: int, is_raced: bool, expires_first: bool) -> None:
        """And the loops of one replica, or of both at once, look what is due."""
        self.now += by
        self.set_clock()
        planes = self.planes if is_raced else [self.planes[replica]]
        for expires in (expires_first, not expires_first):
            after = self.orders.expired(self.now) if expires else self.orders.escalated(self.now)
            with ThreadPoolExecutor(2) as pool:
                acts = [plane.clock.expire_due if expires else plane.clock.escalate_due for plane in planes]
                done = sum(pool.map(lambda act: act(), acts))
            due, what = after.version - self.orders.version, "expired" if expires else "escalated"
            assert done == due, f"{done} holds {what}, {due} were due"
            self.orders = after
            self.what_is_stored_is_what_the_model_has()

    # --- the fleet ---

    @rule(replica=replicas, obeys=st.booleans(), runs=st.booleans())
    def the_worker_says(self, replica: int, obeys: bool, runs: bool) -> None:
        """What it applied and whether it runs something; and a replica takes note."""
        self.worker = (self.orders.version if obeys else 0, runs)
        self.follow(replica)

    def follow(self, replica: int) -> None:
        self.beat()
        after = self.orders.followed(is_drained=self.is_drained())
        done = self.planes[replica].draining.follow()
        assert done == after.receipts - self.orders.receipts
        self.orders = after

    # --- what must hold ---

    @invariant()
    def what_is_stored_is_what_the_model_has(self) -> None:
        if hasattr(self, "orders"):
            stored, expected = self.stored(), said(self.orders)
            assert stored["versions"] == expected["versions"], "S7: not one event for each version"
            assert stored == expected, "what is stored is not what was ordered"

    # --- how ---

    def stored(self) -> dict[str, Any]:
        """What the database says, in the model's words."""
        with self.engine.connect() as connection:
            values = {"n": self.here.namespace}
            edition = connection.execute(text("select epoch, version from namespaces where namespace = :n"), values)
            rows = connection.execute(
                text("select * from holds where namespace = :n and released_at is null"), values
            ).mappings()
            record = connection.execute(text("select * from control_events where namespace = :n order by id"), values)
            made = list(record.mappings().all())
            return {
                "edition": tuple(edition.one()),
                "holds": {tuple(row[name] for name in COLUMNS) for row in rows},
                "versions": [event["version"] for event in made if event["version"] is not None],
                "made": [_made(event) for event in made if event["version"] is not None],
                "noops": sum(event["outcome"] == events.NOOP for event in made),
                "refusals": sum(event["outcome"] == events.REFUSED for event in made),
                "receipts": sum(event["action"] == "drain_completed" for event in made),
            }

    def ask(self, replica: int, body: dict[str, Any], actor: str, after: Orders) -> None:
        self.beat()
        answer = self.here.change(self.planes[replica], actor, **body)
        outcome = "applied" if after.version > self.orders.version else "noop"
        told = (answer["outcome"], answer["system"]["version"], answer["published"])
        assert told == (outcome, after.version, True), f"{told} is answered, expected {outcome} {after.version}"
        published = self.here.published()
        assert published is not None
        assert published.edition == (1, after.version)
        self.orders = after
        if "idempotencyKey" in body:
            self.asked.append((body, actor, answer))

    def wrong(self, replica: int, body: dict[str, Any], field: str, actor: str = "alice") -> None:
        found = ""
        try:
            self.here.change(self.planes[replica], actor, **body)
        except InvalidInput as error:
            found = error.field
        assert found == field, f"R-A4: {found or 'nothing'} is called wrong, {field} is"

    def wish(self, scope: str, mode: str, actor: str, reason: str, lasts: int | None, deadline: int | None) -> Row:
        """A hold as an operator may ask for it: a deadline is a drain's, and lies before the end."""
        escalates_at = self.free(deadline) if mode == DRAIN else None
        expires_at = self.free(lasts)
        if escalates_at is not None and expires_at is not None and expires_at <= escalates_at:
            escalates_at = None
        return Row(
            scope=scope,
            mode=mode,
            reason=reason,
            actor=actor,
            created_at=self.now,
            expires_at=expires_at,
            deadline=escalates_at,
        )

    def free(self, span: int | None) -> int | None:
        """A moment at which nothing else ends: else two may come in either order."""
        if span is None:
            return None
        moment = next(moment for moment in itertools.count(self.now + span) if moment not in self.ends)
        self.ends.add(moment)
        return moment

    def body(self, wish: Row, has_key: bool) -> dict[str, Any]:
        body: dict[str, Any] = {"action": "pause", "scope": wish.scope, "mode": wish.mode, "reason": wish.reason}
        if wish.expires_at is not None:
            body["expiresAt"] = to_wire(BEGAN + timedelta(seconds=wish.expires_at))
        if wish.deadline is not None:
            body |= {"deadline": to_wire(BEGAN + timedelta(seconds=wish.deadline)), "then": "quiesce"}
        return body | (self.key() if has_key else {})

    def key(self) -> dict[str, str]:
        return {"idempotencyKey": f"k{len(self.asked)}"}

    def transact(self, replica: int, action: str, judge: Callable[[Holds], Change]) -> None:
        """As a governor does: one transaction, with its event."""
        with self.planes[replica].database.transaction() as connection:
            truth = namespaces.lock(connection, self.here.namespace)
            change = judge(truth.holds)
            version = None if change.is_noop else change.holds.version
            event = events.Event(
                action=action,
                outcome=events.NOOP if change.is_noop else events.APPLIED,
                actor="governor",
                at=truth.now,
                edition=Edition(truth.epoch, change.holds.version),
                version=version,
                **events.about(change.hold),
            )
            namespaces.store(connection, truth, change, event)

    def set_clock(self) -> None:
        with self.engine.begin() as connection:
            connection.execute(text("update fake_time.clock set moment = :moment"), {"moment": at(self.now)})

    def is_drained(self) -> bool:
        """Is there nobody, or has who is there applied the newest order, and run out of work?"""
        return self.worker is None or (self.worker[0] >= self.orders.version and not self.worker[1])

    def beat(self) -> None:
        """The worker's word, said anew: its lease is counted by Redis's own clock."""
        if self.worker is not None:
            version, runs = self.worker
            self.here.beat(
                "celery@a",
                host="a",
                queues=("emails",),
                running=(WORK,) if runs else (),
                applied=Edition(1, version) if version else NOTHING,
                enforces=("global", "queue", "host", "worker"),
            )


COLUMNS = ("scope", "cause", "source", "mode", "reason", "actor", "created_at", "expires_at", "deadline")


def _made(event: Any) -> Made:
    return Made(action=event["action"], actor=event["actor"], scope=event["scope"])


def said(orders: Orders) -> dict[str, Any]:
    """What the database must say of it."""
    return {
        "edition": (1, orders.version),
        "holds": {
            (
                row.scope,
                row.cause,
                row.source,
                row.mode,
                row.reason,
                row.actor,
                at(row.created_at),
                at(row.expires_at),
                at(row.deadline),
            )
            for row in orders.rows
        },
        "versions": list(range(1, orders.version + 1)),
        "made": list(orders.made),
        "noops": orders.noops,
        "refusals": orders.refusals,
        "receipts": orders.receipts,
    }


# The same games each time, and nothing kept between runs: what fails, fails for everybody.
PLAN = settings(derandomize=True, database=None, deadline=None, max_examples=8, stateful_step_count=12)


@pytest.fixture
def machine(world: World, tmp_path: Path) -> Any:
    engine = create_engine(parse_url(world.database_url), isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        for statement in filter(str.strip, CLOCK.split(";\n")):
            connection.execute(text(statement))
        path = f'alter database "{engine.url.database}" set search_path = public, fake_time, pg_catalog'
        connection.execute(text(path))
    engine.dispose()
    yield type("Store", (Store,), {"engine": engine, "world": world, "folder": tmp_path})
    engine.dispose()


def test_the_store_does_what_the_model_does(machine: type[Store]) -> None:
    """S7, R-A2 to R-A8, R-B6, R-B7."""
    run_state_machine_as_test(machine, settings=PLAN)


# --- the mutants ---


def play_one_of_each(machine: type[Store]) -> None:
    """A story in which everything happens once, checked as the games are: what no game is likely to meet, it meets."""
    store = machine()

    def check(*_: object) -> None:
        store.what_is_stored_is_what_the_model_has()

    drain = {"mode": DRAIN, "actor": "alice", "reason": "deploy", "lasts": None, "deadline": None, "has_key": False}
    try:
        pauses = [("host:a", DRAIN, "bob", "upgrade", 20, 5), ("queue:emails", QUIESCE, "bob", "upgrade", 5, None)]
        store.begin(has_worker=False, pauses=pauses, follows=True, obeys=True, by=10)
        check(store.pause(0, "global", **drain))
        check(store.pause(1, "global", **drain))
        check(store.pause(1, "global", **drain | {"reason": "longer", "has_key": True}))
        check(store.pause(0, "queue:emails", **drain | {"lasts": 5}))
        check(store.pause(0, "host:a", **drain | {"lasts": 20, "deadline": 5}))
        check(store.ask_again(0, 0), store.ask_again(1, 1), store.ask_wrongly(0, "global", 0))
        check(store.the_worker_says(1, obeys=True, runs=True))
        check(store.an_owner_acts(0, "global", "budget", QUIESCE, places=True))
        check(store.resume(1, 10, "bob", is_forced=False, has_key=True))
        check(store.time_passes(60, 0, is_raced=True, expires_first=True))
        check(store.the_worker_says(0, obeys=True, runs=False))
        check(store.resume(0, 10, "bob", is_forced=False, has_key=True))
        check(store.ask_again(0, 2), store.resume(0, 10, "bob", is_forced=True, has_key=False))
        check(store.an_owner_acts(1, "global", "budget", QUIESCE, places=False))
        check(store.pause_twice_at_once([("global", DRAIN, "bob", "deploy"), ("global", QUIESCE, "alice", "deploy")]))
        check(store.pause(0, "host:a", **drain | {"deadline": 5}), store.time_passes(10, 1, False, False))
    finally:
        store.teardown()


def test_one_of_each_is_as_the_model_has_it(machine: type[Store]) -> None:
    play_one_of_each(machine)


Break = Callable[[pytest.MonkeyPatch, type[Store]], None]


def an_expiry_leaves_no_event(patch: pytest.MonkeyPatch, machine: type[Store]) -> None:
    record = events.record

    def silent(connection: Connection, namespace: str | None, event: events.Event) -> int:
        return 0 if event.action == "hold_expired" else record(connection, namespace, event)

    patch.setattr(events, "record", silent)


def an_alteration_is_not_stored(patch: pytest.MonkeyPatch, machine: type[Store]) -> None:
    """It has its version and its event, and the hold is as it was."""

    def forgetful(holds: Holds, wish: Hold) -> Change:
        change = transitions.place(holds, wish)
        is_lost = change.kind is ChangeKind.ALTERED
        return replace(change, hold=holds.find(wish.key)) if is_lost else change

    patch.setattr(orders_module, "place", forgetful)


def a_noop_makes_a_version(patch: pytest.MonkeyPatch, machine: type[Store]) -> None:
    patch.setattr(Hold, "has_same_effect_as", lambda *_: False)


def holds_expire_too_early(patch: pytest.MonkeyPatch, machine: type[Store]) -> None:
    patch.setattr(
        clock_module, "expire", lambda holds, *, now: transitions.expire(holds, now=now + timedelta(minutes=1))
    )


def a_resume_releases_what_others_hold(patch: pytest.MonkeyPatch, machine: type[Store]) -> None:
    def greedy(holds: Holds, key: HoldKey, **rest: Any) -> Change:
        other = next((hold.key for hold in holds.active if hold.scope == key.scope and hold.key != key), key)
        return transitions.release(holds, other, **rest)

    patch.setattr(orders_module, "release", greedy)


def a_resume_asks_nobody(patch: pytest.MonkeyPatch, machine: type[Store]) -> None:
    patch.setattr(orders_module, "_is_drained", lambda *_: True)


def keys_are_forgotten(patch: pytest.MonkeyPatch, machine: type[Store]) -> None:
    patch.setattr(idempotency, "find", lambda *_: None)
    patch.setattr(idempotency, "keep", lambda *_: None)


def what_drained_escalates_too(patch: pytest.MonkeyPatch, machine: type[Store]) -> None:
    patch.setattr(
        clock_module, "escalate", lambda holds, *, now, drained: transitions.escalate(holds, now=now, drained=())
    )


def the_change_and_its_event_are_two_transactions(patch: pytest.MonkeyPatch, machine: type[Store]) -> None:
    """Whoever stops in between has made a version that nobody made: here, at every fourth."""
    record = events.record

    def often(connection: Connection, namespace: str | None, event: events.Event) -> int:
        return 0 if event.version is not None and event.version % 4 == 0 else record(connection, namespace, event)

    patch.setattr(events, "record", often)


def an_event_is_changed_afterwards(patch: pytest.MonkeyPatch, machine: type[Store]) -> None:
    """By the owner of the tables, past the triggers."""
    verify = verification.verify

    def verify_after_tampering(*arguments: Any) -> Any:
        machine.world.sql("alter table control_events disable trigger all")
        machine.world.sql("update control_events set actor = 'mallory' where id = (select max(id) from control_events)")
        for guard in guards.GUARDS:
            machine.world.sql(f"alter table control_events enable always trigger {guard.trigger}")
        return verify(*arguments)

    patch.setattr(verification, "verify", verify_after_tampering)


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (an_expiry_leaves_no_event, "S7|newest version that an event made"),
        (an_alteration_is_not_stored, "what is stored|is answered, expected"),
        (a_noop_makes_a_version, "is answered, expected|S7"),
        (holds_expire_too_early, "holds expired"),
        (a_resume_releases_what_others_hold, "is answered, expected|S7|what is stored"),
        (a_resume_asks_nobody, "R-A7"),
        (keys_are_forgotten, "answered anew|R-A[47]"),
        (what_drained_escalates_too, "holds escalated"),
        (the_change_and_its_event_are_two_transactions, "S7|newest version that an event made"),
        (an_event_is_changed_afterwards, "it does not say what was recorded"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_a_mutant_is_caught(
    machine: type[Store], monkeypatch: pytest.MonkeyPatch, break_it: Break, message: str
) -> None:
    break_it(monkeypatch, machine)
    with pytest.raises((AssertionError, AuditBroken), match=message):
        play_one_of_each(machine)
