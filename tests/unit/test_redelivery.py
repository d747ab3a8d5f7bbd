"""A lock that somebody uses, and one that nobody gives back."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sluicegate.workers.celery_inside.redis_redelivery import HELD_TOO_LONG_S, RedeliveryWatch


def made() -> RedeliveryWatch:
    return RedeliveryWatch("unacked_mutex", 300)


def test_a_lock_that_is_not_given_back_is_told_of_once_and_so_is_its_end() -> None:
    watch = made()
    said = [watch.see(b"a", now) for now in (0.0, 3.0, HELD_TOO_LONG_S, 10.0, 100.0)]
    assert [text is not None for text in said] == [False, False, True, False, False]
    assert "unacked_mutex" in str(said[2])
    assert "300 s" in str(said[2])
    assert "goes on" in str(watch.see(None, 101.0))
    assert watch.see(None, 200.0) is None


def test_the_next_one_that_is_left_behind_is_told_of_again() -> None:
    watch = made()
    assert watch.see(b"a", 0.0) is None
    assert watch.see(b"a", 6.0)
    assert watch.see(b"b", 7.0)
    assert watch.see(b"b", 13.0)


@given(st.lists(st.sampled_from([None, b"a", b"b"]), max_size=30))
def test_a_lock_that_is_taken_and_given_back_again_and_again_is_nobodys_fault(holders: list[bytes | None]) -> None:
    """However often one looks while it is in use: only one and the same holder for too long is news."""
    watch = made()
    for number, holder in enumerate(holders):
        fresh = None if holder is None else holder + str(number).encode()
        assert watch.see(fresh, number * HELD_TOO_LONG_S) is None
