"""S4: a life with a nonce starts on a state that answers it, and on no other; what stands in Redis is bounded."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from sluicegate.schemas.adapters.trusted_keys import TrustedKeys
from sluicegate.schemas.boot_asks import ANSWER_BYTES, MAX_ASKS_BYTES, MOST_ANSWERED, answered, asked, new_nonce
from sluicegate.schemas.snapshots import seal, unseal
from sluicegate.workers.following import Following, see
from tests.unit.test_following import snapshot
from tests.unit.test_snapshots import KEY

MINE = new_nonce()
nonces = st.none() | st.lists(st.builds(new_nonce), max_size=3).map(tuple)


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 50), nonces), min_size=1))
def test_no_order_of_states_that_do_not_answer_opens_a_life(states):
    following = Following()
    for version, publication, answers in states:
        state = replace(snapshot(1, version, publication), answers=answers)
        following = see(following, state, now=0.0, nonce=MINE)
    assert following.in_force is None
    answer = replace(snapshot(1, 9, 51), answers=(new_nonce(), MINE))
    assert see(following, answer, now=1.0, nonce=MINE).in_force == answer


@given(nonces)
def test_answers_are_signed_and_read_as_they_were_written(answers):
    state = replace(snapshot(1, 4, 10), answers=answers)
    assert unseal(seal(state, KEY), TrustedKeys({KEY.kid: KEY.public}), "default") == state


@given(st.binary(max_size=200))
def test_whatever_is_asked_what_is_answered_is_nonces(raw):
    assert all(len(nonce) == len(MINE) and nonce.isascii() for nonce in asked(raw))
    assert asked(raw + b"7" * (MAX_ASKS_BYTES + 1)) == []


def test_a_thousand_workers_that_start_at_once_make_a_state_no_larger_than_it_may_be():
    found = asked(b"".join(b"1700000000" + new_nonce().encode() for _ in range(1000)))
    assert len(found) == 1000
    bare, full = snapshot(1, 4, 10), replace(snapshot(1, 4, 10), answers=answered(found, 1 << 20))
    assert len(set(full.answers or ())) == MOST_ANSWERED
    assert len(seal(full, KEY)) - len(seal(bare, KEY)) <= MOST_ANSWERED * ANSWER_BYTES < 1 << 14
    assert answered(found, 10) == ()
