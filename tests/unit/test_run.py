"""`make test`: which tests run beside which."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.run import BESIDE, FLEETS, OF_ONE_PROCESS, ROOT, failures, parts


def test_what_computes_what_waits_and_what_measures_never_run_at_once() -> None:
    found = parts(everything=True, paths=[], cores=2)
    assert [(part.paths, part.processes, part.marks) for part in found] == [
        (OF_ONE_PROCESS, 2, "not alone"),
        (FLEETS, 3, "not alone"),
        (BESIDE, 3, "not alone"),
        (FLEETS, 1, "alone"),
    ]


def test_long_tests_are_left_out_unless_everything_is_asked_for() -> None:
    assert {part.marks for part in parts(everything=False, paths=[], cores=2)} == {"not alone and not long"}


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (["tests/unit"], ["tests/unit"]),
        (["tests/unit/"], ["tests/unit"]),
        (["./tests/unit/test_run.py::test_it"], ["tests/unit/test_run.py::test_it"]),
        (["tests/unit/test_run.py", "tests/faults"], ["tests/unit/test_run.py", "tests/faults"]),
        (["tests/beside/test_tracers.py"], ["tests/beside/test_tracers.py"]),
        (["."], [*OF_ONE_PROCESS, *FLEETS]),
    ],
)
def test_a_path_belongs_to_the_part_of_its_folder(wanted: list[str], expected: list[str]) -> None:
    assert [path for part in parts(everything=False, paths=wanted, cores=2) for path in part.paths] == expected


def test_what_stands_beside_other_libraries_gets_its_environments_first() -> None:
    assert [part.before for part in parts(everything=True, paths=["tests"], cores=2) if part.before] == [
        (".ci/beside",)
    ]
    assert not any(part.before for part in parts(everything=False, paths=[], cores=2))


def test_every_folder_with_tests_belongs_to_a_part() -> None:
    folders = {str(file.parent.relative_to(ROOT)) for file in (ROOT / "tests").rglob("test_*.py")}
    assert folders == {*OF_ONE_PROCESS, *FLEETS, *BESIDE}


def test_failures_and_errors_are_named_and_nothing_else(tmp_path: Path) -> None:
    report = tmp_path / "report.xml"
    assert failures(report) == []
    report.write_text(
        '<testsuites><testsuite><testcase classname="a" name="fails"><failure/></testcase>'
        '<testcase classname="a" name="errs"><error/></testcase><testcase classname="a" name="passes"/>'
        '<testcase classname="a" name="skips"><skipped/></testcase></testsuite></testsuites>'
    )
    assert failures(report) == ["a::fails", "a::errs"]
