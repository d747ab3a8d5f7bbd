"""Celery's own canvas and task integration tests, on plain Celery and with the plugin: nothing may differ.

    python -m tests.celery_suite [--pauses SECONDS] [--json] [arguments for pytest]

Fetches the source distribution of the installed Celery through whatever registry pip is set up for, into a temporary
folder, and runs `t/integration/test_canvas.py` and `test_tasks.py` of it against an embedded Valkey: once as they are,
once with `sluicegate.install` on their app, and with `--pauses` the canvas tests once more while an operator pauses and
resumes. A test that passes on plain Celery and not here gets three more tries, and the table says which needed one.
Exit code 0: every test that passes on plain Celery passes with the plugin; 1: not; 2: it could not run.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from sluicegate.control.process.stack import Stack
from sluicegate.schemas import settings
from sluicegate.schemas.errors import SluicegateError
from tests.celery_suite.gate import PAUSES_S, REPORT

ROOT = Path(__file__).resolve().parents[2]
CANVAS = "t/integration/test_canvas.py"
FILES = (CANVAS, "t/integration/test_tasks.py")
NEEDS = ("pytest-rerunfailures", "pytest-subtests", "pytest-order", "pytest-click", "freezegun")
TRIES = 3
A_TEST_S = 300
"""No test takes as long, unless it hangs."""

Outcomes = dict[str, str]


class CannotRun(RuntimeError):
    """The tests could not be had or did not run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One way to run them. `pauses_s`: how often an operator pauses meanwhile; 0: never."""

    title: str
    files: Sequence[str] = FILES
    plugin: bool = True
    pauses_s: float = 0.0


@dataclass(slots=True, kw_only=True)
class Result:
    """What came of a variant. `again`: passed only when tried once more; `differs`: in no try."""

    outcomes: Outcomes
    seconds: float
    pauses: int = 0
    again: list[str] = field(default_factory=list)
    differs: list[str] = field(default_factory=list)

    def facts(self) -> dict[str, Any]:
        """What `--json` prints."""
        return {
            "outcomes": dict(Counter(self.outcomes.values())),
            "pauses": self.pauses,
            "passedOnlyAgain": self.again,
            "differs": self.differs,
            "seconds": round(self.seconds),
        }


def fetch(directory: Path) -> Path:
    """Celery's `t`, alone in a folder; and beside that, in `site`, what it needs and we have not."""
    pip = [sys.executable, "-m", "pip"]
    asked = f"celery=={version('celery')}"
    _run([*pip, "download", "--quiet", "--no-deps", "--no-binary", ":all:", "--dest", str(directory), asked])
    _run([*pip, "install", "--quiet", "--no-deps", "--target", str(directory / "site"), *NEEDS])
    (archive,) = directory.glob("celery-*.tar.gz")
    with tarfile.open(archive) as packed:
        packed.extractall(directory, filter="data")
    (sources,) = (path for path in directory.glob("celery-*") if path.is_dir())
    if not all((sources / name).exists() for name in FILES):
        raise CannotRun(f"{archive.name} has no integration tests")
    # `celery` beside it would win over the installed one.
    (directory / "tests-only").mkdir()
    (sources / "t").rename(directory / "tests-only" / "t")
    return directory / "tests-only"


def run(sources: Path, stack: Stack, variant: Variant, more: Sequence[str]) -> tuple[Outcomes, int]:
    """The outcome of each test (`passed`, `failed` or `skipped`), and how many pauses were acknowledged meanwhile."""
    report, operated = sources.parent / "report.xml", sources.parent / "operated"
    for path in (report, operated):
        path.unlink(missing_ok=True)
    command = [sys.executable, "-m", "pytest", "-q", "-W", "ignore", "-o", "python_classes=test_*"]
    command += ["-p", "no:cacheprovider", "-p", "celery.contrib.pytest"]
    if variant.plugin:
        command += ["-p", "tests.celery_suite.gate"]
    # Some errors of these tests are nested too deep for pytest's own tracebacks: it ended with an error of its own.
    command += ["--tb=native", f"--timeout={A_TEST_S}", f"--junitxml={report}", *variant.files, *more]
    environ = {**_environ(sources, stack), PAUSES_S: str(variant.pauses_s), REPORT: str(operated)}
    done = subprocess.run(command, cwd=sources, env=environ, stdout=sys.stderr, check=False)
    if done.returncode not in (0, 1) or not report.exists():
        raise CannotRun(f"{variant.title}: pytest ended with {done.returncode}")
    pauses = int(operated.read_text()) if operated.exists() else 0
    return _outcomes(report), pauses


def _environ(sources: Path, stack: Stack) -> Mapping[str, str]:
    place = urlsplit(stack.environ[settings.BROKER_URL.name])
    url = f"redis://{place.hostname}:{place.port}"
    return {
        **os.environ,
        **stack.environ,
        "TEST_BROKER": f"{url}/1",
        "TEST_BACKEND": f"{url}/2",
        "REDIS_HOST": str(place.hostname),
        "REDIS_PORT": str(place.port),
        # Their `t`, our tests and the project; Celery itself is the installed one.
        "PYTHONPATH": os.pathsep.join((str(sources), str(ROOT), str(sources.parent / "site"))),
    }


