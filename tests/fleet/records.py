"""What tasks write about themselves: one line an event, tab-separated, appended with one write.

    EVENT  AT_US  TASK_ID  SEQ  PID  NODENAME  NOTE

`AT_US` is the wall clock of the task's own process in whole microseconds, cut and not rounded, as the
workers' `appliedAt` is: two times can then be compared with no slack. `SEQ` is the number the sender gave.
A single write to a file opened for appending is never torn, whoever else writes and whoever is killed.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path


class Event(StrEnum):
    """What a task says of itself."""

    START = "start"
    """Its code began: the time is the first thing it took."""
    END = "end"
    """Its code is done."""
    RETRY = "retry"
    """Its code asked to be run once more; this run is over."""
    YIELD = "yield"
    """It stopped at a checkpoint and gave its slot back; this run is over, and another is to come."""


RUNS_AGAIN = frozenset({Event.RETRY, Event.YIELD})
"""What ends a run after which another start is no duplicate."""


class MalformedRecord(ValueError):
    """A line that no task of ours writes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One line. `note` is what the task found, such as a digest; it has no tab and no newline."""

    event: Event
    at_us: int
    task_id: str
    seq: int
    pid: int
    nodename: str
    note: str = ""

    def to_line(self) -> bytes:
        """The line, newline included."""
        fields = (self.event, self.at_us, self.task_id, self.seq, self.pid, self.nodename, self.note)
        return ("\t".join(str(field) for field in fields) + "\n").encode()

    @classmethod
    def from_line(cls, line: str) -> Record:
        """The inverse of `to_line`; raises MalformedRecord."""
        try:
            event, at_us, task_id, seq, pid, nodename, note = line.rstrip("\n").split("\t")
            return cls(
                event=Event(event),
                at_us=int(at_us),
                task_id=task_id,
                seq=int(seq),
                pid=int(pid),
                nodename=nodename,
                note=note,
            )
        except ValueError as error:
            raise MalformedRecord(f"{line!r}: {error}") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemDone:
    """One item that a task of many has done: its number among them, when, and in which process."""

    seq: int
    item: int
    at_us: int
    pid: int

    def to_line(self) -> bytes:
        """The line, newline included."""
        return f"{self.seq}\t{self.item}\t{self.at_us}\t{self.pid}\n".encode()

    @classmethod
    def from_line(cls, line: str) -> ItemDone:
        """The inverse of `to_line`."""
        seq, item, at_us, pid = map(int, line.split("\t"))
        return cls(seq=seq, item=item, at_us=at_us, pid=pid)


def items_path(records: str) -> str:
    """Where the items are written whose tasks' records are in `records`."""
    return records if records == os.devnull else f"{records}.items"


def cursors_path(records: str) -> str:
    """Where it is written which cursors were stored: as an item, whose number is the cursor."""
    return records if records == os.devnull else f"{records}.cursors"


def read_items(records: Path) -> list[ItemDone]:
    """Every item done so far, in the order in which they were."""
    return _read_items(Path(items_path(str(records))))


def read_cursors(records: Path) -> list[ItemDone]:
    """Every cursor stored so far, each written down once the store had answered."""
    return _read_items(Path(cursors_path(str(records))))


def _read_items(path: Path) -> list[ItemDone]:
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [ItemDone.from_line(line) for line in lines if line.endswith("\n")]


def microseconds(seconds: float) -> int:
    """A `time.time()` in whole microseconds, cut."""
    return int(seconds * 1_000_000)


class Writer:
    """Appends records to `path` from any number of processes; each opens the file for itself."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._pid = 0
        self._file = -1

    def write(self, record: Record | ItemDone) -> None:
        """Append one line."""
        if self._pid != os.getpid():
            self._file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
            self._pid = os.getpid()
        os.write(self._file, record.to_line())


class Reader:
    """Reads what was appended since the last look, so that a long run can be followed cheaply."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.records: list[Record] = []
        self._offset = 0

    def forget(self) -> None:
        """Start over with what is written from now on."""
        self.read()
        self.records.clear()

    def read(self) -> list[Record]:
        """All records so far, in the order in which they were written."""
        if self.path.exists():
            with self.path.open("rb") as file:
                file.seek(self._offset)
                for line in file:
                    if not line.endswith(b"\n"):
                        break
                    self.records.append(Record.from_line(line.decode()))
                    self._offset += len(line)
        return self.records
