"""A worker against the model: whatever it reads, in whatever order, over all its lives (S1, S2, S3, S4, S9).

Real are follower, fence, signatures, gate, cell and the file that a worker remembers by; time and Redis are the test's.
Hypothesis plays; each mutant at the end must be caught by the promise that it breaks.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID, uuid5

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from redis.exceptions import ConnectionError as RedisAway

from sluicegate.schemas.adapters.trusted_keys import TrustedKeys
from sluicegate.schemas.holds.hold import Hold, Holds
from sluicegate.schemas.modes import Mode
from sluicegate.schemas.scopes import Scope, Subject
from sluicegate.schemas.snapshots import NOTHING, Edition, Snapshot, seal
from sluicegate.workers import follower as follower_module
from sluicegate.workers.cell import Cell, pack
from sluicegate.workers.follower import Follower, Pace
from sluicegate.workers.following import Following, see
from sluicegate.workers.gate import Gate
from sluicegate.workers.memory import Memory
from tests.model.holds_model import DRAIN, QUIESCE, Life, Orders, Row
from tests.unit.strategies import NOW
from tests.unit.test_snapshots import KEY, OTHER

NAMESPACE = "default"
STALE_AFTER_S = 60.0
WORKER = ("global", "host:h", "worker:w1@h", "label:gpu=a100")
STARTS = (("mail", "app.send"), ("mail", "app.sort"), ("gpu", "app.train"))
SCOPES = (*WORKER, "host:elsewhere", "queue:mail", "task:app.train")
WAYS = st.integers(0, 4)
ANY = st.integers(0, 999)
"""An index into something whose length only the machine knows."""


class Slot:
    """What lies in Redis at the state's key; read by the follower as by a client of it, one without sentinels."""

    connection_pool = None

    def __init__(self) -> None:
        self.raw: bytes | None = None
        self.is_up = True

    def get(self, key: str) -> bytes | None:
        if not self.is_up:
            raise RedisAway("the test has taken Redis away")
        return self.raw


