"""Do the tests notice? Small faults, chosen by a seed, are put into a copy of the tree one at a time, and tests run.

    python -m tests.mutation --seed 9 --count 60          all of `make test`, stage by stage, until one stage fails
    python -m tests.mutation --seed 9 --list              only say which faults those are
    python -m tests.mutation --seed 9 --only 4,17         these of them
    python -m tests.mutation --until integration          no fleets: quicker, and what is not caught may still be

Exit 0 where at least `--least` of ten are caught (nine, unless said otherwise), 3 where not.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.mutation.faults import Fault, faults_in

ROOT = Path(__file__).parents[2]
ROOMS = ("workers", "control", "schemas")
STAGES: dict[str, tuple[list[str], float]] = {
    "unit": (["-n", "2", "tests/unit"], 300.0),
    "integration": (["-n", "2", "-m", "not long", "tests/conformance", "tests/integration"], 900.0),
    "fleet": (["-n", "4", "-m", "not long", "tests/fleet", "tests/faults"], 1800.0),
}

_NOT_OF_THE_TESTS = (4, 5)
"""pytest's exit codes for bad usage and for no test at all: no fault was caught then."""


def main() -> int:
    """Runs what the arguments say; the exit code."""
    args = _arguments()
    chosen = choose(args.seed, args.count)
    numbers = [int(word) for word in args.only.split(",")] if args.only else list(range(1, len(chosen) + 1))
    if args.list:
        for number in numbers:
            print(f"{number:3} {chosen[number - 1]}")
        return 0
    survivors = []
    for number in numbers:
        fault = chosen[number - 1]
        print(f"{number:3} {fault}", flush=True)
        began = time.monotonic()
        caught_by = _caught_by(fault, args.until)
        print(f"      {caught_by or 'NOT CAUGHT'} ({time.monotonic() - began:.0f} s)", flush=True)
        if caught_by is None:
            survivors.append(f"{number:3} {fault}")
    print(f"caught {len(numbers) - len(survivors)} of {len(numbers)} (seed {args.seed}, until {args.until})")
    for survivor in survivors:
        print(f"not caught: {survivor}")
    return 0 if len(survivors) * 10 <= len(numbers) * (10 - args.least) else 3


def choose(seed: int, count: int) -> list[Fault]:
    """`count` faults, no two in one function's line: each room in proportion to the places it has."""
    places = [
        fault
        for room in ROOMS
        for path in sorted((ROOT / room).rglob("*.py"))
        for fault in faults_in(str(path.relative_to(ROOT)), path.read_text())
    ]
    random.Random(seed).shuffle(places)
    chosen: dict[tuple[str, int], Fault] = {}
    for fault in places:
        chosen.setdefault((fault.path, fault.line), fault)
        if len(chosen) == count:
            break
    return sorted(chosen.values(), key=lambda fault: (fault.path, fault.line))


def _caught_by(fault: Fault, until: str) -> str | None:
    """The first stage that fails, and the first test that failed in it; None where all pass."""
    with _copy_with(fault) as tree:
        for stage, (selection, within_s) in STAGES.items():
            if (failure := _failure(tree, selection, within_s)) is not None:
                return f"{stage}: {failure}"
            if stage == until:
                break
    return None


@contextmanager
def _copy_with(fault: Fault) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="sluicegate-mutation-") as place:
        tree = Path(place)
        # Servers run as another user must be able to come through.
        tree.chmod(0o755)
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=ROOT, check=True, capture_output=True, text=True,
        )  # fmt: skip
        for name in filter(None, listed.stdout.split("\0")):
            if (ROOT / name).exists() or (ROOT / name).is_symlink():
                (tree / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, tree / name, follow_symlinks=False)
        path = tree / fault.path
        path.write_text(fault.put_into(path.read_text()))
        yield tree


def _failure(tree: Path, selection: list[str], within_s: float) -> str | None:
    # The copy stands before the editable install on the path, in every process that the tests start.
    environ = os.environ | {"PYTHONPATH": f"{tree / 'src'}{os.pathsep}{tree}", "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-o", "cache_dir=.pytest_cache", "--no-header", *selection]
    try:
        done = subprocess.run(command, cwd=tree, env=environ, capture_output=True, text=True, timeout=within_s)
    except subprocess.TimeoutExpired:
        return f"no end within {within_s:g} s"
    if done.returncode == 0:
        return None
    if done.returncode in _NOT_OF_THE_TESTS:
        raise SystemExit(f"pytest itself failed (exit {done.returncode}): {done.stdout}{done.stderr}")
    lines = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    return lines[0] if lines else f"exit {done.returncode}: {(done.stdout + done.stderr).strip()[-200:]}"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.mutation", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seed", type=int, default=9)
    parser.add_argument("--count", type=int, default=60, help="how many faults")
    parser.add_argument("--only", default="", help="numbers of the list, with commas between them")
    parser.add_argument("--until", choices=tuple(STAGES), default="fleet", help="the last stage to run")
    parser.add_argument("--least", type=int, default=9, help="of ten faults, how many must be caught")
    parser.add_argument("--list", action="store_true", help="say which, and run nothing")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
