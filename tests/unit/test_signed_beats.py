"""Whose word a heartbeat is: what its life's key signed, as it was signed, in its namespace, and nothing else."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sluicegate.control.fleet.words import MOST_NAMED, OVER_AFTER_S, OVERTAKEN, Episodes
from sluicegate.schemas.adapters.life_keys import OwnKey, is_signed_by
from sluicegate.schemas.beats import Beat
from sluicegate.schemas.errors import InvalidInput
from sluicegate.schemas.signed_beats import LIFE, UNSIGNED, Forged, Word, key_of, life_of, place_of, read, signed
from sluicegate.workers.own_keys import OwnKeys
from tests.unit.test_hostile_beats import GOOD
from tests.unit.test_memory import said
from tests.unit.test_progress import beats

LIFES, PLACES, OTHERS = OwnKey(), OwnKey(), OwnKey()
NAME = life_of(LIFES.public)
MINE = replace(GOOD, incarnation=NAME)
PLACE = place_of("n", MINE.nodename, PLACES.public, PLACES.sign, NAME)
RAW = signed(MINE, "n", LIFES.sign, PLACE)


def reads(raw: bytes, namespace: str = "n") -> tuple[Beat, Word]:
    return read(raw, namespace, is_signed_by)


@given(beats)
def test_a_signed_beat_says_what_it_said_and_whose_word_it_is(beat: Beat) -> None:
    """A control plane of the version before reads it too."""
    mine = replace(beat, incarnation=NAME)
    place = place_of("n", beat.nodename, PLACES.public, PLACES.sign, NAME)
    raw = signed(mine, "n", LIFES.sign, place)
    assert reads(raw) == (mine, Word(is_signed=True, place=place["key"]))
    assert reads(signed(mine, "n", LIFES.sign)) == (mine, Word(is_signed=True))
    assert Beat.decode(raw) == mine


@given(beats)
def test_a_worker_of_the_version_before_is_heard_as_unsigned(beat: Beat) -> None:
    assert reads(beat.encode()) == (beat, UNSIGNED)


@st.composite
def changed(draw: st.DrawFn) -> bytes:
    """A signed beat with some of its bytes changed, cut, doubled or moved."""
    raw = bytearray(RAW)
    for _ in range(draw(st.integers(1, 3))):
        at, until = draw(st.integers(0, len(raw))), draw(st.integers(0, 40))
        new = draw(st.binary(max_size=3) | st.sampled_from([b'"', b"}", b',"seq":9', RAW[-98:], RAW[at : at + 9]]))
        raw[at : at + until] = new
    return bytes(raw)


@given(changed())
@example(RAW + b" ")
@example(RAW[:-1] + b',"running":[]}')
@example(b'{"running":[],' + RAW[1:])
@example(MINE.encode())
@example(MINE.encode()[:-1] + b',"sig":""}')
@example(RAW.replace(b'"seq":3', b'"seq":4'))
def test_nothing_that_was_changed_is_its_word(raw: bytes) -> None:
    """Whatever is done to it: refused, or another's, never that life's."""
    if raw == RAW:
        return
    try:
        beat, word = reads(raw)
    except InvalidInput:
        return
    assert beat.incarnation != NAME
    assert word == UNSIGNED


def test_nobody_elses_key_and_no_other_namespace_will_do() -> None:
    for forged in (
        signed(MINE, "n", OTHERS.sign, PLACE),
        signed(MINE, "another", LIFES.sign, PLACE),
        signed(replace(MINE, incarnation=life_of(OTHERS.public)), "n", LIFES.sign),
    ):
        with pytest.raises(Forged):
            reads(forged)


def test_a_place_vouches_for_the_lives_that_began_there_and_for_no_other() -> None:
    """Its word is copied from the true worker's beat; or it is said without."""
    stranger = replace(MINE, incarnation=life_of(OTHERS.public))
    own = place_of("n", stranger.nodename, OTHERS.public, OTHERS.sign, stranger.incarnation)
    for copied in (PLACE, {**own, "key": PLACE["key"]}):
        with pytest.raises(Forged):
            reads(signed(stranger, "n", OTHERS.sign, copied))
    for none in ({"key": "", "sig": ""}, {}, {"sig": own["sig"], "key": own["key"]}):
        assert reads(signed(stranger, "n", OTHERS.sign, none)) == (stranger, Word(is_signed=True))
    assert reads(signed(stranger, "n", OTHERS.sign, own))[1].place == own["key"] != PLACE["key"]
    elsewhere = replace(MINE, nodename="celery@other")
    with pytest.raises(Forged):
        reads(signed(elsewhere, "n", LIFES.sign, PLACE))


