"""The newest word of each worker, from two memories: Redis and the database."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from sluicegate.control.fleet.sightings import Remembered
from sluicegate.control.fleet.view import combined
from sluicegate.control.fleet.words import Words
from sluicegate.control.links.state_redis import Heard
from sluicegate.schemas.beats import Beat, WorkerState
from sluicegate.schemas.lives import counting
from sluicegate.schemas.progress import Sighting, view
from sluicegate.schemas.snapshots import NOTHING

T0 = datetime(2026, 1, 31, tzinfo=UTC)
NOW = T0 + timedelta(seconds=10)
W = "celery@w"
LEASE = timedelta(seconds=10)


def sighting(incarnation: str, at_s: int, nodename: str = W) -> Sighting:
    beat = Beat(
        nodename=nodename,
        incarnation=incarnation,
        host="w",
        pool="prefork",
        pid=1,
        seq=1,
        sent_at=T0,
        state=WorkerState.RUNNING,
        applied=NOTHING,
        applied_at=None,
    )
    return Sighting(beat=beat, seen_at=T0 + timedelta(seconds=at_s))


def heard(seen: Sighting, raw: bytes | None = b"") -> Heard:
    return Heard(W, seen.seen_at, seen.beat.encode() if raw == b"" else raw)


def remembered(seen: Sighting, *, is_forgotten: bool = False) -> dict[str, Remembered]:
    return {W: Remembered(sighting=seen, is_forgotten=is_forgotten)}


def counted(heard: list[Heard], memory: dict[str, Remembered]) -> dict[str, Sighting]:
    """The newest of the lives that count, by nodename."""
    words = Words("default")
    known = combined([words.told(one, NOW) for one in heard], memory, NOW)
    found = {name: counting(lives, lease=LEASE, now=NOW) for name, lives in known.items()}
    return {name: lives[0][0].sighting for name, lives in found.items() if lives}


@given(st.integers(0, 9), st.integers(0, 9))
def test_the_newest_word_counts_wherever_it_is(in_redis: int, in_database: int) -> None:
    """A Redis that was put back to an older state does not take a worker's last words back."""
    found = counted([heard(sighting("redis", in_redis))], remembered(sighting("database", in_database)))
    assert found[W].beat.incarnation == ("redis" if in_redis > in_database else "database")


@given(st.integers(0, 9), st.integers(0, 9))
def test_a_forgotten_worker_comes_back_only_by_a_new_beat(in_redis: int, in_database: int) -> None:
    """What was known when it was forgotten does not count any more."""
    memory = remembered(sighting("database", in_database), is_forgotten=True)
    assert (W in counted([heard(sighting("redis", in_redis))], memory)) == (in_redis > in_database)


def test_a_worker_known_to_one_side_alone_counts() -> None:
    """Both after a wiped Redis and before the first fold."""
    assert counted([], remembered(sighting("a", 1)))[W].beat.incarnation == "a"
    assert counted([heard(sighting("a", 1))], {})[W].beat.incarnation == "a"


def test_lost_or_foreign_words_never_make_a_worker_vanish() -> None:
    """Its last legible words count, and grow old; without any it is unknown."""
    for raw in (None, b"\xff", b"{}", sighting("x", 9, "celery@another").beat.encode()):
        entry = heard(sighting("redis", 9), raw)
        assert counted([entry], remembered(sighting("database", 1)))[W] == sighting("database", 1)
        assert counted([entry], {})[W].beat.state is WorkerState.UNKNOWN


def test_a_clock_that_was_set_back_makes_nobody_live_on_and_nobody_deaf() -> None:
    """What is remembered from two hours ahead is no sign of life, and the next beat counts, early as it looks."""
    memory = remembered(sighting("database", 7200))
    (silent,) = counted([], memory).values()
    assert view(silent, desired=NOTHING, lease=LEASE, now=NOW).state is WorkerState.UNKNOWN
    (alive,) = counted([heard(sighting("redis", 9))], memory).values()
    assert alive.beat.incarnation == "redis"
    assert view(alive, desired=NOTHING, lease=LEASE, now=NOW).state is WorkerState.RUNNING


def test_a_beat_from_before_the_clock_was_set_back_does_not_bring_a_forgotten_worker_back() -> None:
    """The bus gives it no time at all, since its own has not come."""
    memory = remembered(sighting("database", 7200), is_forgotten=True)
    never = Heard(W, datetime.fromtimestamp(0, UTC), sighting("redis", 7200).beat.encode())
    assert counted([never], memory) == {}
