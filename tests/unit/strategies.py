"""Hypothesis strategies of the contract's values."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import strategies as st

from sluicegate.schemas.holds.hold import Cause, Hold, Holds, Then
from sluicegate.schemas.holds.ramps import Ramp
from sluicegate.schemas.modes import Mode
from sluicegate.schemas.scopes import Scope
from sluicegate.schemas.snapshots import MAX_EPOCH, MAX_VERSION, Snapshot

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)

moments = st.integers(-(10**12), 10**12).map(lambda us: NOW + timedelta(microseconds=us))
texts = (
    st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=20).filter(str.strip).map(str.strip)
)
names = st.text("abcdefghijklmnop-_.@", min_size=1, max_size=12)
scopes = st.one_of(
    st.just("global"),
    st.builds("{}:{}".format, st.sampled_from(["queue", "host", "worker", "task"]), names),
    st.builds("label:{}={}".format, names, names),
).map(Scope.parse)
modes = st.sampled_from([Mode.DRAIN, Mode.QUIESCE])

holds = st.builds(
    Hold,
    id=st.uuids(version=4),
    scope=scopes,
    mode=modes,
    reason=texts,
    actor=texts,
    created_at=moments,
    cause=st.sampled_from(Cause),
    source=st.sampled_from(["", "w1@h", "nightly"]),
    expires_at=st.none() | moments,
    deadline=st.none() | moments,
    then=st.none() | st.sampled_from(Then),
    escalated_at=st.none() | moments,
    ramp=st.none()
    | st.builds(Ramp, rate=st.just("10%/s"), span_s=st.floats(0.1, 100), order=st.lists(names, max_size=3).map(tuple)),
)


def _one_per_key(wishes: list[Hold]) -> frozenset[Hold]:
    return frozenset({hold.key: hold for hold in wishes}.values())


hold_sets = st.builds(
    Holds, version=st.integers(1, MAX_VERSION - 100), active=st.lists(holds, max_size=6).map(_one_per_key)
)
snapshots = st.builds(
    Snapshot,
    namespace=st.just("default"),
    epoch=st.integers(1, MAX_EPOCH),
    holds=hold_sets,
    publication=st.integers(1, 2**63 - 1),
    issued_at=moments,
)
