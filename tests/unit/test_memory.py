"""What a worker remembers: it can only close, and losing it costs the fence, never the worker."""

from __future__ import annotations

import json
import logging
import os
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import example, given
from hypothesis import strategies as st

from sluicegate.schemas.snapshots import MAX_EPOCH, MAX_VERSION, NOTHING, Edition
from sluicegate.workers.memory import Memory


def test_what_was_saved_is_remembered_by_the_next_life(tmp_path):
    Memory(tmp_path, "default", "w1@h").save(Edition(2, 7))
    assert Memory(tmp_path, "default", "w1@h").load() == Edition(2, 7)
    assert Memory(tmp_path, "default", "w2@h").load() == NOTHING
    assert Memory(tmp_path, "other", "w1@h").load() == NOTHING


def test_a_life_that_has_applied_nothing_yet_does_not_forget_what_the_one_before_applied(tmp_path):
    """S1, S2: the first heartbeat comes before the first state, and a second crash may come before that too."""
    Memory(tmp_path, "default", "w1@h").save(Edition(2, 7))
    second = Memory(tmp_path, "default", "w1@h")
    second.load()
    for older in (NOTHING, Edition(1, 9), Edition(2, 6)):
        second.save(older)
    assert Memory(tmp_path, "default", "w1@h").load() == Edition(2, 7)
    second.save(Edition(3, 1))
    assert Memory(tmp_path, "default", "w1@h").load() == Edition(3, 1)


def test_no_nodename_leaves_the_folder(tmp_path):
    memory = Memory(tmp_path / "state", "default", "../../../etc/w@h")
    memory.save(Edition(1, 1))
    assert memory.path.parent == tmp_path / "state" / "workers"
    assert memory.path.exists()


def test_a_file_that_cannot_be_read_is_said_and_counts_as_nothing(tmp_path, caplog):
    memory = Memory(tmp_path, "default", "w1@h")
    memory.save(Edition(2, 7))
    for junk in ("", "{", "[]", '{"epoch": 1}', '{"epoch": "x", "version": 1}'):
        memory.path.write_text(junk)
        caplog.clear()
        assert Memory(tmp_path, "default", "w1@h").load() == NOTHING
        assert "cannot be read" in caplog.text


JUNK = st.one_of(
    st.binary(max_size=200),
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
        lambda inner: (
            st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["epoch", "version"]), inner, max_size=2)
        ),
    ).map(lambda value: json.dumps(value).encode()),
)


@given(JUNK)
@example(b'{"epoch": 1e999, "version": 1}')
@example(b"[" * 900)
@example(b'{"epoch": ' * 90 + b"1" + b"}" * 90)
@example(b'{"epoch": 1, "version": ' + b"9" * 60 + b"}")
@example(b'{"epoch": -1, "version": 1}')
@example(b'{"epoch": true, "version": 1}')
@example(b'{"epoch": 1.5, "version": 1}')
@example(b" " * 100_000 + b'{"epoch": 1, "version": 1}')
def test_no_junk_stops_a_worker_or_makes_a_fence_that_nothing_can_pass(junk):
    """It starts, and the log names the file."""
    with TemporaryDirectory() as folder, said(logging.getLogger("sluicegate.workers.memory")) as lines:
        memory = Memory(Path(folder), "default", "w1@h")
        memory.path.parent.mkdir()
        memory.path.write_bytes(junk)
        found = memory.load()
        assert Edition(0, 0) <= found <= Edition(MAX_EPOCH, MAX_VERSION)
        if found == NOTHING and not is_nothing(junk):
            assert str(memory.path) in lines[0]


def is_nothing(junk):
    """Does it say 0.0? That is what a worker may remember that never applied anything."""
    try:
        return json.loads(junk) == {"epoch": 0, "version": 0}
    except (ValueError, RecursionError):
        return False


@contextmanager
def said(logger):
    """The lines that `logger` says in the block."""
    lines = []

    class Listener(logging.Handler):
        def emit(self, record):
            lines.append(record.getMessage())

    handler = Listener()
    logger.addHandler(handler)
    try:
        yield lines
    finally:
        logger.removeHandler(handler)


def test_what_is_no_file_is_not_waited_for(tmp_path, caplog):
    """A pipe that nobody writes to, and a folder."""
    memory = Memory(tmp_path, "default", "w1@h")
    memory.path.parent.mkdir()
    os.mkfifo(memory.path)
    assert memory.load() == NOTHING
    memory.path.unlink()
    memory.path.mkdir()
    assert memory.load() == NOTHING
    assert caplog.text.count(f"{memory.path} cannot be read") == 2


def test_a_folder_that_cannot_be_written_is_said_once_and_raises_nothing(tmp_path, caplog):
    (tmp_path / "file").write_text("")
    memory = Memory(tmp_path / "file", "default", "w1@h")
    with caplog.at_level(logging.WARNING):
        memory.save(Edition(1, 1))
        memory.save(Edition(1, 2))
    assert len(caplog.records) == 1
    assert "cannot be written" in caplog.text
