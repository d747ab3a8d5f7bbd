"""The follower's judgement of what it reads: refused and counted, handed on once, said once."""

from __future__ import annotations

import logging
from dataclasses import replace
from uuid import uuid4

import pytest

from sluicegate.schemas.adapters.trusted_keys import TrustedKeys
from sluicegate.schemas.holds.hold import Hold, Holds
from sluicegate.schemas.modes import Mode
from sluicegate.schemas.scopes import GLOBAL
from sluicegate.schemas.snapshots import NOTHING, Edition, Snapshot, seal, unseal
from sluicegate.workers.follower import Follower, Pace
from tests.unit.strategies import NOW
from tests.unit.test_snapshots import KEY, OTHER

PACE = Pace(poll_s=1, republish_s=1, stale_after_s=60, is_stale_closed=False, needs_fresh_boot=True)


def snapshot(version: int, publication: int, epoch: int = 1) -> Snapshot:
    return Snapshot(
        namespace="default", epoch=epoch, holds=Holds(version=version), publication=publication, issued_at=NOW
    )


@pytest.fixture
def taken() -> list[Edition]:
    return []


@pytest.fixture
def follower(taken: list[Edition]) -> Follower:
    def no_redis():
        raise AssertionError("nothing is read here")

    return Follower(
        namespace="default",
        keys=TrustedKeys({KEY.kid: KEY.public}),
        pace=PACE,
        connect=no_redis,
        fence=NOTHING,
        on_state=lambda state: taken.append(state.edition),
        on_stale=lambda reason: None,
    )


def test_each_newer_state_is_handed_on_once(follower, taken):
    for version, publication in [(1, 1), (1, 2), (1, 3), (2, 4), (2, 5), (5, 6)]:
        follower.observe(seal(snapshot(version, publication), KEY), now=float(publication))
    assert taken == [(1, 1), (1, 2), (1, 5)]


def test_a_forged_state_is_refused_counted_and_said_once(follower, taken, caplog):
    """S3: a huge version signed by nobody we trust changes nothing, and does not block what comes after it."""
    forged = seal(snapshot(10**12, 99), OTHER)
    with caplog.at_level(logging.ERROR):
        for _ in range(5):
            follower.observe(forged, now=1.0)
    assert follower.refused == {"bad_signature": 5}
    assert len(caplog.records) == 1
    for publication in (1, 2):
        follower.observe(seal(snapshot(3, publication), KEY), now=2.0)
    assert taken == [(1, 3)]


def test_an_old_state_put_back_is_refused(follower, taken):
    """S2: validly signed, and older than what was applied."""
    old = seal(snapshot(1, 1), KEY)
    for version, publication in [(1, 1), (1, 2), (2, 3)]:
        follower.observe(seal(snapshot(version, publication), KEY), now=float(publication))
    follower.observe(old, now=9.0)
    assert taken == [(1, 1), (1, 2)]
    assert follower.refused == {"stale_snapshot": 1}


@pytest.mark.parametrize("junk", [b"", b"{}", b"null", b"\xff\xfe", b"[1,2]", b'{"v":1}', b"[" * 5000])
def test_junk_at_the_key_is_refused_and_never_raises(follower, taken, junk):
    follower.observe(junk, now=1.0)
    assert follower.refused == {"malformed_snapshot": 1}
    assert taken == []


@pytest.mark.parametrize(
    ("hint", "knows"),
    [
        (b'{"epoch":1,"version":2,"beat":9}', True),
        (b'{"epoch":1,"version":3,"beat":9}', False),
        (b'{"epoch":2,"version":2,"beat":9}', False),
        (b"look", False),
        (b"", False),
        (b"[1]", False),
    ],
)
def test_only_a_hint_of_the_very_edition_in_force_is_no_reason_to_read_at_once(follower, hint, knows):
    """The republisher says it every second; whatever else is said, or cannot be read, means "read again"."""
    assert not follower.knows(hint), "nothing is in force yet"
    for publication in (1, 2):
        follower.observe(seal(snapshot(2, publication), KEY), now=float(publication))
    assert follower.knows(hint) is knows


def test_what_is_in_force_is_shown_while_something_older_is_published_and_no_longer(follower, taken):
    """It is the proof by which a restored control plane goes above it."""
    for publication in (1, 2):
        follower.observe(seal(snapshot(5, publication), KEY), now=float(publication))
    assert follower.shown is None
    follower.observe(seal(snapshot(1, 3), KEY), now=3.0)
    shown = str(follower.shown)
    assert unseal(shown.encode(), TrustedKeys({KEY.kid: KEY.public}), "default").edition == Edition(1, 5)
    follower.observe(seal(snapshot(6, 4), KEY), now=4.0)
    assert (follower.shown, taken[-1]) == (None, Edition(1, 6))


def test_another_state_at_the_edition_in_force_is_refused_and_what_is_in_force_is_shown(follower, taken):
    """Two histories of one database came to the same version: the worker keeps to its own, and says so."""
    for publication in (1, 2):
        follower.observe(seal(snapshot(5, publication), KEY), now=float(publication))
    held = Hold(id=uuid4(), scope=GLOBAL, mode=Mode.DRAIN, reason="other", actor="alice", created_at=NOW)
    other = replace(snapshot(5, 3), holds=Holds(version=5, active=frozenset({held})))
    follower.observe(seal(other, KEY), now=3.0)
    assert follower.refused == {"stale_snapshot": 1}
    assert follower.shown is not None
    assert taken == [Edition(1, 5)]
