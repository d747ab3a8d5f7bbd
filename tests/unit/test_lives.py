"""Which lives of one nodename count, and which two are workers of one name (L4)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluicegate.schemas.beats import Beat, RunningTask, WorkerState
from sluicegate.schemas.lives import GONE_LISTED_FOR, Life, clashes, counting, decode, merged, worth_remembering
from sluicegate.schemas.progress import Sighting, WorkerView, measure, view
from sluicegate.schemas.signed_beats import UNSIGNED, Word
from tests.unit.strategies import NOW
from tests.unit.test_progress import DESIRED, LEASE, beat

SECOND = timedelta(seconds=1)


def life(name: str, age_s: float, since_s: float | None = None, **fields: Any) -> Life:
    """Last heard `age_s` seconds ago, first heard `since_s` seconds ago."""
    seen = Sighting(beat=beat(incarnation=name, **fields), seen_at=NOW - age_s * SECOND)
    return Life(sighting=seen, since=None if since_s is None else NOW - since_s * SECOND)


def unsigned(raw: bytes) -> tuple[Beat, Word]:
    return Beat.decode(raw), UNSIGNED


def counted(*lives: Life) -> dict[str, int]:
    return {one.incarnation: namesakes for one, namesakes in counting(lives, lease=LEASE, now=NOW)}


def views(lives: Sequence[Life]) -> list[WorkerView]:
    return [
        view(one.sighting, desired=DESIRED, lease=LEASE, now=NOW, namesakes=namesakes)
        for one, namesakes in counting(lives, lease=LEASE, now=NOW)
    ]


def test_two_lives_that_beat_beside_each_other_are_namesakes() -> None:
    """Each beat after the other had begun: no restart looks like that."""
    assert counted(life("new", 0, 5), life("old", 1)) == {"new": 1, "old": 1}
    assert counted(life("a", 0), life("b", 1), life("c", 1)) == {"a": 2, "b": 2, "c": 2}


def test_two_workers_of_one_name_are_never_drained_though_both_are_quiet() -> None:
    both = views([life("new", 0, 5), life("old", 1)])
    told = measure(both, queued=0, source="broker")
    assert [worker.state for worker in both] == [WorkerState.PAUSED] * 2
    assert (told.is_drained, told.is_quiesced) == (False, False)


def test_an_old_life_counts_until_its_lease_is_over_and_is_replaced_then() -> None:
    """A worker that was killed and restarted at once. Nobody can tell before: but it is no namesake meanwhile."""
    assert counted(life("new", 0, 5), life("old", 6)) == {"new": 0, "old": 0}
    assert counted(life("new", 0, 11), life("old", 12)) == {"new": 0}
    work = RunningTask(id="t1", name="app.train")
    for age_s, is_drained in ((6, False), (12, True)):
        lives = [life("new", 0, age_s - 1), life("old", age_s, running=(work,))]
        assert measure(views(lives), queued=0, source="broker").is_drained is is_drained


def test_an_old_life_that_could_start_nothing_does_not_hold_a_pause_up() -> None:
    """S1 binds it, if it should still be alive."""
    assert measure(views([life("new", 0, 5), life("old", 6)]), queued=0, source="broker").is_drained


def test_a_namesake_that_falls_silent_is_unknown_and_not_replaced() -> None:
    """The other one was there before: it took nobody's place."""
    (alive, silent) = views([life("a", 0), life("b", 60, 90)])
    assert (alive.beat.incarnation, alive.namesakes) == ("a", 0)
    assert (silent.state, silent.namesakes) == (WorkerState.UNKNOWN, 0)
    third = views([life("c", 0, 20), life("a", 1), life("b", 60, 90)])
    assert [worker.beat.incarnation for worker in third] == ["c", "a"]


def test_a_goodbye_beside_another_life_is_told_for_a_while() -> None:
    """Its last words say what became of its tasks."""
    left = life("old", 5, is_goodbye=True)
    assert counted(left, life("new", 6, 20)) == {"old": 0, "new": 0}
    long_ago = life("old", GONE_LISTED_FOR.total_seconds() + 1, is_goodbye=True)
    assert counted(life("new", 1, 90), long_ago) == {"new": 0}
    assert counted(long_ago) == {"old": 0}


@given(st.lists(st.tuples(st.floats(0, 100), st.none() | st.floats(0, 100), st.booleans()), min_size=1, max_size=4))
def test_no_life_within_its_lease_is_left_out_and_somebody_always_counts(
    told: list[tuple[float, float | None, bool]],
) -> None:
    found = [
        life(str(number), age_s, None if before is None else age_s + before, is_goodbye=is_goodbye)
        for number, (age_s, before, is_goodbye) in enumerate(told)
    ]
    lives = merged([], found)
    names = counted(*lives)
    alive = {str(n) for n, (age_s, _, is_goodbye) in enumerate(told) if age_s < 10 and not is_goodbye}
    assert alive <= names.keys()
    assert names
    assert {one.incarnation for one in worth_remembering(lives, lease=LEASE, now=NOW)} >= names.keys()


def test_the_newest_word_of_each_life_counts_and_its_beginning_stays_known() -> None:
    before = [life("a", 9, 30), life("b", 8, 20)]
    (b, a) = merged(before, [life("a", 12), life("b", 1)])
    assert [(one.incarnation, NOW - one.seen_at) for one in (b, a)] == [("b", SECOND), ("a", 9 * SECOND)]
    assert [one.since for one in (b, a)] == [before[1].since, before[0].since]


def test_what_the_workers_script_wrote_is_read_and_what_it_did_not_is_left_out() -> None:
    raw = beat(incarnation="i1").encode().decode()
    at, later = str(NOW.timestamp() - 1), str(NOW.timestamp() + 1)
    told = {
        "i1": {"at": at, "since": at, "beat": raw},
        "i2": {"at": later, "beat": raw},
        "i3": {"at": "x", "beat": raw},
    }
    (found,) = decode(json.dumps(told).encode(), "w1@h", NOW, unsigned)
    assert (found.incarnation, found.seen_at, found.since) == ("i1", NOW - SECOND, NOW - SECOND)
    assert decode(json.dumps(told).encode(), "another@h", NOW, unsigned) == []
    for odd in (None, b"", b"\xff", b"[]", b'{"a": 1}', b'{"a": {"at": 1}}'):
        assert decode(odd, "w1@h", NOW, unsigned) == []


def test_a_life_survives_the_database() -> None:
    for one in (life("a", 3, 9), life("b", 1)):
        assert Life.from_wire(one.to_wire()) == one


@pytest.mark.parametrize(("namesakes", "lines"), [([0], 0), ([1, 1], 1), ([0, 2, 2, 2], 1)])
def test_a_clash_is_said_once(namesakes: list[int], lines: int) -> None:
    told = clashes(("w1@h", count) for count in namesakes)
    assert len(told) == lines
    assert all(line.startswith(f"w1@h is the name of {max(namesakes) + 1} workers") for line in told)
