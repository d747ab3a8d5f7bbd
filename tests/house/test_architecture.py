"""ARCHITECTURE.md: whoever looks for a behaviour finds its file there."""

from __future__ import annotations

import re

import pytest

from tests.house.conftest import ROOT

PAGE = (ROOT / "ARCHITECTURE.md").read_text()
ROOMS = ("schemas", "workers", "control")

ROW = re.compile(r"^\| (.+?) \| .*?`((?:schemas|workers|control)/[\w/]+\.py)`", re.MULTILINE)
FILE = re.compile(r"\b(?:schemas|workers|control|migrations|tests)/[\w/]+\.py\b")


def modules(room: str) -> set[str]:
    return {str(file.relative_to(ROOT)) for file in (ROOT / room).rglob("*.py") if file.name != "__init__.py"}


@pytest.mark.parametrize("room", ROOMS)
def test_every_module_has_a_row_that_says_what_it_does(room: str) -> None:
    """For a new module: one row in the table of its room, what happens there in the words of who looks for it."""
    assert modules(room) - {file for _, file in ROW.findall(PAGE)} == set()


def test_no_module_has_two_rows() -> None:
    files = [file for _, file in ROW.findall(PAGE)]
    assert {file for file in files if files.count(file) > 1} == set()


def test_every_file_that_is_named_is_there() -> None:
    assert {file for file in FILE.findall(PAGE) if not (ROOT / file).is_file()} == set()


def test_each_table_is_of_one_room() -> None:
    """A row is found where its folder is looked for."""
    astray = []
    for heading, table in re.findall(r"^### (.+)\n((?:(?!^#).*\n)+)", PAGE, re.MULTILINE):
        folders = tuple(re.findall(r"`([\w/]+/)`", heading))
        astray += [file for _, file in ROW.findall(table) if not file.startswith(folders)]
    assert astray == []
