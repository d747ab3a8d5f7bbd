"""A disk that is small enough to be filled: memory that a test mounts over a directory."""

from __future__ import annotations

import errno
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

_BLOCK = b"\0" * 65_536


def forbidden() -> str | None:
    """Why nobody may mount anything here; None where we may."""
    with tempfile.TemporaryDirectory(prefix="sluicegate-disk-") as directory:
        try:
            with SmallDisk(Path(directory), size_mb=1):
                return None
        except (OSError, subprocess.CalledProcessError) as error:
            said = error.stderr if isinstance(error, subprocess.CalledProcessError) else error
            return f"no disk may be mounted here: {str(said).strip()}"


class SmallDisk:
    """`size_mb` megabytes over `directory`, with what was in it. A context manager: what it held is gone with it.

    Raises CalledProcessError where the machine does not let us mount.
    """

    def __init__(self, directory: Path, *, size_mb: int) -> None:
        self.directory = directory
        self._size_mb = size_mb
        self._ballast = directory / "ballast"

    def __enter__(self) -> Self:
        with tempfile.TemporaryDirectory(prefix="sluicegate-disk-") as copy:
            _run("cp", "-a", f"{self.directory}/.", copy)
            _run("mount", "-t", "tmpfs", "-o", f"size={self._size_mb}m", "sluicegate-test", str(self.directory))
            # Owner and mode of the directory itself come along.
            _run("cp", "-a", f"{copy}/.", str(self.directory))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _run("umount", "--lazy", str(self.directory))

    def fill(self) -> None:
        """Leave no room for another block."""
        with self._ballast.open("ab", buffering=0) as file:
            try:
                while file.write(_BLOCK):
                    pass
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise

    def free(self) -> None:
        """Give the room back."""
        self._ballast.unlink(missing_ok=True)


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True)