class Worker(RuleBasedStateMachine):
    """One worker over several lives, one control plane that may lag, and strangers who can write to Redis."""

    state_dir: Path
    needs_fresh_boot = True

    @initialize(is_stale_closed=st.booleans(), orders=st.integers(0, 3))
    def begin(self, is_stale_closed: bool, orders: int) -> None:
        """A worker that has obeyed some orders already; with none it has not even read anything."""
        self.now = 0.0
        self.orders = Orders()
        self.publication = 0
        self.slot: Any = Slot()
        self.is_stale_closed = is_stale_closed
        self.signed: dict[bytes, tuple[int, int]] = {}
        self.archive: list[bytes] = []
        # One nodename an example: what was remembered in the one before is not this worker's.
        for old in self.state_dir.rglob("*.json"):
            old.unlink()
        self.life = Life(began_at=0.0)
        self.boot()
        if orders:
            self.heal()
        for number in range(1, orders):
            if number % 2:
                self.pause("global", DRAIN, way=4)
            else:
                self.resume(0, way=4)

    def boot(self) -> None:
        self.memory = Memory(self.state_dir, NAMESPACE, "w1@h")
        subject = Subject(host="h", worker="w1@h", labels={"gpu": "a100"})
        self.gate: Gate[tuple[str, str]] = Gate(
            Cell(),
            subject,
            wake=lambda: None,
            on_applied=lambda: None,
            subject_of=lambda start: replace(subject, queue=start[0], task=start[1]),
            clock=lambda: self.now,
        )
        self.follower = Follower(
            namespace=NAMESPACE,
            keys=TrustedKeys({KEY.kid: KEY.public}),
            pace=Pace(
                poll_s=1,
                republish_s=1,
                stale_after_s=STALE_AFTER_S,
                is_stale_closed=self.is_stale_closed,
                needs_fresh_boot=self.needs_fresh_boot,
            ),
            connect=lambda: pytest.fail("nothing connects here"),
            fence=self.memory.load(),
            on_state=self.takes,
            on_stale=self.gate.hold_locally,
            clock=lambda: self.now,
        )

    def takes(self, snapshot: Snapshot) -> None:
        """The follower hands a state on."""
        version = snapshot.edition.version
        assert version <= self.orders.version, f"S3: {version} was never ordered"
        rows = {(str(hold.scope), hold.mode.word) for hold in snapshot.holds.active}
        ordered = {(row.scope, row.mode) for row in self.orders.editions[version - 1]}
        assert rows == ordered, f"S3: {version} does not hold what was ordered"
        newest = max(self.life.in_force, self.life.reported)
        assert version >= newest, f"S2: goes back from {newest} to {version}"
        self.gate.put_in_force(snapshot)

    # --- the control plane ---

    @rule(scope=st.sampled_from(SCOPES), mode=st.sampled_from([DRAIN, QUIESCE]), way=WAYS)
    def pause(self, scope: str, mode: str, way: int) -> None:
        wish = Row(scope=scope, mode=mode, reason="upgrade", actor="alice", created_at=0)
        self.orders = self.orders.place(wish)
        self.travel(way)

    @rule(at=ANY, way=WAYS)
    def resume(self, at: int, way: int) -> None:
        rows = sorted(self.orders.rows, key=lambda row: row.key)
        if rows:
            self.orders = self.orders.release(rows[at % len(rows)].key, "bob")
        self.travel(way)

    def travel(self, way: int) -> None:
        """How far an order comes before something else happens: stored, published, in force, acknowledged, reported."""
        for step in (self.publish, self.look, self.acknowledge, self.report)[:way]:
            step()
            self.what_starts_is_what_the_model_lets_start()

    @rule()
    def publish(self) -> None:
        self.put(self.sealed(self.orders.version))

    @rule(at=ANY)
    def publish_older(self, at: int) -> None:
        """A control plane that was left behind publishes what it knows, with a number that goes on."""
        self.put(self.sealed(1 + at % self.orders.version))

    def sealed(self, version: int) -> bytes:
        self.publication += 1
        snapshot = snapshot_of(self.orders.editions[version - 1], version, self.publication)
        envelope = seal(snapshot, KEY)
        self.signed[envelope] = (version, self.publication)
        self.archive.append(envelope)
        return envelope

    def put(self, envelope: bytes | None) -> None:
        self.slot.raw = envelope

    # --- strangers ---

    @precondition(lambda self: self.archive)
    @rule(at=ANY)
    def replay_and_look(self, at: int) -> None:
        self.put(self.archive[at % len(self.archive)])
        self.look()

    @rule(how=st.sampled_from(["another key", "a changed byte", "another's signature", "no envelope"]), at=ANY)
    def forge_and_look(self, how: str, at: int) -> None:
        forged = snapshot_of(frozenset(), self.orders.version + 1 + at, self.publication + 1 + at)
        if how == "another key":
            self.put(seal(forged, OTHER))
        elif how == "another's signature":
            self.put(seal(forged, _Pretender()))
        elif how == "no envelope" or not self.archive:
            self.put(b'{"v":1}')
        else:
            raw = bytearray(self.archive[-1])
            raw[at % len(raw)] ^= 1
            self.put(bytes(raw))
        self.look()

    @rule()
    def wipe(self) -> None:
        self.put(None)

    # --- time and touch ---

    @rule(seconds=st.sampled_from([0.0, STALE_AFTER_S - 0.5, STALE_AFTER_S]))
    def nobody_publishes_for(self, seconds: float) -> None:
        self.now += seconds
        self.look()

    @rule(seconds=st.sampled_from([1.0, STALE_AFTER_S]), crashes=st.booleans(), looks=st.integers(1, 2))
    def redis_is_away(self, seconds: float, crashes: bool, looks: int) -> None:
        self.slot.is_up = False
        if crashes:
            self.crash_and_come_back(beats=True)
        for _ in range(looks):
            self.now += seconds
            self.look()
            self.what_starts_is_what_the_model_lets_start()
        self.slot.is_up = True

    # --- the worker ---

    @rule()
    def look(self) -> None:
        found = self.signed.get(self.slot.raw) if self.slot.is_up and self.slot.raw else None
        after = self.life.looks(found, is_away=not self.slot.is_up, now=self.now, stale_after_s=STALE_AFTER_S)
        self.follower.look(self.slot)
        self.life = after
        known = self.follower.following.in_force
        version = known.edition.version if known else 0
        assert version >= after.in_force, f"L1: {version} is in force after a look, {after.in_force} must be"

    @rule(at=ANY, crashes=st.integers(0, 2))
    def look_at_two_old_publications(self, at: int, crashes: int) -> None:
        """All that a worker which boots asks for, and perhaps still older than what it applied in another life."""
        for _ in range(crashes):
            self.crash_and_come_back(beats=True)
        for _ in range(2):
            self.publish_older(at)
            self.look()

    @rule()
    def acknowledge(self) -> None:
        """The consumer's thread has done what the state asks."""
        standing, _ = self.gate.take_duty()
        self.gate.acknowledge(standing)

    @rule()
    def report(self) -> None:
        """As workers/heart.py does: remembered before it is said."""
        self.memory.save(self.gate.applied.edition)
        self.life = self.life.reports(self.gate.applied.edition.version)

    @rule(changes=st.lists(st.tuples(st.sampled_from(["gpu", "disk"]), st.booleans()), min_size=1, max_size=4))
    def hold_locally(self, changes: list[tuple[str, bool]]) -> None:
        for source, is_on in changes:
            self.gate.hold_locally(f"{source} lost" if is_on else None, source=source)
            now = self.life.local | {source} if is_on else self.life.local - {source}
            self.life = replace(self.life, local=now)
            self.what_starts_is_what_the_model_lets_start()

    @rule(beats=st.booleans())
    def crash_and_come_back(self, beats: bool) -> None:
        """The heart beats before the follower has seen anything, unless the next crash comes first."""
        self.life = self.life.ends(self.now)
        self.boot()
        if beats:
            self.report()

    @rule()
    def heal(self) -> None:
        """L2: everybody has the newest order within a poll, two where a worker boots."""
        for _ in range(2):
            self.now += 1
            self.travel(4)
        assert self.follower.following.in_force is not None, "L2: a worker that boots never sees a fresh state"
        in_force = self.follower.following.in_force.edition.version
        assert in_force == self.orders.version, f"L2: {in_force} is in force, ordered is {self.orders.version}"

    # --- what must hold ---

    @invariant()
    def what_starts_is_what_the_model_lets_start(self) -> None:
        for start in STARTS:
            self.check_start(start)

    @invariant()
    def the_cell_says_what_is_in_force(self) -> None:
        life, cell = self.life, self.gate.cell
        promise = "S2" if life.in_force else "S4"
        assert cell.edition.version == life.in_force, f"{promise}: the cell says {cell.edition}, not {life.in_force}"
        if life.in_force:
            mode = self.orders.mode_at(life.in_force, WORKER)
            assert cell.mode.word == mode, f"S3: the cell says {cell.mode.word}, ordered is {mode}"

    def check_start(self, start: tuple[str, str]) -> None:
        queue, task = start
        names = (*WORKER, f"queue:{queue}", f"task:{task}")
        forbidding = self.life.forbidding(self.orders, names, is_stale_closed=self.is_stale_closed)
        started: list[tuple[str, str]] = []
        self.gate.pass_through(started.append, start)
        if forbidding is None:
            assert started, "L3: nothing forbids this start, and the gate is closed"
        else:
            assert not started, forbidding


