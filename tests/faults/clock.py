"""A wall clock that is wrong: for whole processes, interpreter and servers alike, and without waiting two hours."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from tests.fleet.checker import Evidence
from tests.fleet.records import microseconds

TWO_HOURS_S = 7200
_SOURCE = Path(__file__).with_name("clock.c")


def missing() -> str | None:
    """Why no clock can be shifted here; None where it can."""
    return None if shutil.which("gcc") else "gcc is not installed here (Debian's package gcc)"


def build(directory: Path) -> Path:
    """The library that shifts the clock of whoever preloads it."""
    library = directory / "clock.so"
    command = ["gcc", "-shared", "-fPIC", "-O2", "-Wall", "-Wextra", "-Werror", "-o", str(library), str(_SOURCE)]
    subprocess.run(command, check=True)
    return library


class WallClock:
    """The clock of the processes that are started with `environ`; right until it is `set`."""

    def __init__(self, library: Path, file: Path) -> None:
        self._file = file
        self.set(0)
        self.environ: Mapping[str, str] = {"LD_PRELOAD": str(library), "FAULT_CLOCK_FILE": str(file)}

    def set(self, ahead_s: int) -> None:
        """From now on it is `ahead_s` seconds ahead (below zero: behind). Readers have the file mapped."""
        self._file.touch()
        file = os.open(self._file, os.O_WRONLY)
        try:
            os.pwrite(file, struct.pack("=q", ahead_s), 0)
        finally:
            os.close(file)

    def server(self, program: str, directory: Path) -> str:
        """A program that is `program` under this clock, for those who start it with no environment of ours."""
        script = directory / "shifted-server"
        settings = " ".join(f"{name}='{value}'" for name, value in self.environ.items())
        script.write_text(f'#!/bin/sh\n{settings} exec {program} "$@"\n')
        script.chmod(0o755)
        return str(script)


def put_right(evidence: Evidence) -> Evidence:
    """The same evidence by this process's clock, where some of it was written down two hours before or after.

    The test takes minutes at most: which of the three a time must be, is plain.
    """
    now_us = microseconds(time.time())
    ways = [hours * TWO_HOURS_S * 1_000_000 for hours in (-1, 0, 1)]

    def right(at_us: int) -> int:
        return min((at_us - way for way in ways), key=lambda moment: abs(now_us - moment))

    return replace(
        evidence,
        records=[replace(record, at_us=right(record.at_us)) for record in evidence.records],
        sightings=[replace(sighting, at_us=right(sighting.at_us)) for sighting in evidence.sightings],
    )