@given(st.text(max_size=60) | st.binary(min_size=32, max_size=32).map(life_of))
@example("A" * 43)
@example(NAME.removeprefix(LIFE) + "=")
@example("\N{SNOWMAN}" * 43)
def test_a_life_has_one_name(text: str) -> None:
    """Of several spellings of a key one counts."""
    name = text if text.startswith(LIFE) else LIFE + text
    try:
        key = key_of(name)
    except Forged:
        return
    assert key is not None
    assert life_of(key) == name


def test_the_next_life_of_a_place_shows_that_it_is(tmp_path: Path) -> None:
    """Each has a name of its own, and the key of the place is for its owner alone."""
    one, next_one = OwnKeys(tmp_path, "n", MINE.nodename), OwnKeys(tmp_path, "n", MINE.nodename)
    words = [reads(keys.spell(replace(MINE, incarnation=keys.incarnation))) for keys in (one, next_one)]
    assert words[0][0].incarnation != words[1][0].incarnation
    assert words[0][1] == words[1][1] != Word(is_signed=True)
    assert one.path.stat().st_mode & 0o777 == 0o600
    elsewhere = OwnKeys(tmp_path / "other", "n", MINE.nodename)
    assert reads(elsewhere.spell(replace(MINE, incarnation=elsewhere.incarnation)))[1] != words[0][1]


@given(st.binary(max_size=150))
@example(b"")
def test_no_junk_in_the_place_of_a_key_stops_a_worker(junk: bytes) -> None:
    """It signs all the same, and says what cannot be known of it."""
    with TemporaryDirectory() as folder, said(logging.getLogger("sluicegate.workers.own_keys")) as lines:
        path = OwnKeys(Path(folder), "n", MINE.nodename).path
        path.write_bytes(junk)
        keys = OwnKeys(Path(folder), "n", MINE.nodename)
        word = reads(keys.spell(replace(MINE, incarnation=keys.incarnation)))[1]
        assert word.is_signed
        assert (word.place is None) == bool(lines)


def test_a_folder_that_cannot_be_written_costs_the_place_alone(tmp_path: Path) -> None:
    (tmp_path / "workers").write_text("")
    keys = OwnKeys(tmp_path, "n", MINE.nodename)
    assert reads(keys.spell(replace(MINE, incarnation=keys.incarnation)))[1] == Word(is_signed=True)


def test_an_episode_is_told_once_and_again_when_it_was_over() -> None:
    episodes = Episodes()
    assert episodes.note({"a": "why"}, 0.0) is not None
    assert [episodes.note({"a": "why"}, at) for at in range(2, 200, 2)] == [None] * 99
    again = 200 + OVER_AFTER_S
    assert episodes.note({}, again) is None
    assert episodes.note({"a": "why"}, again + 2) is not None


def test_who_comes_later_is_told_too_and_a_flood_is_one_event() -> None:
    """Of many the number is told, and some by name."""
    episodes = Episodes()
    episodes.note({"a": "why"}, 0.0)
    flood = {f"w{n}": "why" for n in range(500)}
    assert episodes.note(flood, 2.0) is None
    told = episodes.note(flood, OVER_AFTER_S)
    assert told is not None
    assert (told.count, len(told.why)) == (500, MOST_NAMED)


def test_one_look_alone_is_no_proof_that_somebody_put_a_beat_back() -> None:
    """A Redis that fails over may have lost the last one."""
    episodes = Episodes()
    assert episodes.note({"a": OVERTAKEN}, 0.0) is None
    assert episodes.note({}, 2.0) is None
    assert episodes.note({"a": OVERTAKEN}, 4.0) is None
    assert episodes.note({"a": OVERTAKEN}, 6.0) is not None
