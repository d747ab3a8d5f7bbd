"""What a worker remembers: it can only close, and losing it costs the fence, never the worker."""

from __future__ import annotations

import logging

from sluicegate.schemas.snapshots import NOTHING, Edition
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


def test_a_folder_that_cannot_be_written_is_said_once_and_raises_nothing(tmp_path, caplog):
    (tmp_path / "file").write_text("")
    memory = Memory(tmp_path / "file", "default", "w1@h")
    with caplog.at_level(logging.WARNING):
        memory.save(Edition(1, 1))
        memory.save(Edition(1, 2))
    assert len(caplog.records) == 1
    assert "cannot be written" in caplog.text