class _Pretender:
    """Signs with its own key under the name of the trusted one."""

    kid = KEY.kid

    def sign(self, payload: bytes) -> bytes:
        return OTHER.sign(payload)


def snapshot_of(rows: frozenset[Row], version: int, publication: int) -> Snapshot:
    holds = [
        Hold(
            id=uuid5(UUID(int=0), str(row.key)),
            scope=Scope.parse(row.scope),
            mode=Mode.of_hold(row.mode),
            reason=row.reason,
            actor=row.actor,
            created_at=NOW,
        )
        for row in rows
    ]
    return Snapshot(
        namespace=NAMESPACE,
        epoch=1,
        holds=Holds(version=version, active=frozenset(holds)),
        publication=publication,
        issued_at=NOW,
    )


# The same games each time, and nothing kept between runs: what fails, fails for everybody.
PLAN = settings(derandomize=True, database=None, deadline=None, max_examples=100, stateful_step_count=30)
HUNT = settings(PLAN, max_examples=1000, phases=[Phase.generate], report_multiple_bugs=False, print_blob=False)


@pytest.fixture
def machine(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> type[Worker]:
    # What is said is other tests' business; here it would be tens of thousands of lines.
    caplog.set_level(logging.CRITICAL, logger="sluicegate")
    return type("Worker", (Worker,), {"state_dir": tmp_path})


def test_a_worker_does_what_the_model_does(machine: type[Worker]) -> None:
    """S1, S2, S3, S4, S9, L2."""
    run_state_machine_as_test(machine, settings=PLAN)


# --- the mutants ---

Break = Callable[[pytest.MonkeyPatch, type[Worker]], None]


def no_fence(patch: pytest.MonkeyPatch, machine: type[Worker]) -> None:
    """Nothing that was applied before, in this life or another, is in the way of an older state."""

    def unfenced(following: Following, snapshot: Snapshot, **rest: Any) -> Following:
        return see(replace(following, fence=NOTHING), snapshot, **rest)

    patch.setattr(follower_module, "see", unfenced)


def takes_what_differs(patch: pytest.MonkeyPatch, machine: type[Worker]) -> None:
    """An older state is taken as a newer one is."""

    def credulous(following: Following, snapshot: Snapshot, **rest: Any) -> Following:
        known = following.in_force
        if known is not None and snapshot.edition != known.edition:
            return replace(following, in_force=snapshot, fence=snapshot.edition, last_publication=snapshot.publication)
        return see(following, snapshot, **rest)

    patch.setattr(follower_module, "see", credulous)


def open_at_boot(patch: pytest.MonkeyPatch, machine: type[Worker]) -> None:
    make = Gate.__init__

    def made_open(gate: Gate[Any], *args: Any, **more: Any) -> None:
        make(gate, *args, **more)
        gate.cell.store(pack(Mode.RUN, NOTHING))
        gate._is_any_held = False

    patch.setattr(Gate, "__init__", made_open)


def boots_on_what_lies_there(patch: pytest.MonkeyPatch, machine: type[Worker]) -> None:
    patch.setattr(machine, "needs_fresh_boot", False)


def publications_of_two_servers_are_compared(patch: pytest.MonkeyPatch, machine: type[Worker]) -> None:
    patch.setattr(follower_module, "lose_touch", lambda following: following)


def no_signature_check(patch: pytest.MonkeyPatch, machine: type[Worker]) -> None:
    patch.setattr(TrustedKeys, "verify", lambda *_: True)


def forgets(patch: pytest.MonkeyPatch, machine: type[Worker]) -> None:
    patch.setattr(Memory, "load", lambda _: NOTHING)


def remembers_what_it_says_while_it_boots(patch: pytest.MonkeyPatch, machine: type[Worker]) -> None:
    """As it was until this test found it: a second crash, and the fence was gone."""
    save = Memory.save

    def saved_as_said(memory: Memory, edition: Edition) -> None:
        memory.path.unlink(missing_ok=True)
        save(Memory(memory.path.parent.parent, NAMESPACE, "w1@h"), edition)

    patch.setattr(Memory, "save", saved_as_said)


def who_lifts_a_local_hold_lifts_all(patch: pytest.MonkeyPatch, machine: type[Worker]) -> None:
    hold = Gate.hold_locally
    patch.setattr(Gate, "hold_locally", lambda gate, reason, source="": hold(gate, reason, "any"))


def a_local_hold_does_not_hold(patch: pytest.MonkeyPatch, machine: type[Worker]) -> None:
    patch.setattr(Gate, "hold_locally", lambda *_, **__: None)


def a_central_state_lifts_local_holds(patch: pytest.MonkeyPatch, machine: type[Worker]) -> None:
    put_in_force = Gate.put_in_force

    def forgetful(gate: Gate[Any], snapshot: Snapshot) -> None:
        gate._local.clear()
        put_in_force(gate, snapshot)

    patch.setattr(Gate, "put_in_force", forgetful)


def opens_when_touch_is_lost(patch: pytest.MonkeyPatch, machine: type[Worker]) -> None:
    """A state that cannot be read counts as one that holds nothing."""
    look = machine.look

    def trusting(self: Worker) -> None:
        look(self)
        if self.life.saw_nothing and self.life.in_force:
            self.gate.cell.store(pack(Mode.RUN, self.gate.cell.edition))
            self.gate._is_any_held = False

    patch.setattr(machine, "look", trusting)


def never_stale(patch: pytest.MonkeyPatch, machine: type[Worker]) -> None:
    """The policy `closed` closes nothing."""
    patch.setattr(Following, "is_fresh", lambda *_: True)


def holds_of_some_tasks_are_not_looked_up(patch: pytest.MonkeyPatch, machine: type[Worker]) -> None:
    patch.setattr(Gate, "holds_back", lambda gate, _: not gate.standing.is_open)


def deaf_after_the_first_state(patch: pytest.MonkeyPatch, machine: type[Worker]) -> None:
    def deaf(following: Following, snapshot: Snapshot, **rest: Any) -> Following:
        return see(following, snapshot, **rest) if following.in_force is None else following

    patch.setattr(follower_module, "see", deaf)


@pytest.mark.parametrize(
    ("break_it", "promise"),
    [
        (no_fence, "S[1249]:"),
        (takes_what_differs, "S2:"),
        (open_at_boot, "S4:"),
        (boots_on_what_lies_there, "S4:"),
        (publications_of_two_servers_are_compared, "S[49]:"),
        (no_signature_check, "S3:"),
        (forgets, "S[124]:"),
        (remembers_what_it_says_while_it_boots, "S[124]:"),
        (who_lifts_a_local_hold_lifts_all, "S[39]:"),
        (a_local_hold_does_not_hold, "S[39]:"),
        (a_central_state_lifts_local_holds, "S[39]:"),
        (opens_when_touch_is_lost, "S[139]:"),
        (never_stale, "S9:"),
        (holds_of_some_tasks_are_not_looked_up, "S[139]:"),
        (deaf_after_the_first_state, "L[13]:"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_a_mutant_is_caught_by_the_promise_that_it_breaks(
    machine: type[Worker], monkeypatch: pytest.MonkeyPatch, break_it: Break, promise: str
) -> None:
    break_it(monkeypatch, machine)
    with pytest.raises(AssertionError, match=promise):
        run_state_machine_as_test(machine, settings=HUNT)
