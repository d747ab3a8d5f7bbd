"""The shared word: packs and unpacks without loss, is closed when made, and is one word for all processes."""

from __future__ import annotations

import os
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluicegate.schemas.modes import Mode
from sluicegate.schemas.snapshots import MAX_EPOCH, MAX_VERSION, NOTHING, Edition
from sluicegate.workers.cell import HOLDING, SLOTS, STOPPING, Cell, pack


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
        cell.noting(3)[0]("task-a")
        os.write(from_child, b"\1" if cell.is_open else b"\0")
        os._exit(0)
    cell.store(pack(Mode.RUN, Edition(1, 2)))
    os.write(from_parent, b".")
    said = os.read(to_parent, 1)
    os.waitpid(pid, 0)
    for fd in (to_child, from_parent, to_parent, from_child):
        os.close(fd)
    assert said == b"\1"
    assert cell.slot(3).runs_task("task-a")
    assert not cell.slot(3).runs_task("task-b")
    assert not cell.slot(2).runs_task("task-a")


def test_a_slot_says_which_task_runs_and_how_many_were_begun():
    """A retry has the id of the run before: only while it runs does a slot say that it does."""
    cell = Cell()
    begin, end = cell.noting(0)
    for number in (1, 2, 3):
        assert not cell.slot(0).runs_task("t")
        begin("t")
        assert cell.slot(0).runs_task("t")
        end()
        assert (cell.slot(0).begun, cell.slot(0).runs) == (number, False)
    assert (cell.slot(1).begun, cell.word) == (0, Cell().word)


def test_a_child_beyond_the_slots_writes_nothing():
    cell = Cell()
    for slot in (-1, SLOTS):
        assert not cell.can_see(slot)
        begin, end = cell.noting(slot)
        begin("t")
        end()
    assert cell.word == Cell().word
    assert cell.slot(SLOTS - 1).begun == 0


def test_the_flags_are_those_of_the_word_in_every_state():
    """They are the byte of the word that has all bits of HOLDING and of STOPPING."""
    assert (HOLDING | STOPPING) < 1 << 8
    cell = Cell()
    for mode, is_local, has_scoped in product(Mode, (False, True), (False, True)):
        for edition in (NOTHING, Edition(1, 1), Edition(MAX_EPOCH, MAX_VERSION)):
            cell.store(pack(mode, edition, is_local=is_local, has_scoped=has_scoped))
            assert cell.flags[0] & HOLDING == cell.word & HOLDING
            assert cell.flags[0] & STOPPING == cell.word & STOPPING