def _outcomes(report: Path) -> Outcomes:
    found: Outcomes = {}
    for case in ElementTree.parse(report).getroot().iter("testcase"):
        name = f"{str(case.get('classname')).removeprefix('t.integration.')}::{case.get('name')}"
        kinds = {child.tag for child in case}
        outcome = "failed" if kinds & {"failure", "error"} else "skipped" if "skipped" in kinds else "passed"
        # A test and an error in its teardown are two entries of one name, and so are its subtests.
        found[name] = "failed" if found.get(name) == "failed" else outcome
    return found


def differing(plain: Outcomes, ours: Outcomes, files: Sequence[str] = FILES) -> list[str]:
    """The tests of these files that pass on plain Celery and not with the plugin."""
    modules = {Path(file).stem for file in files}
    asked = {name: outcome for name, outcome in plain.items() if name.partition(".")[0] in modules}
    return sorted(name for name, outcome in asked.items() if outcome == "passed" and ours.get(name) != "passed")


def compare(sources: Path, stack: Stack, variant: Variant, plain: Outcomes, more: Sequence[str]) -> Result:
    """Run a variant, and what differs from plain Celery again: some of these tests fail now and then there too."""
    began = time.monotonic()
    outcomes, pauses = run(sources, stack, variant, more)
    if variant.pauses_s and not pauses:
        raise CannotRun(f"{variant.title}: no pause was acknowledged")
    result = Result(outcomes=outcomes, seconds=0, pauses=pauses, differs=differing(plain, outcomes, variant.files))
    for _ in range(TRIES):
        if not result.differs:
            break
        tests = sorted({name.rpartition("::")[2].partition("[")[0] for name in result.differs})
        retried, _ = run(sources, stack, variant, ["-k", " or ".join(tests)])
        result.again += [name for name in result.differs if retried.get(name) == "passed"]
        result.differs = [name for name in result.differs if retried.get(name) != "passed"]
    result.seconds = time.monotonic() - began
    return result


def _run(command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise CannotRun(f"{' '.join(command[2:5])}: {(done.stderr or done.stdout).strip()[-500:]}")


def table(results: Mapping[str, Result]) -> str:
    """How many of each outcome, and every test that is not the same everywhere or failed somewhere, as Markdown."""
    heads = ["", "passed", "failed", "skipped", "passed only when tried again", "differ", "pauses", "seconds"]
    lines = ["| " + " | ".join(heads) + " |", "|" + " --- |" * len(heads)]
    for title, result in results.items():
        counts = Counter(result.outcomes.values())
        cells = [counts["passed"], counts["failed"], counts["skipped"], len(result.again), len(result.differs)]
        lines.append(f"| {title} | {' | '.join(map(str, cells))} | {result.pauses} | {result.seconds:.0f} |")
    notable = {
        name
        for result in results.values()
        for name, outcome in result.outcomes.items()
        if outcome == "failed" or name in result.differs
    }
    if notable:
        lines += ["", "| test | " + " | ".join(results) + " |", "|" + " --- |" * (1 + len(results))]
    for name in sorted(notable):
        cells_of = [
            "passed when tried again" if name in result.again else result.outcomes.get(name, "not run")
            for result in results.values()
        ]
        lines.append(f"| `{name}` | {' | '.join(cells_of)} |")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Run the command; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.celery_suite", description=__doc__.partition("\n")[0])
    parser.add_argument("--pauses", type=float, default=0.0, help="also run the canvas tests with a pause that often")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    options, more = parser.parse_known_args(arguments)
    variants = [Variant(title="with the plugin")]
    if options.pauses:
        title = f"with the plugin, a pause every {options.pauses:g} s"
        variants.append(Variant(title=title, files=(CANVAS,), pauses_s=options.pauses))
    results: dict[str, Result] = {}
    try:
        with tempfile.TemporaryDirectory(prefix="sluicegate-suite-", ignore_cleanup_errors=True) as name:
            sources = fetch(Path(name))
            with Stack(Path(name) / "stack", durable=False, actor="suite") as stack:
                began = time.monotonic()
                plain, _ = run(sources, stack, Variant(title="plain Celery", plugin=False), more)
                results["plain Celery"] = Result(outcomes=plain, seconds=time.monotonic() - began)
                if sum(outcome == "passed" for outcome in plain.values()) <= len(plain) // 2:
                    raise CannotRun(f"most tests do not even pass on plain Celery: {Counter(plain.values())}")
                for variant in variants:
                    results[variant.title] = compare(sources, stack, variant, plain, more)
    except (CannotRun, SluicegateError, OSError) as error:
        print(f"celery-suite: {error}", file=sys.stderr)
        return 2
    facts = {title: result.facts() for title, result in results.items()}
    print(json.dumps(facts, indent=2) if options.json else table(results))
    return 1 if any(result.differs for result in results.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
