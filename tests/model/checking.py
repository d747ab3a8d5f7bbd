"""Runs Spin on `gate.pml`: the design, and each mutant of it.

    python -m tests.model.checking [--json]

Exit code 0: the design holds and every mutant fails for the reason that it names; 1: not; 2: it could not run.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

MODEL = Path(__file__).parent / "gate.pml"
DEPTH = 200_000
WITHIN_S = 300.0

S1, S2, S4 = "!(shut)", "(applied>=reported)", "fresh"


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One way to compile the model. `fails`: the assertions of which one must be violated; none for the design."""

    name: str
    defines: tuple[str, ...]
    fails: frozenset[str] = frozenset()


VARIANTS = (
    Variant(name="the design, with states put back by others", defines=("RESTORES=0",)),
    Variant(name="the design, with a restored database", defines=("REPLAYS=0",)),
    Variant(name="the design, boot_policy=signed", defines=("RESTORES=0", "BOOT_SIGNED")),
    Variant(name="no fence", defines=("RESTORES=0", "NO_FENCE"), fails=frozenset({S1, S2})),
    Variant(name="open at boot", defines=("RESTORES=0", "OPEN_AT_BOOT"), fails=frozenset({S1, S4})),
    Variant(name="boot from an unsigned push", defines=("RESTORES=0", "UNSIGNED_BOOT"), fails=frozenset({S1, S4})),
    # With states that are put back it holds: no nonce of this life is in one. A restored database is what is left.
    Variant(name="lost persistence", defines=("REPLAYS=0", "NO_MEMORY"), fails=frozenset({S1, S2})),
    Variant(
        name="lost persistence, boot_policy=signed",
        defines=("RESTORES=0", "NO_MEMORY", "BOOT_SIGNED"),
        fails=frozenset({S1, S2}),
    ),
    Variant(name="no lock", defines=("RESTORES=0", "NO_LOCK"), fails=frozenset({S1})),
    Variant(name="no barrier", defines=("RESTORES=0", "NO_BARRIER"), fails=frozenset({S1})),
    Variant(name="boot_policy=advancing", defines=("RESTORES=0", "BOOT_ADVANCING"), fails=frozenset({S4})),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What Spin found. `violated` None: nothing, in all reachable states."""

    violated: str | None
    states: int
    seconds: float


class CannotCheck(RuntimeError):
    """Spin, the compiler or the search itself failed."""


def missing() -> list[str]:
    """The programs that are not here."""
    return [program for program in ("spin", "gcc") if shutil.which(program) is None]


def check(variant: Variant) -> Found:
    """Search all states of one variant; raises CannotCheck where the search was not complete."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="sluicegate-model-") as directory:
        _run(["spin", "-a", *(f"-D{define}" for define in variant.defines), str(MODEL)], directory)
        _run(["gcc", "-O2", "-w", "-DSAFETY", "-DCOLLAPSE", "-DMEMLIM=6000", "-o", "pan", "pan.c"], directory)
        said = _run(["./pan", f"-m{DEPTH}"], directory)
    states = re.search(r"(\S+) states, stored", said)
    errors = re.search(r"errors: (\d+)", said)
    if states is None or errors is None:
        raise CannotCheck(f"{variant.name}: {said[-2000:]}")
    violated = re.search(r"assertion violated\s+(.+) \(at depth", said)
    if violated is None and (int(errors[1]) or "not completed" in said or "too small" in said):
        raise CannotCheck(f"{variant.name}: the search was not complete: {said[-2000:]}")
    return Found(
        violated=violated[1].strip() if violated else None,
        states=int(float(states[1])),
        seconds=time.monotonic() - began,
    )


def is_as_it_should_be(variant: Variant, found: Found) -> bool:
    """Does the design hold, or the mutant fail for the reason that it names?"""
    return found.violated in variant.fails if variant.fails else found.violated is None


def _run(command: list[str], directory: str) -> str:
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=WITHIN_S, check=False)
    if done.returncode != 0:
        raise CannotCheck(f"{' '.join(command)}: {done.stdout[-1000:]}{done.stderr[-1000:]}")
    return done.stdout


def main(arguments: list[str] | None = None) -> int:
    """Run the command; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.model.checking", description="Check the gate's model.")
    parser.add_argument("--json", action="store_true", help="print the results as JSON")
    options = parser.parse_args(arguments)
    if missing():
        print(f"model: not on PATH: {', '.join(missing())} (Debian: apt-get install spin gcc)", file=sys.stderr)
        return 2
    results = []
    for variant in VARIANTS:
        try:
            found = check(variant)
        except (CannotCheck, subprocess.TimeoutExpired) as error:
            print(f"model: {error}", file=sys.stderr)
            return 2
        is_fine = is_as_it_should_be(variant, found)
        results.append(
            {
                "variant": variant.name,
                "expected": "fails" if variant.fails else "holds",
                "violated": found.violated,
                "ok": is_fine,
                "states": found.states,
                "seconds": round(found.seconds, 1),
            }
        )
        if not options.json:
            word = "holds" if found.violated is None else f"violates {found.violated}"
            end = f"{found.states:>9,} states  {found.seconds:5.1f} s"
            print(f"{'ok ' if is_fine else 'BAD'}  {variant.name:44}  {word:38}  {end}", flush=True)
    if options.json:
        print(json.dumps(results, indent=2))
    return 0 if all(result["ok"] for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())
