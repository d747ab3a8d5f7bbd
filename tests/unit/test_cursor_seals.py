"""A cursor that a worker with keys goes on from was sealed by one, for this message; whatever stands there."""

from __future__ import annotations

import json
import logging
from itertools import pairwise
from typing import Any

import fakeredis
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluicegate.schemas.errors import InvalidSetting
from sluicegate.schemas.settings import CURSOR_KEYS, CursorKeys
from sluicegate.workers.cursor_seals import Origin
from sluicegate.workers.cursors import Cursors

OURS, NEXT, THEIRS = ("o" * 32).encode(), ("n" * 32).encode(), ("t" * 32).encode()
STRICT, BOTH = CursorKeys((OURS,)), CursorKeys((OURS,), takes_unsigned=True)
PLAIN, SEALED = "sluicegate:default:cursor:t1", "sluicegate:default:cursor:t1:sealed"
MESSAGE = Origin(task="shop.pack", tag="a-tag")
AGAIN = Origin(task="shop.pack", tag="a-tag", is_redelivered=True)
MOST = 64


def cursors(server: Any, keys: CursorKeys | None = STRICT) -> Cursors:
    return Cursors("default", lambda: fakeredis.FakeRedis(server=server), most_bytes=MOST, kept_s=3600, keys=keys)


@pytest.fixture
def server() -> fakeredis.FakeServer:
    return fakeredis.FakeServer()


@pytest.fixture
def redis(server: fakeredis.FakeServer) -> Any:
    """What somebody with a worker's credential has."""
    return fakeredis.FakeRedis(server=server)


def test_what_was_sealed_is_gone_on_from(server):
    cursors(server).store("t1", {"page": 7}, MESSAGE)
    assert cursors(server).load("t1", MESSAGE) == {"page": 7}


def test_a_cursor_that_somebody_wrote_is_not_gone_on_from_and_the_log_says_so(server, redis, caplog):
    redis.set(PLAIN, b"999")
    redis.set(SEALED, b"999")
    with caplog.at_level(logging.ERROR):
        assert cursors(server).load("t1", MESSAGE) is None
    assert "the task begins anew" in caplog.text


@pytest.mark.parametrize(
    ("task_id", "origin"),
    [
        ("t2", MESSAGE),
        ("t1", Origin(task="shop.refund", tag="a-tag")),
        ("t1", Origin(task="shop.pack", tag="the tag of a task sent anew under this id")),
    ],
    ids=["another id", "another task", "another message"],
)
def test_a_sealed_cursor_of_something_else_is_not_gone_on_from(server, redis, task_id, origin):
    cursors(server).store("t1", 999, MESSAGE)
    redis.set(f"sluicegate:default:cursor:{task_id}:sealed", redis.get(SEALED))
    assert cursors(server).load(task_id, origin) is None


def test_a_retry_goes_on_and_what_was_sealed_after_it_does_not_go_back(server):
    cursors(server).store("t1", 7, MESSAGE)
    retry = Origin(task="shop.pack", tag="another tag", retries=1)
    assert cursors(server).load("t1", retry) == 7
    cursors(server).store("t1", 9, retry)
    assert cursors(server).load("t1", MESSAGE) is None


def test_another_namespace_s_cursor_is_not_gone_on_from(server, redis):
    other = Cursors("other", lambda: redis, most_bytes=MOST, kept_s=3600, keys=STRICT)
    other.store("t1", 999, MESSAGE)
    redis.copy("sluicegate:other:cursor:t1:sealed", SEALED)
    assert cursors(server).load("t1", MESSAGE) is None


def test_what_was_set_aside_of_an_ended_run_is_for_that_message_alone(server):
    ran = cursors(server)
    ran.store("t1", 9, MESSAGE)
    ran.drop("t1")
    assert cursors(server).load("t1", MESSAGE) is None
    assert cursors(server).load("t1", Origin(task="shop.pack", tag="anew", is_redelivered=True)) is None
    assert cursors(server).load("t1", AGAIN) == 9


def test_a_bad_cursor_goes_when_its_task_ends_and_is_not_set_aside(server, redis):
    redis.set(SEALED, b"999")
    ran = cursors(server)
    assert ran.load("t1", MESSAGE) is None
    ran.drop("t1")
    assert redis.keys("*") == []


@pytest.mark.parametrize("keys", [None, STRICT, BOTH], ids=["no keys", "keys", "both"])
@pytest.mark.parametrize("key", [PLAIN, SEALED])
@pytest.mark.parametrize("junk", [b"7" * 5000, b"{", b"9" * 63, b"[" * 60, b"\xff\xfe", b"{}\n7", None])
def test_junk_ends_in_no_error_of_the_task(server, redis, keys, key, junk):
    """`None`: a list is there. A number of 63 digits is one that whoever has no keys may have stored."""
    if junk is None:
        redis.lpush(key, "x")
    else:
        redis.set(key, junk)
    found = cursors(server, keys).load("t1", AGAIN)
    assert found is None or (keys is not STRICT and found == int(b"9" * 63))
    fresh = cursors(server, keys)
    fresh.store("t1", 7, MESSAGE)
    assert cursors(server, keys).load("t1", MESSAGE) == 7


