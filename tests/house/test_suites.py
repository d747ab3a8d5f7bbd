"""What `make test` stands for: each promise, on real processes, as docs/testing.md says; unit tests start nothing."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.house.conftest import ROOT

PROMISES = [*(f"S{number}" for number in range(1, 10)), *(f"L{number}" for number in range(1, 5))]
PAGE = (ROOT / "docs/testing.md").read_text()
STARTS_PROCESSES = ("subprocess", "multiprocessing", "sluicegate.control.embedded", "sluicegate.control.process.stack")


@pytest.fixture(scope="module")
def short_tests() -> set[str]:
    """The fleet tests that `make test` runs, as `tests/fleet/test_drain.py::test_it`, without their parameters."""
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-m", "not long and not alone", "tests/fleet"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=100).stdout
    return {line.partition("[")[0] for line in listed.splitlines() if "::" in line}


@pytest.mark.parametrize("promise", PROMISES)
def test_make_test_has_a_fleet_test_of_each_promise(short_tests: set[str], promise: str) -> None:
    assert [name for name in short_tests if f"_{promise.lower()}_" in name.partition("::")[2]]


def test_the_page_names_for_each_promise_a_test_that_make_test_runs(short_tests: set[str]) -> None:
    rows = re.findall(r"^\| ([SL]\d) \|[^|]*\| `(tests/fleet/\w+\.py::\w+)` \|$", PAGE, re.MULTILINE)
    assert [promise for promise, _ in rows] == PROMISES
    assert {name for _, name in rows} - short_tests == set()
    for promise, name in rows:
        assert f"_{promise.lower()}_" in name


def imports_of(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def arguments_of(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.FunctionDef):
            yield from (argument.arg for argument in node.args.args)


@pytest.mark.parametrize("file", sorted((ROOT / "tests/unit").glob("*.py")), ids=lambda file: file.name)
def test_a_unit_test_starts_no_process_and_no_server(file: Path) -> None:
    """The stand-in for the control plane is a thread of the test's own. A fork to share memory is none of these."""
    assert [name for name in imports_of(file) if f"{name}.".startswith(tuple(f"{n}." for n in STARTS_PROCESSES))] == []
    assert {"postgres", "valkey"}.isdisjoint(arguments_of(file))
