"""Whose processes use a GPU: those of this namespace's workers on this host, or others.

Each worker's process is noted in a folder that the workers of a host share, by its id and the time it started: ids come
again. A process is ours where a worker noted there is among its ancestors, so pool children and what tasks start count.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

INITIAL_PID_NAMESPACE = "pid:[4026531836]"
"""Of a host (PROC_PID_INIT_INO of the kernel): whoever is in it sees every process by the id that a driver tells."""


class Kin:
    """The noted workers of one namespace. `pid` is the worker that this probe belongs to."""

    def __init__(self, folder: Path, pid: int, proc: Path = Path("/proc")) -> None:
        self._folder = folder
        self._proc = proc
        self._own = folder / str(pid)
        self._pid = pid
        self.is_host_wide = _link(proc / "self/ns/pid") == INITIAL_PID_NAMESPACE

    def note(self) -> str | None:
        """Notes the worker; what is wrong with the folder, where it is: then only its own processes are known."""
        started = self._started(self._pid)
        try:
            self._folder.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._folder.mkdir(exist_ok=True, mode=0o700)
            seen = self._folder.lstat()
            # Who may write here says whose memory counts as ours.
            if not stat.S_ISDIR(seen.st_mode) or seen.st_uid not in (os.getuid(), 0):
                return f"{self._folder} belongs to another user: only this worker's own processes are told apart"
            self._own.write_text(f"{started}\n")
        except OSError as error:
            return (
                f"{self._folder} cannot be written ({error.strerror}): only this worker's own processes are told apart"
            )
        return None

    def leave(self) -> None:
        """The worker ends."""
        with suppress(OSError):
            self._own.unlink()

    def workers(self) -> frozenset[int]:
        """The noted workers that run; notes of those that do not are taken away."""
        found = {self._pid}
        with suppress(OSError):
            for note in list(self._folder.iterdir()):
                if not note.name.isdecimal() or note == self._own:
                    continue
                if _first_word(note) == self._started(int(note.name)):
                    found.add(int(note.name))
                else:
                    with suppress(OSError):
                        note.unlink()
        return frozenset(found)

    def is_here(self, pid: int) -> bool:
        """Is there a process of this id, as far as is seen from here?"""
        return (self._proc / str(pid)).exists()

    def ours(self, pids: Iterable[int]) -> frozenset[int]:
        """Those of `pids` that are workers, or descend from one."""
        workers = self.workers()
        return frozenset(pid for pid in pids if self._descends(pid, workers))

    def _descends(self, pid: int, workers: frozenset[int]) -> bool:
        for _ in range(64):
            if pid in workers:
                return True
            words = self._stat(pid)
            if len(words) < 2 or int(words[1]) <= 1:
                return False
            pid = int(words[1])
        return False

    def _started(self, pid: int) -> str | None:
        """In ticks since the boot; None where there is no such process."""
        words = self._stat(pid)
        return words[19] if len(words) > 19 else None

    def _stat(self, pid: int) -> list[str]:
        """What follows the name in /proc/PID/stat: state, parent, …; the name itself may have anything in it."""
        try:
            return (self._proc / str(pid) / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            return []


def _first_word(path: Path) -> str | None:
    try:
        return next(iter(path.read_text(errors="replace")[:64].split()), None)
    except OSError:
        return None


def _link(path: Path) -> str | None:
    try:
        return os.readlink(path)
    except OSError:
        return None
