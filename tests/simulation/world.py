"""A fleet of thousands on an injected clock, network and seed: the same seed is the same story.

What is real: `workers.following.see` with its fence, and the snapshots and holds; the rule of the publisher (judge what
is there, read the truth, bump the epoch after a restore) is written once more. What is simulated: time (whole
milliseconds), Redis as one slot that can be frozen, wiped, rolled back or forged, hints that are lost, late or doubled,
workers that crash and come back with what they remembered, partitions, a control plane that is down, a database that is
restored.

Checked at every event: S1 (no start after an acknowledged pause before a newer running state), S2 (what is in force
never goes back, over all lives), S4 (no start before the control plane was alive in this life), S9 (losing touch opens
nothing). L1 (who is in touch has an order within one poll and its jitter) after every order in calm, and L2 (everybody
has the newest order soon after the healing) at the end.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from uuid import UUID

from sluicegate.schemas.errors import SnapshotRefused
from sluicegate.schemas.holds.hold import Hold, Holds
from sluicegate.schemas.modes import Mode
from sluicegate.schemas.scopes import GLOBAL, Subject
from sluicegate.schemas.snapshots import NOTHING, Edition, Snapshot
from sluicegate.workers.following import Following, see

POLL_MS, JITTER = 1000, 0.2
REPUBLISH_MS = 1000
ORDERS_UNTIL_MS = 12_000
HEALED_AT_MS = 12_000
ENDS_AT_MS = HEALED_AT_MS + 5_000
BOOT_MS = 3000
"""Three polls, less some of what L1 grants anyway: a read, another, and one more if no publication lay between."""
ONE_POLL_MS = int(POLL_MS * (1 + JITTER))
NOW = datetime(2026, 1, 1, tzinfo=UTC)
SUBJECT = Subject()

See = Callable[..., Following]


class Broken(AssertionError):
    """A promise was broken; the text tells which, and the last events before it."""


@dataclass(slots=True, eq=False)
class Worker:
    """One worker. `remembered` outlives it; `shut` and `highest` are what an observer knows."""

    number: int
    following: Following = field(default_factory=Following)
    remembered: Edition = NOTHING
    is_up: bool = True
    is_cut: bool = False
    life: int = 1
    born_ms: int = 0
    cut_until_ms: int = 0
    shut: Edition | None = None
    highest: Edition = NOTHING

    lets_through: bool = False
    """Does what is in force let a task start?"""

    @property
    def is_open(self) -> bool:
        return self.is_up and self.lets_through


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """How workers behave; the defaults are the design, anything else is a mutant of it."""

    see: See = see
    remembers: bool = True
    needs_fresh_boot: bool = True
    is_open_at_boot: bool = False


class World:
    """One run. `run` raises Broken."""

    def __init__(self, seed: int, workers: int, rules: Rules | None = None) -> None:
        self.chance = random.Random(seed)
        self.seed = seed
        self.rules = rules or Rules()
        self.workers = [Worker(number) for number in range(workers)]
        self.now = 0
        self.events = 0
        self._heap: list[tuple[int, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._story: list[str] = []
        # The truth.
        self.epoch, self.version, self.is_paused, self.publication = 1, 1, False, 0
        self.is_control_up = True
        # Redis.
        self.slot: Snapshot | None = None
        self.is_forged = False
        self.is_frozen = False
        self._published: list[Snapshot] = []
        self._published_ms: list[int] = []
        self._replays = 0
        self._disturbed_ms: list[int] = []

    # --- the loop ---

    def at(self, ms: int, act: Callable[[], None]) -> None:
        heapq.heappush(self._heap, (ms, next(self._order), act))

    def tell(self, text: str) -> None:
        self._story.append(f"{self.now / 1000:7.3f} s  {text}")

    def break_(self, what: str) -> None:
        story = "\n".join(self._story[-25:])
        raise Broken(f"seed {self.seed}, {len(self.workers)} workers: {what}\n{story}")

    def run(self) -> int:
        """Play it; how many events there were."""
        self._plan()
        while self._heap and self._heap[0][0] <= ENDS_AT_MS:
            self.now, _, act = heapq.heappop(self._heap)
            self.events += 1
            act()
        for worker in self.workers:
            state = worker.following.in_force
            if state is None or state.edition != self.edition:
                self.break_(f"L2: w{worker.number} has {state and state.edition}, ordered is {self.edition}")
        return self.events

    # --- the control plane ---

    @property
    def edition(self) -> Edition:
        return Edition(self.epoch, self.version)

    def _holds(self) -> Holds:
        if not self.is_paused:
            return Holds(version=self.version)
        hold = Hold(id=UUID(int=self.version), scope=GLOBAL, mode=Mode.DRAIN, reason="r", actor="a", created_at=NOW)
        return Holds(version=self.version, active=frozenset({hold}))

    def order(self) -> None:
        """An operator toggles the pause. It is stored whatever Redis does."""
        self.version += 1
        self.is_paused = not self.is_paused
        self.tell(f"ordered {self.edition}: {'pause' if self.is_paused else 'run'}")
        if self.is_control_up:
            self.publish()
            # L1 is owed to whoever is in touch all the while, if nothing else happens to Redis meanwhile.
            edition, ordered_ms = self.edition, self.now
            self.at(self.now + ONE_POLL_MS + 50, lambda: self._check_l1(edition, ordered_ms))

    def republish(self) -> None:
        if self.is_control_up:
            self.publish()
        self.at(self.now + REPUBLISH_MS, self.republish)

    def publish(self) -> None:
        """As control/publishing/publisher.py: judge what is there, bump above it after a restore, replace."""
        if self.is_frozen:
            return
        self._is_restore_unmet = False
        met = None if self.is_forged else self.slot
        mine = (self.edition, self._holds())
        if met is not None and (met.edition > mine[0] or (met.edition == mine[0] and met.holds != mine[1])):
            self.epoch, self.version = met.edition.epoch + 1, self.version + 1
            self.tell(f"met {met.edition}: the database was restored, now {self.edition}")
        self.publication = max(self.publication, met.publication if met else 0) + 1
        is_new = self.slot is None or self.is_forged or self.slot.edition != self.edition
        self.slot = Snapshot(
            namespace="default", epoch=self.epoch, holds=self._holds(), publication=self.publication, issued_at=NOW
        )
        self.is_forged = False
        self._published.append(self.slot)
        self._published_ms.append(self.now)
        if is_new:
            self._hint()

    def _hint(self) -> None:
        chance = self.chance.random
        for worker in self.workers:
            # One in twenty is lost, one in twenty comes twice.
            said = chance()
            for _ in range(0 if said < 0.05 else 1 if said < 0.95 else 2):
                self._later(worker, self.now + 1 + int(30 * chance()))

    def _later(self, worker: Worker, ms: int) -> None:
        life = worker.life
        self.at(ms, lambda: self.read(worker, life))

    # --- the workers ---

    def read(self, worker: Worker, life: int) -> None:
        """One read of the slot by the follower of this life."""
        if worker.life != life or not worker.is_up or worker.is_cut or self.is_frozen or self.slot is None:
            return
        if self.is_forged:
            return  # no trusted signature: refused
        before = worker.following.in_force
        try:
            worker.following = self.rules.see(
                worker.following, self.slot, now=self.now / 1000, needs_fresh_boot=self.rules.needs_fresh_boot
            )
        except SnapshotRefused:
            return
        state = worker.following.in_force
        if state is None or state is before:
            return
        if state.edition < worker.highest:
            self.break_(f"S2: w{worker.number} went back from {worker.highest} to {state.edition}")
        worker.highest = state.edition
        worker.lets_through = state.holds.mode_for(SUBJECT) is Mode.RUN
        if worker.is_open:
            if worker.shut is None or state.edition > worker.shut:
                worker.shut = None
        else:
            worker.shut = state.edition
        worker.remembered = state.edition if self.rules.remembers else NOTHING

    def poll(self, worker: Worker, life: int) -> None:
        if worker.life != life or not worker.is_up:
            return
        self.read(worker, life)
        self.start_something(worker)
        self.at(self._next_poll(), lambda: self.poll(worker, life))

    def _next_poll(self) -> int:
        return self.now + int(POLL_MS * (1 - JITTER + 2 * JITTER * self.chance.random()))

    def start_something(self, worker: Worker) -> None:
        """A task comes to the gate."""
        is_open = worker.is_open or (self.rules.is_open_at_boot and worker.is_up and worker.following.in_force is None)
        if not is_open:
            return
        if worker.shut is not None:
            self.break_(f"S1: w{worker.number} starts a task after it acknowledged the pause {worker.shut}")
        is_alive = bool(self._published_ms) and self._published_ms[-1] >= worker.born_ms
        if not is_alive and self._replays < 2 and self.rules.needs_fresh_boot:
            self.break_(f"S4: w{worker.number} starts a task, and nobody has published in its life")

    def crash(self, worker: Worker, back_ms: int) -> None:
        worker.is_up = False
        worker.life += 1
        self.at(back_ms, lambda: self.boot(worker))

    def boot(self, worker: Worker) -> None:
        worker.is_up = True
        worker.born_ms = self.now
        worker.following = Following(fence=worker.remembered)
        worker.lets_through = False
        life = worker.life
        self.start_something(worker)
        self.at(self.now + self.chance.randint(1, POLL_MS), lambda: self.poll(worker, life))

    def _check_l1(self, edition: Edition, ordered_ms: int) -> None:
        if any(ordered_ms <= ms <= self.now for ms in self._disturbed_ms) or not self._was_calm(ordered_ms):
            return
        for worker in self.workers:
            since_ms = max(worker.born_ms + BOOT_MS, worker.cut_until_ms)
            state = worker.following.in_force
            if state is None:
                # It boots still: that takes a publication that it sees advance, for which Redis must be there.
                since_ms = max(since_ms, max(worker.cut_until_ms, self._calm_since) + BOOT_MS)
            is_in_touch = worker.is_up and not worker.is_cut and since_ms < ordered_ms
            if is_in_touch and (state is None or state.edition < edition):
                self.break_(f"L1: w{worker.number} does not have {edition} one poll after the order")

    def _was_calm(self, since_ms: int) -> bool:
        return self.is_control_up and not self.is_frozen and self._calm_since <= since_ms

    # --- what goes wrong ---

    _calm_since = 0

    def disturb(self, text: str) -> None:
        self._disturbed_ms.append(self.now)
        self._calm_since = self.now
        self.tell(text)

    def _plan(self) -> None:
        chance = self.chance
        for worker in self.workers:
            self.at(chance.randint(0, POLL_MS), lambda worker=worker: self.poll(worker, 1))  # type: ignore[misc]
        self.at(0, self.republish)
        for _ in range(chance.randint(4, 8)):
            self.at(chance.randint(2500, ORDERS_UNTIL_MS), self.order)
        faults = (
            self._partition,
            self._freeze,
            self._stop_control,
            self._roll_back,
            self._wipe,
            self._forge,
            self._crashes,
            self._restore,
        )
        for _ in range(chance.randint(3, 7)):
            self.at(chance.randint(2500, HEALED_AT_MS - 500), chance.choice(faults))
        self.at(HEALED_AT_MS, self._heal)

    def _some(self) -> list[Worker]:
        return self.chance.sample(self.workers, max(1, int(len(self.workers) * self.chance.choice((0.01, 0.2, 0.6)))))

    def _until(self) -> int:
        return min(HEALED_AT_MS - 1, self.now + self.chance.randint(300, 5000))

    def _partition(self) -> None:
        some, until = self._some(), self._until()
        self.tell(f"{len(some)} workers lose touch")
        for worker in some:
            worker.is_cut, worker.cut_until_ms = True, until
        self.at(until, lambda: self._rejoin(some))

    def _rejoin(self, some: list[Worker]) -> None:
        for worker in some:
            worker.is_cut, worker.cut_until_ms = False, self.now

    def _freeze(self) -> None:
        self.disturb("Redis is frozen")
        self.is_frozen = True
        self.at(self._until(), self._thaw)

    def _thaw(self) -> None:
        self.disturb("Redis answers again")
        self.is_frozen = False

    def _stop_control(self) -> None:
        self.disturb("the control plane is down")
        self.is_control_up = False
        self.at(self._until(), self._start_control)

    def _start_control(self) -> None:
        self.disturb("the control plane is up")
        self.is_control_up = True

    def _roll_back(self) -> None:
        if self._published and not self.is_frozen and not self._is_restore_unmet:
            self.slot, self.is_forged = self.chance.choice(self._published), False
            self._replays += 1
            self.disturb(f"somebody puts {self.slot.edition}, publication {self.slot.publication}, back")
            # Whoever can write can also hint.
            self._hint()

    # A restore that nobody has met yet, and a Redis that lost what would have told: a known limit (decision 0010,
    # "bump by hand then"), which the first runs of this simulation found too. One of the two at a time, therefore.
    _is_restore_unmet = False

    def _wipe(self) -> None:
        if self._is_restore_unmet:
            return
        self.disturb("Redis is wiped")
        self.slot, self.is_forged = None, False

    def _forge(self) -> None:
        if self._is_restore_unmet:
            return
        self.disturb("somebody writes a state that is not signed")
        self.is_forged = True

    def _crashes(self) -> None:
        some, back = self._some(), self._until()
        self.tell(f"{len(some)} workers crash")
        for worker in some:
            if worker.is_up:
                self.crash(worker, back)

    def _restore(self) -> None:
        if self.slot is None or self.is_forged or self.slot.edition != self.edition:
            return
        self._is_restore_unmet = True
        self.disturb(f"the database is restored to 1.1, it was at {self.edition}")
        self.epoch, self.version, self.is_paused = 1, 1, False

    def _heal(self) -> None:
        self.disturb("everything is healed")
        self.is_frozen, self.is_control_up = False, True
        for worker in self.workers:
            worker.is_cut = False
