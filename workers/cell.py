"""The cell: the state in force as one machine word that the parent and all pool children share.

One aligned 64-bit word, so that a read is never torn: separate fields were seen to disagree. The memory is an
anonymous shared map made before the pool forks; nothing else has to be inherited, and no read is a call.

    bits  0-1   mode (0 run, 1 drain, 2 quiesce)
    bit   2     local: a hold that this worker placed on itself is in force
    bit   3     consult: there are scoped holds; the mode alone does not decide
    bits  4-19  epoch
    bits 20-63  version

Behind it stands one word per pool child: the mark of the task that it started last. A child writes its own
slot only, so no lock is needed.
"""

from __future__ import annotations

import mmap
import zlib

from sluicegate.schemas.modes import Mode
from sluicegate.schemas.snapshots import NOTHING, Edition

_MODE = 0b11
_LOCAL = 1 << 2
_CONSULT = 1 << 3
_EPOCH_SHIFT, _EPOCH_MASK = 4, (1 << 16) - 1
_VERSION_SHIFT = 20

HOLDING = _MODE | _LOCAL
"""Any of these bits set: nothing may start."""

SLOTS = 4095
"""Pool children whose starts are seen; 32 KiB together with the word."""


def pack(mode: Mode, edition: Edition, *, is_local: bool = False, has_scoped: bool = False) -> int:
    """The word for this state. The bounds of epoch and version are those that snapshots are checked for."""
    return (
        int(mode)
        | (_LOCAL if is_local else 0)
        | (_CONSULT if has_scoped else 0)
        | (edition.epoch << _EPOCH_SHIFT)
        | (edition.version << _VERSION_SHIFT)
    )


def mark_of(task_id: str) -> int:
    """What a child writes when it starts `task_id`: never 0, and 1 in 4 billion to be taken for another."""
    return zlib.crc32(task_id.encode()) | (1 << 32)


class Cell:
    """The shared word. It is made closed: whoever forgets to open it has a paused worker, not a leak."""

    def __init__(self) -> None:
        self._map = mmap.mmap(-1, 8 * (1 + SLOTS))
        self._words = memoryview(self._map).cast("Q")
        self._words[0] = pack(Mode.DRAIN, NOTHING, is_local=True)

    @property
    def word(self) -> int:
        """The whole state in one read."""
        return self._words[0]

    def store(self, word: int) -> None:
        """Put a state into force. Only the parent process does, under the gate's lock."""
        self._words[0] = word

    @property
    def is_open(self) -> bool:
        """May something start?"""
        return not self._words[0] & HOLDING

    @property
    def mode(self) -> Mode:
        """The mode in force."""
        return Mode(self._words[0] & _MODE)

    @property
    def is_local(self) -> bool:
        """Is a hold of the worker's own in force?"""
        return bool(self._words[0] & _LOCAL)

    @property
    def has_scoped(self) -> bool:
        """Must a claim be looked up among the scoped holds?"""
        return bool(self._words[0] & _CONSULT)

    @property
    def edition(self) -> Edition:
        """The (epoch, version) in force."""
        word = self._words[0]
        return Edition((word >> _EPOCH_SHIFT) & _EPOCH_MASK, word >> _VERSION_SHIFT)

    def note_start(self, slot: int, task_id: str) -> None:
        """Called in pool child number `slot` when it starts `task_id`. Slots beyond SLOTS are not seen."""
        if 0 <= slot < SLOTS:
            self._words[1 + slot] = mark_of(task_id)

    def has_started(self, slot: int, task_id: str) -> bool:
        """Was `task_id` the last task that child number `slot` started? True for a slot that cannot be seen."""
        return not 0 <= slot < SLOTS or self._words[1 + slot] == mark_of(task_id)
