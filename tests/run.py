"""`make test` and `make test-all`: what computes, what waits, what stands beside others, what measures.

Tests of one process keep a processor busy, and a fleet mostly waits: together on one machine, the first make the second
miss their deadlines. So they run one after the other, each with as many processes as suit it. What failed is named once
more at the end. Exit codes are pytest's: of the first part that did not pass.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
FLEETS = ("tests/fleet", "tests/faults")
BESIDE = ("tests/beside",)
"""Other people's libraries, in environments of their own: only where everything is asked for, or these by name."""
OF_ONE_PROCESS = (
    "tests/house",
    "tests/unit",
    "tests/conformance",
    "tests/integration",
    "tests/simulation",
    "tests/model",
)
PASSED, INTERRUPTED, NOTHING_COLLECTED = 0, 2, 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One call of pytest: `paths` in `processes` test processes, of them those that `marks` lets through.

    `before` is a command that makes ready what they stand on.
    """

    name: str
    paths: tuple[str, ...]
    processes: int
    marks: str
    before: tuple[str, ...] = ()

    def command(self, report: Path, more: Sequence[str]) -> list[str]:
        """The call; `report` gets what came of each test, as JUnit has it."""
        pytest = [sys.executable, "-m", "pytest", "-n", str(self.processes), "--dist=worksteal", "-m", self.marks]
        return [*pytest, f"--junitxml={report}", *more, *self.paths]


def parts(*, everything: bool, paths: Sequence[str], cores: int) -> list[Part]:
    """What to run, in order: of `paths` (none: all), the long tests too where `everything` is asked for."""
    wanted = paths or ["tests"]
    fleets = _of(FLEETS, wanted)
    short = "" if everything else " and not long"
    found = [
        Part(name="one process", paths=_of(OF_ONE_PROCESS, wanted), processes=max(2, cores), marks=f"not alone{short}"),
        # A fleet that is watched takes half of a core or more.
        Part(name="fleets", paths=fleets, processes=max(2, cores * 3 // 2), marks=f"not alone{short}"),
    ]
    if everything or any(_is_within(os.path.normpath(path), folder) for path in paths for folder in BESIDE):
        found.append(
            Part(
                name="beside",
                paths=_of(BESIDE, wanted),
                processes=max(2, cores * 3 // 2),
                marks=f"not alone{short}",
                before=(".ci/beside",),
            )
        )
    if everything:
        found.append(Part(name="measured", paths=fleets, processes=1, marks="alone"))
    return [part for part in found if part.paths]


def _of(folders: Sequence[str], wanted: Sequence[str]) -> tuple[str, ...]:
    """Of what is wanted, what lies in these folders; a folder above them stands for all of them."""
    named = [os.path.normpath(path) for path in wanted]
    inside = [path for path in named if any(_is_within(path, folder) for folder in folders)]
    below = [folder for folder in folders if any(_is_within(folder, path) for path in named)]
    return tuple(dict.fromkeys([*inside, *below]))


def _is_within(path: str, folder: str) -> bool:
    path = path.partition("::")[0]
    return path == folder or path.startswith(folder + os.sep) or folder == "."


def failures(report: Path) -> list[str]:
    """The tests of a report that failed; none where it was not written."""
    if not report.exists():
        return []
    cases = ElementTree.parse(report).iter("testcase")
    bad = [case for case in cases if case.find("failure") is not None or case.find("error") is not None]
    return [f"{case.get('classname')}::{case.get('name')}" for case in bad]


def main(arguments: Sequence[str]) -> int:
    """Run them; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.run", description="Further arguments are pytest's.")
    parser.add_argument("--all", action="store_true", help="the long tests and those that measure too")
    parser.add_argument("--of", action="append", default=[], metavar="PATH", help="these only (any number of times)")
    asked, more = parser.parse_known_args(arguments)
    if not asked.all:
        more = ["--hypothesis-profile=quick", *more]
    # Ctrl-C is for pytest, which clears away what it has started; the children get the default handler back.
    signal.signal(signal.SIGINT, lambda *_: None)
    lines, bad, codes = [], [], []
    with tempfile.TemporaryDirectory(prefix="sluicegate-run-") as directory:
        cores = len(os.sched_getaffinity(0))
        for part in parts(everything=asked.all, paths=asked.of, cores=cores):
            report = Path(directory) / f"{part.name}.xml"
            began = time.monotonic()
            code = _run(part.before) or _run(part.command(report, more))
            lines.append(
                f"{part.name}: {time.monotonic() - began:.0f} s in {part.processes} processes, exit code {code}"
            )
            bad += failures(report)
            # pytest that was signalled again while it cleared away ends by the signal.
            code = INTERRUPTED if code < 0 else code
            codes.append(code)
            if code == INTERRUPTED:
                break
    print(*lines, *(f"FAILED {name}" for name in bad), sep="\n")
    # A part in which nothing was collected is no failure, unless that was all.
    told = [code for code in codes if code != NOTHING_COLLECTED]
    return next((code for code in told if code != PASSED), PASSED if told else NOTHING_COLLECTED)


def _run(command: Sequence[str]) -> int:
    """Its exit code; of no command 0."""
    return subprocess.run(command, cwd=ROOT, check=False).returncode if command else PASSED


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
