"""The holds that only some tasks fall under, as pool children can read them: shared memory beside the cell.

The parent writes before it flips the cell, and the children read after; an edition at both ends tells a reader that
the parent wrote meanwhile. Children keep what they read until the cell's word changes.
"""

from __future__ import annotations

import json
import mmap
import struct
from collections.abc import Iterable

from sluicegate.schemas.holds.hold import Hold
from sluicegate.schemas.modes import Mode
from sluicegate.schemas.scopes import Scope, Subject
from sluicegate.schemas.snapshots import Edition
from sluicegate.workers.cell import Cell

SIZE = 1 << 20
"""As large as a snapshot may be. The memory is taken only when it is written to."""

_HEAD = struct.Struct("<QQ")
_TAIL = struct.Struct("<Q")

Row = tuple[Scope, Mode]


class Table:
    """Made before the pool forks; one writer, any number of readers."""

    def __init__(self, cell: Cell) -> None:
        self._cell = cell
        self._map = mmap.mmap(-1, SIZE)
        self._read_word = -1
        self._rows: tuple[Row, ...] = ()

    def write(self, edition: Edition, holds: Iterable[Hold]) -> None:
        """Put `holds` in the place of those before. Only the parent process does, under the gate's lock."""
        rows = json.dumps([[str(hold.scope), int(hold.mode)] for hold in holds]).encode()
        mark = edition.epoch << 48 | edition.version
        end = _HEAD.size + len(rows)
        if end + _TAIL.size > SIZE:
            # A million bytes of scopes: everything counts as held, which is the safe mistake.
            rows, end = b"null", _HEAD.size + 4
        _TAIL.pack_into(self._map, end, mark)
        self._map[_HEAD.size : end] = rows
        _HEAD.pack_into(self._map, 0, mark, len(rows))

    def mode_for(self, subject: Subject) -> Mode:
        """The strongest mode among these holds that match `subject`; RUN where none does."""
        word = self._cell.word
        if word != self._read_word:
            rows = self._read()
            if rows is None:
                # The parent is writing: the next look tells.
                return Mode.RUN
            self._rows, self._read_word = rows, word
        return max((mode for scope, mode in self._rows if scope.matches(subject)), default=Mode.RUN)

    def _read(self) -> tuple[Row, ...] | None:
        mark, length = _HEAD.unpack_from(self._map, 0)
        end = _HEAD.size + length
        if end + _TAIL.size > SIZE:
            return None
        raw = self._map[_HEAD.size : end]
        (tail,) = _TAIL.unpack_from(self._map, end)
        if tail != mark or _HEAD.unpack_from(self._map, 0) != (mark, length):
            return None
        if not length:
            return ()
        try:
            rows = json.loads(raw)
        except ValueError:
            return None
        if rows is None:
            return ((Scope.parse("global"), max(Mode)),)
        return tuple((Scope.parse(scope), Mode(mode)) for scope, mode in rows)
