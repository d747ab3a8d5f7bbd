"""Who is elected, by the database's clock: `decide` alone, with the time passed in."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluicegate.control.process.leader import GRACE, LEASE, LOOK_EVERY_S, decide
from sluicegate.control.store.terms import Term

NOW = datetime(2026, 3, 1, tzinfo=UTC)
ONE, TWO = UUID(int=1), UUID(int=2)
SECOND = timedelta(seconds=1)


def term(number: int, replica: UUID | None, *, left: timedelta) -> Term:
    return Term(number=number, replica=replica, leased_until=NOW + left)


@pytest.mark.parametrize(
    ("present", "mine"),
    [
        (term(0, None, left=-SECOND), term(1, ONE, left=LEASE)),
        (term(4, ONE, left=SECOND), term(4, ONE, left=LEASE)),
        (term(4, TWO, left=SECOND), None),
        (term(4, TWO, left=timedelta()), term(5, ONE, left=LEASE)),
        (term(4, None, left=SECOND), term(5, ONE, left=LEASE)),
        (term(4, ONE, left=-SECOND), term(5, ONE, left=LEASE)),
        (term(4, TWO, left=LEASE), None),
        (term(4, TWO, left=LEASE + SECOND), term(5, ONE, left=LEASE)),
    ],
    ids=[
        "nobody yet",
        "its own is renewed",
        "another leads",
        "another's lease has just run out",
        "given up before it ran out",
        "its own ran out: others may have been elected in thought, so it is another term",
        "another's was renewed this very moment",
        "given by a clock that was set back since",
    ],
)
def test_what_a_replica_makes_of_the_present_term(present: Term, mine: Term | None) -> None:
    assert decide(present, ONE, NOW) == mine


@pytest.mark.parametrize(
    ("present", "mine"),
    [
        (term(4, ONE, left=SECOND), term(4, None, left=timedelta())),
        (term(4, TWO, left=SECOND), None),
        (term(4, None, left=timedelta()), None),
        (term(4, TWO, left=-SECOND), None),
        (term(4, None, left=-GRACE), term(5, ONE, left=LEASE)),
        (term(4, TWO, left=LEASE + SECOND), term(5, ONE, left=LEASE)),
    ],
    ids=[
        "its own is given up",
        "another leads",
        "given up just now: others come first",
        "another's ran out: others come first",
        "nobody came",
        "given by a clock that was set back since",
    ],
)
def test_who_is_not_fit_makes_room_and_leads_only_where_nobody_else_does(present: Term, mine: Term | None) -> None:
    assert decide(present, ONE, NOW, is_fit=False) == mine


def test_a_leader_that_died_is_replaced_within_five_seconds() -> None:
    """Its lease, and the look that comes after it ran out; the loops of the new one turn twice a second."""
    assert LEASE.total_seconds() + LOOK_EVERY_S + 0.5 <= 5
    # Two looks may fail before a lease is lost.
    assert LEASE.total_seconds() >= 3 * LOOK_EVERY_S


@given(
    st.lists(
        st.tuples(st.sampled_from([ONE, TWO]), st.floats(-5, 5), st.booleans()),
        min_size=1,
    )
)
def test_no_term_has_two_leaders_and_terms_only_go_up(looks: list[tuple[UUID, float, bool]]) -> None:
    """Whoever looks, whatever the clock does between two looks, and whoever gives up in between."""
    present, now = term(0, None, left=-SECOND), NOW
    leaders: dict[int, UUID] = {}
    for replica, step_s, gives_up in looks:
        now += timedelta(seconds=step_s)
        mine = decide(present, replica, now)
        if mine is not None:
            assert mine.number >= present.number
            assert leaders.setdefault(mine.number, replica) == replica
            present = mine
        if gives_up and present.replica == replica:
            present = Term(number=present.number, replica=None, leased_until=present.leased_until)
