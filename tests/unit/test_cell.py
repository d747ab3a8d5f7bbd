"""The shared word: packs and unpacks without loss, is closed when made, and is one word for all processes."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluicegate.schemas.modes import Mode
from sluicegate.schemas.snapshots import MAX_EPOCH, MAX_VERSION, NOTHING, Edition
from sluicegate.workers.cell import SLOTS, Cell, pack


def test_a_cell_is_closed_when_it_is_made():
    """S4: whoever forgets to open it has a paused worker, not a leak."""
    cell = Cell()
    assert not cell.is_open
    assert cell.edition == NOTHING


@given(st.sampled_from(Mode), st.integers(0, MAX_EPOCH), st.integers(0, MAX_VERSION), st.booleans(), st.booleans())
def test_what_is_packed_is_what_is_read(mode, epoch, version, is_local, has_scoped):
    cell = Cell()
    word = pack(mode, Edition(epoch, version), is_local=is_local, has_scoped=has_scoped)
    assert 0 <= word < 1 << 64
    cell.store(word)
    assert (cell.mode, cell.edition) == (mode, Edition(epoch, version))
    assert (cell.is_local, cell.has_scoped) == (is_local, has_scoped)
    assert cell.is_open is (mode is Mode.RUN and not is_local)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_reads_the_word_that_the_parent_stores_later():
    cell = Cell()
    to_child, from_parent = os.pipe()
    to_parent, from_child = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.read(to_child, 1)
        cell.note_start(3, "task-a")
        os.write(from_child, b"\1" if cell.is_open else b"\0")
        os._exit(0)
    cell.store(pack(Mode.RUN, Edition(1, 2)))
    os.write(from_parent, b".")
    said = os.read(to_parent, 1)
    os.waitpid(pid, 0)
    for fd in (to_child, from_parent, to_parent, from_child):
        os.close(fd)
    assert said == b"\1"
    assert cell.has_started(3, "task-a")
    assert not cell.has_started(3, "task-b")
    assert not cell.has_started(2, "task-a")


def test_a_slot_that_cannot_be_seen_never_blocks_the_barrier():
    cell = Cell()
    for slot in (-1, SLOTS):
        cell.note_start(slot, "t")
        assert cell.has_started(slot, "t")
