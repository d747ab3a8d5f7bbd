"""The cell: the state in force as one machine word that the parent and all pool children share.

One aligned 64-bit word, so that a read is never torn: separate fields were seen to disagree. The memory is an
anonymous shared map made before the pool forks; nothing else has to be inherited, and no read is a call.

    bits  0-1   mode (0 run, 1 drain, 2 quiesce)
    bit   2     local: a hold that this worker placed on itself is in force
    bit   3     consult: there are scoped holds; the mode alone does not decide
    bits  4-19  epoch
    bits 20-63  version

Behind it stands one word per pool child: which task it began last, whether that still runs, and how many it has
begun. A child writes its own slot only, so no lock is needed.

    bits  0-31  CRC-32 of the task's id
    bit   32    it runs
    bit   33    it waits at a checkpoint
    bits 34-63  tasks begun by the children that had this slot, modulo 2^30

The last word is 1 once the worker has been told to stop: who waits at a checkpoint may then leave.
"""

from __future__ import annotations

import mmap
import sys
import zlib
from collections.abc import Callable
from dataclasses import dataclass

from sluicegate.schemas.modes import Mode
from sluicegate.schemas.snapshots import NOTHING, Edition

_MODE = 0b11
_LOCAL = 1 << 2
CONSULT = 1 << 3
"""Some tasks fall under holds that others do not: they must be looked up (`workers.scoped_table`)."""
_EPOCH_SHIFT, _EPOCH_MASK = 4, (1 << 16) - 1
_VERSION_SHIFT = 20

HOLDING = _MODE | _LOCAL
"""Any of these bits set: nothing may start."""

STOPPING = int(Mode.QUIESCE) | CONSULT
"""Any of these bits set: a checkpoint must look closer."""

SLOTS = 4094
"""Pool children whose starts are seen; 32 KiB together with the two other words."""

_RUNS = 1 << 32
_MARK = _RUNS - 1
_WAITS = 1 << 33
_BEGUN_SHIFT, _BEGUN_MASK = 34, (1 << 30) - 1
_AT_REST = (1 << 64) - 1 & ~(_RUNS | _WAITS)


def pack(mode: Mode, edition: Edition, *, is_local: bool = False, has_scoped: bool = False) -> int:
    """The word for this state. The bounds of epoch and version are those that snapshots are checked for."""
    return (
        int(mode)
        | (_LOCAL if is_local else 0)
        | (CONSULT if has_scoped else 0)
        | (edition.epoch << _EPOCH_SHIFT)
        | (edition.version << _VERSION_SHIFT)
    )


@dataclass(frozen=True, slots=True)
class Slot:
    """What one pool child has said: the task begun last, whether it runs and waits, and how many were begun."""

    mark: int
    runs: bool
    begun: int
    waits: bool = False

    def runs_task(self, task_id: str) -> bool:
        """Does `task_id` run there now? One in four billion other tasks would be taken for it (`mark_of`)."""
        return self.runs and self.mark == mark_of(task_id)


def mark_of(task_id: str) -> int:
    """What stands for a task's id in a slot; 1 in 4 billion to be taken for another.

    Whoever sends a task chooses its id: it may have lone surrogates, which UTF-8 has no place for.
    """
    try:
        raw = task_id.encode()
    except UnicodeEncodeError:
        raw = task_id.encode("utf-8", "surrogatepass")
    return zlib.crc32(raw)


class Cell:
    """The shared word. It is made closed: whoever forgets to open it has a paused worker, not a leak."""

    def __init__(self) -> None:
        self._map = mmap.mmap(-1, 8 * (2 + SLOTS))
        self.words: memoryview = memoryview(self._map).cast("Q")
        low = 0 if sys.byteorder == "little" else 7
        self.flags: memoryview = memoryview(self._map)[low : low + 1]
        """`flags[0]` has the bits of HOLDING and STOPPING, for who reads them at every checkpoint: no call is made.

        A byte: to read and mask it took half the time of the word, which is no small integer.
        """
        self.words[0] = pack(Mode.DRAIN, NOTHING, is_local=True)

    @property
    def word(self) -> int:
        """The whole state in one read."""
        return self.words[0]

    def store(self, word: int) -> None:
        """Put a state into force. Only the parent process does, under the gate's lock."""
        self.words[0] = word

    @property
    def is_open(self) -> bool:
        """May anything start that no scoped hold is about (`has_scoped`)? One read, from any process."""
        return not self.words[0] & HOLDING

    @property
    def mode(self) -> Mode:
        """The mode in force for every task of this worker; a scoped hold may be stricter for some."""
        return Mode(self.words[0] & _MODE)

    @property
    def is_local(self) -> bool:
        """Is a hold of the worker's own in force?"""
        return bool(self.words[0] & _LOCAL)

    @property
    def has_scoped(self) -> bool:
        """Must a subject be looked up among the scoped holds?"""
        return bool(self.words[0] & CONSULT)

    @property
    def edition(self) -> Edition:
        """The edition in force; acknowledged is what the gate says, and that may come later."""
        word = self.words[0]
        return Edition((word >> _EPOCH_SHIFT) & _EPOCH_MASK, word >> _VERSION_SHIFT)

    def leave(self) -> None:
        """The worker has been told to stop. There is no way back."""
        self.words[1 + SLOTS] = 1

    @property
    def is_leaving(self) -> bool:
        """Has it been told to stop?"""
        return bool(self.words[1 + SLOTS])

    def noting(self, slot: int) -> tuple[Callable[[str], None], Callable[[], None]]:
        """For pool child number `slot`: what to call right before a task's own code, with its id, and when it is over.

        No other process may write this slot meanwhile. Both are called for every task.
        Slots beyond SLOTS are not seen.
        """
        if not self.can_see(slot):
            return lambda task_id: None, lambda: None
        words, at = self.words, 1 + slot

        def begin(task_id: str) -> None:
            begun = ((words[at] >> _BEGUN_SHIFT) + 1) & _BEGUN_MASK
            words[at] = mark_of(task_id) | _RUNS | begun << _BEGUN_SHIFT

        def end() -> None:
            words[at] &= _AT_REST

        return begin, end

    def note_waiting(self, slot: int, is_waiting: bool) -> None:
        """Called in pool child number `slot` when its task stops at a checkpoint, and when it goes on."""
        if self.can_see(slot):
            word = self.words[1 + slot]
            self.words[1 + slot] = word | _WAITS if is_waiting else word & ~_WAITS

    def slot(self, slot: int) -> Slot:
        """What child number `slot` has said; only for slots that can be seen."""
        word = self.words[1 + slot]
        return Slot(mark=word & _MARK, runs=bool(word & _RUNS), begun=word >> _BEGUN_SHIFT, waits=bool(word & _WAITS))

    @staticmethod
    def can_see(slot: int) -> bool:
        """Is there a word for this child?"""
        return 0 <= slot < SLOTS
