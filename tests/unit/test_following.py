"""What a worker takes into force (S2, S3, S4, S9), whatever the order in which states are read."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluicegate.schemas.errors import StaleSnapshot
from sluicegate.schemas.holds.hold import Holds
from sluicegate.schemas.snapshots import NOTHING, Edition, Snapshot
from sluicegate.workers.following import Following, lose_touch, see

ISSUED = datetime(2026, 3, 1, tzinfo=UTC)


def snapshot(epoch: int, version: int, publication: int) -> Snapshot:
    return Snapshot(
        namespace="default", epoch=epoch, holds=Holds(version=version), publication=publication, issued_at=ISSUED
    )


reads = st.lists(st.builds(snapshot, st.integers(1, 3), st.integers(1, 9), st.integers(1, 50)), min_size=1)


@given(reads)
def test_a_late_repeated_or_older_state_never_undoes_a_newer_one(states):
    """S2: the applied (epoch, version) never goes down."""
    following, editions = Following(), []
    for number, state in enumerate(states):
        try:
            following = see(following, state, now=float(number))
        except StaleSnapshot:
            continue
        if following.in_force is not None:
            editions.append(following.in_force.edition)
    assert editions == sorted(editions)


@given(reads, st.builds(Edition, st.integers(1, 3), st.integers(1, 9)))
def test_nothing_behind_the_fence_is_ever_taken(states, fence):
    """S1, S4: what an earlier life applied is remembered, and may only close."""
    following = Following(fence=fence)
    for state in states:
        if state.edition < fence:
            with pytest.raises(StaleSnapshot):
                see(following, state, now=0.0)
        else:
            following = see(following, state, now=0.0)
            fence = following.fence
    assert following.in_force is None or following.in_force.edition >= fence


def test_a_new_incarnation_opens_only_on_a_publication_that_it_saw_advance():
    """S4: a state that merely lies there may have been put back by someone."""
    following = see(Following(), snapshot(1, 4, publication=10), now=0.0)
    following = see(following, snapshot(1, 4, publication=10), now=1.0)
    following = see(following, snapshot(1, 4, publication=9), now=2.0)
    assert following.in_force is None
    following = see(following, snapshot(1, 4, publication=10), now=3.0)
    assert following.in_force is not None
    assert following.fresh_at == 3.0


def test_under_the_signed_boot_policy_one_signed_state_is_enough():
    following = see(Following(), snapshot(1, 4, publication=10), now=0.0, needs_fresh_boot=False)
    assert following.in_force is not None


def test_a_newer_edition_is_taken_at_once():
    following = see(see(Following(), snapshot(1, 4, 10), now=0.0), snapshot(1, 4, 11), now=1.0)
    following = see(following, snapshot(1, 5, 12), now=1.1)
    assert following.in_force == snapshot(1, 5, 12)
    assert following.fence == Edition(1, 5)


def test_a_new_epoch_outranks_any_version():
    following = see(see(Following(), snapshot(1, 400, 10), now=0.0), snapshot(1, 400, 11), now=1.0)
    following = see(following, snapshot(2, 3, 12), now=2.0)
    assert following.fence == Edition(2, 3)
    with pytest.raises(StaleSnapshot):
        see(following, snapshot(1, 401, 13), now=3.0)


def test_freshness_ends_with_the_lease_unless_a_publication_advances():
    """S9: a state that is read again and again unchanged is no sign of life."""
    following = see(see(Following(), snapshot(1, 4, 10), now=0.0), snapshot(1, 4, 11), now=1.0)
    for now in (10.0, 30.0, 60.9):
        following = see(following, snapshot(1, 4, 11), now=now)
        assert following.is_fresh(now, 60)
    assert not following.is_fresh(61.0, 60)
    assert see(following, snapshot(1, 4, 12), now=62.0).is_fresh(62.0, 60)


def test_who_never_read_anything_is_not_fresh():
    assert not Following().is_fresh(0.0, 60)
    assert Following().fence == NOTHING


def test_a_publication_that_is_higher_only_in_another_servers_copy_opens_nothing():
    """S4: after a failover the next read may meet a copy that was a little less old than the one before."""
    following = see(Following(), snapshot(1, 4, publication=10), now=0.0)
    following = see(lose_touch(following), snapshot(1, 4, publication=12), now=1.0)
    assert following.in_force is None
    following = see(following, snapshot(1, 5, publication=13), now=2.0)
    assert following.in_force is not None
    assert following.in_force.edition == (1, 5)


def test_losing_touch_keeps_what_is_in_force_and_what_is_behind_the_fence():
    """S2, S9."""
    following = see(Following(), snapshot(1, 4, publication=10), now=0.0, needs_fresh_boot=False)
    lost = lose_touch(following)
    assert (lost.in_force, lost.fence, lost.fresh_at) == (following.in_force, following.fence, following.fresh_at)
    assert see(lost, snapshot(1, 5, publication=3), now=1.0).in_force == snapshot(1, 5, publication=3)
