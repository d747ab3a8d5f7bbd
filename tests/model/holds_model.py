"""What holds are, said as plainly as it can be: the reference that the store and the workers are compared with.

Pure, and nothing of the code under test is used: a hold is a row of texts, a moment is a number of seconds, a scope
that a start falls under is a name in a set. `Orders` is what the control plane ordered, edition by edition; `Life` is
what one life of a worker has made of what it read.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

RUN, DRAIN, QUIESCE = "run", "drain", "quiesce"
_STRENGTH = (RUN, DRAIN, QUIESCE)
CLOCK = "sluicegate"
"""Who did what nobody asked for at that moment."""

Key = tuple[str, str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One active hold. `drained`: its scope has drained since it was placed or altered."""

    scope: str
    mode: str
    reason: str
    actor: str
    created_at: int
    cause: str = "manual"
    source: str = ""
    expires_at: int | None = None
    deadline: int | None = None
    drained: bool = False

    @property
    def key(self) -> Key:
        """At most one row has it."""
        return self.scope, self.cause, self.source


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """What goes on record about one edition."""

    action: str
    actor: str
    scope: str | None


Rows = frozenset[Row]
BORN = Made(action="namespace_created", actor=CLOCK, scope=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Orders:
    """Every edition so far: what it held, and what made it; and how often something was asked that made none."""

    editions: tuple[Rows, ...] = (frozenset(),)
    made: tuple[Made, ...] = (BORN,)
    noops: int = 0
    refusals: int = 0
    receipts: int = 0

    @property
    def version(self) -> int:
        """The newest edition's number; the first has 1."""
        return len(self.editions)

    @property
    def rows(self) -> Rows:
        """What is held now."""
        return self.editions[-1]

    def find(self, key: Key) -> Row | None:
        """The row with this key."""
        return next((row for row in self.rows if row.key == key), None)

    def mode_at(self, version: int, names: Collection[str]) -> str:
        """The strongest mode in that edition for what falls under the scopes `names`."""
        modes = [row.mode for row in self.editions[version - 1] if row.scope in names]
        return max(modes, key=_STRENGTH.index, default=RUN)

    def place(self, wish: Row, action: str = "pause") -> Orders:
        """Someone wishes a hold: a new one, another in its place, or nothing new (R-A2, R-A5)."""
        known = self.find(wish.key)
        if known is None:
            return self._made(self.rows | {wish}, action, wish.actor, wish.scope)
        altered = replace(wish, created_at=known.created_at, drained=False)
        if replace(altered, actor=known.actor, drained=known.drained) == known:
            return replace(self, noops=self.noops + 1)
        return self._made(self.rows - {known} | {altered}, action, wish.actor, wish.scope)

    def release(self, key: Key, actor: str, action: str = "resume") -> Orders:
        """Its owner takes a hold back; nothing where there is none."""
        known = self.find(key)
        if known is None:
            return replace(self, noops=self.noops + 1)
        return self._made(self.rows - {known}, action, actor, known.scope)

    def resume(self, scope: str, actor: str, *, is_forced: bool, is_drained: bool) -> Orders | None:
        """An operator resumes; None: it is refused (R-A7)."""
        manual = self.find((scope, "manual", ""))
        others = any(row.scope == scope for row in self.rows - {manual})
        if manual is None:
            return None if others else self.release((scope, "manual", ""), actor)
        if manual.mode == DRAIN and not is_forced and not is_drained:
            return None
        return self.release(manual.key, actor)

    def refused(self) -> Orders:
        """A refusal is on record and changes nothing."""
        return replace(self, refusals=self.refusals + 1)

    def expired(self, now: int) -> Orders:
        """The clock releases what has run out, the earliest first, one an edition (R-B7)."""
        due = [(row.expires_at, row) for row in self.rows if row.expires_at is not None and row.expires_at <= now]
        orders = self
        for _, row in sorted(due, key=lambda pair: pair[0]):
            orders = orders._made(orders.rows - {row}, "hold_expired", CLOCK, row.scope)
        return orders

    def escalated(self, now: int) -> Orders:
        """Each drain whose deadline came with work left becomes a quiesce, the earliest first (R-B6)."""
        due = [
            (row.deadline, row)
            for row in self.rows
            if row.deadline is not None
            and row.deadline <= now
            and row.mode == DRAIN
            and not row.drained
            and (row.expires_at is None or row.expires_at > now)
        ]
        orders = self
        for _, row in sorted(due, key=lambda pair: pair[0]):
            rows = orders.rows - {row} | {replace(row, mode=QUIESCE)}
            orders = orders._made(rows, "hold_escalated", CLOCK, row.scope)
        return orders

    def followed(self, *, is_drained: bool) -> Orders:
        """A look at the fleet: what has drained gets its receipt, once (R-C5). No edition is made."""
        if not is_drained:
            return self
        ended = sum(not row.drained for row in self.rows)
        rows = frozenset(replace(row, drained=True) for row in self.rows)
        return replace(self, editions=(*self.editions[:-1], rows), receipts=self.receipts + ended)

    def _made(self, rows: Rows, action: str, actor: str, scope: str) -> Orders:
        made = Made(action=action, actor=actor, scope=scope)
        return replace(self, editions=(*self.editions, rows), made=(*self.made, made))


@dataclass(frozen=True, slots=True, kw_only=True)
class Life:
    """One life of a worker. Versions: 0 is none. Times are seconds of one clock.

    `reported`: what it said last, over all its lives, that it has applied; `fence`: what it knew of that when it began.
    `in_force`, `last_publication`, `heard_at`: what it made of what it has read. `is_touch_lost`: its last look was the
    first for which the control plane had been silent for too long. `saw_nothing`: its last look gave it nothing to
    believe.
    """

    began_at: float
    fence: int = 0
    reported: int = 0
    in_force: int = 0
    last_publication: int | None = None
    heard_at: float | None = None
    is_touch_lost: bool = False
    saw_nothing: bool = True
    local: frozenset[str] = frozenset()

    def looks(self, found: tuple[int, int] | None, *, is_away: bool, now: float, stale_after_s: float) -> Life:
        """It looks. `found`: version and publication of what lies there, truly signed; None: there is no such thing.

        After a look at a Redis that is away the next may be at another, whose numbers are no sign of life.
        """
        life = replace(self, saw_nothing=True, last_publication=None if is_away else self.last_publication)
        if found is not None and found[0] >= max(self.fence, self.in_force):
            version, publication = found
            has_advanced = self.last_publication is not None and publication > self.last_publication
            is_newer = version > self.in_force if self.in_force else has_advanced
            life = replace(
                self,
                in_force=version if is_newer else self.in_force,
                last_publication=publication,
                heard_at=now if is_newer or has_advanced else self.heard_at,
                saw_nothing=False,
            )
        silent_since = max(life.began_at, life.began_at if life.heard_at is None else life.heard_at)
        return replace(life, is_touch_lost=now - silent_since >= stale_after_s)

    def reports(self, version: int) -> Life:
        """It says what it has applied; 0, which it says while it boots, takes nothing back of what it said before."""
        return replace(self, reported=version or self.reported)

    def ends(self, now: float) -> Life:
        """It crashes, and the next one begins: with what was reported as its fence, and nothing else."""
        return Life(began_at=now, fence=self.reported, reported=self.reported)

    def forbidding(self, orders: Orders, names: Collection[str], *, is_stale_closed: bool) -> str | None:
        """The promise that forbids a start under the scopes `names` now; None: it must be let through."""
        if not self.in_force:
            return "S4: this life has seen no fresh signed state"
        if self.local:
            return "S3: a local hold makes it stricter"
        if self.is_touch_lost and is_stale_closed:
            return "S9: touch is lost for longer than the lease, and the policy is closed"
        if orders.mode_at(self.in_force, names) == RUN:
            return None
        if self.reported and orders.mode_at(self.reported, names) != RUN:
            return f"S1: the pause {self.reported} was acknowledged, and nothing newer that runs is in force"
        if self.saw_nothing:
            return "S9: a paused worker that reads nothing stays paused"
        return f"S3: {self.in_force} is in force, and holds"