def test_a_key_is_changed_with_nothing_begun_anew(server):
    """OLD; OLD,NEW; NEW,OLD; NEW: two neighbours understand each other."""
    steps = [CursorKeys((OURS,)), CursorKeys((OURS, NEXT)), CursorKeys((NEXT, OURS)), CursorKeys((NEXT,))]
    for before, after in [*pairwise(steps), *pairwise(reversed(steps))]:
        if before.secrets[0] in after.secrets:
            cursors(server, before).store("t1", 7, MESSAGE)
            assert cursors(server, after).load("t1", MESSAGE) == 7
    cursors(server, CursorKeys((THEIRS,))).store("t1", 7, MESSAGE)
    assert cursors(server, steps[1]).load("t1", MESSAGE) is None


class Former:
    """How workers of the version before kept cursors: a key of JSON, whoever wrote it."""

    def __init__(self, redis: Any) -> None:
        self.redis = redis

    def store(self, task_id: str, cursor: Any, origin: Origin) -> None:
        self.redis.set(f"sluicegate:default:cursor:{task_id}", json.dumps(cursor, separators=(",", ":")), ex=3600)

    def load(self, task_id: str, origin: Origin) -> Any:
        raw = self.redis.get(f"sluicegate:default:cursor:{task_id}")
        return None if raw is None else json.loads(raw)


STAGES = ("former", None, BOTH, STRICT)


@pytest.mark.parametrize("stages", [STAGES[i : i + 2] for i in range(3)], ids=["code", "keys", "insist"])
@given(data=st.data())
def test_from_step_to_step_of_an_upgrade_no_worker_begins_anew_or_skips(stages, data):
    """A task stops on one worker and goes on on the next, of either side of a step, as often as it likes.

    The last step is taken when no cursor without a seal is left: here, when a worker of `BOTH` has stored it.
    """
    server = fakeredis.FakeServer()
    redis: Any = fakeredis.FakeRedis(server=server)
    sides = [Former(redis) if keys == "former" else cursors(server, keys) for keys in stages]
    for done, side in enumerate(data.draw(st.lists(st.sampled_from(range(2)), min_size=1, max_size=8))):
        assert (sides[side].load("t1", MESSAGE) or 0) == done
        sides[side].store("t1", done + 1, MESSAGE)


def test_without_the_step_between_what_has_no_seal_is_begun_anew_and_never_skipped(server):
    cursors(server, None).store("t1", 7, MESSAGE)
    assert cursors(server, STRICT).load("t1", MESSAGE) is None


@given(st.data())
def test_whatever_stands_there_a_worker_with_keys_goes_on_from_what_it_sealed_or_from_nothing(data):
    """Generated: what was sealed with bytes changed, cut and added, parts of others' seals, any bytes, any JSON."""
    server = fakeredis.FakeServer()
    redis: Any = fakeredis.FakeRedis(server=server)
    stored: dict[str, Any] = {}
    for task_id in ("t1", "t2"):
        stored[task_id] = data.draw(st.integers(0, 99) | st.text(max_size=4) | st.lists(st.integers(0, 9), max_size=4))
        cursors(server).store(task_id, stored[task_id], MESSAGE)
    first, second = redis.get(SEALED), redis.get(SEALED.replace("t1", "t2"))
    at = data.draw(st.integers(0, len(first)))
    forged = data.draw(
        st.one_of(
            st.binary(max_size=200),
            st.integers().map(lambda number: str(number).encode()),
            st.binary(max_size=8).map(lambda some: first[:at] + some + first[at:]),
            st.binary(max_size=8).map(lambda some: first[:at] + some + first[at + len(some) :]),
            st.just(first[:at]),
            st.just(second),
            st.integers(0, 999).map(lambda number: first.split(b"\n")[0] + b"\n" + str(number).encode()),
            st.dictionaries(st.sampled_from(["v", "tag", "retries", "mac"]), st.none() | st.integers() | st.text()).map(
                lambda head: json.dumps(head).encode() + b"\n999"
            ),
        )
    )
    for key in (PLAIN, SEALED, f"{PLAIN}:ended", f"{SEALED}:ended"):
        redis.set(key, forged)
    found = cursors(server).load("t1", AGAIN)
    assert found is None or (found == stored["t1"] and type(found) is type(stored["t1"]))


@given(st.binary(max_size=3 * MOST))
def test_a_worker_without_keys_reads_any_bytes_without_an_error_and_no_more_than_it_stores(raw):
    server = fakeredis.FakeServer()
    redis: Any = fakeredis.FakeRedis(server=server)
    for key in (PLAIN, SEALED, f"{PLAIN}:ended"):
        redis.set(key, raw)
    found = cursors(server, None).load("t1", AGAIN)
    assert len(json.dumps(found, separators=(",", ":"), ensure_ascii=False)) <= 2 * MOST


@pytest.mark.parametrize(
    ("text", "why"),
    [("short", "fewer than 32"), ("unsigned", "no key"), (f"{'k' * 32},", "fewer than 32"), (" , ", "fewer than 32")],
)
def test_keys_that_are_none_are_refused_and_not_shown(text, why):
    with pytest.raises(InvalidSetting, match=why) as refused:
        CURSOR_KEYS.read({CURSOR_KEYS.name: text})
    assert "short" not in str(refused.value)
    assert "k" * 32 not in str(refused.value)


def test_keys_are_read_as_they_are_written():
    read = CURSOR_KEYS.read({CURSOR_KEYS.name: f"{'o' * 32}, {'n' * 32},unsigned"})
    assert (read.secrets, read.takes_unsigned) == ((OURS, NEXT), True)
    assert "o" * 32 not in repr(read)
