"""The changelog and the fragments that it is made of."""

from __future__ import annotations

import re

from sluicegate import __version__
from tests.house.conftest import ROOT

TYPES = ("added", "changed", "fixed", "removed")
NAME = re.compile(rf"[\w.-]+\.(?:{'|'.join(TYPES)})(?:\.[\w-]+)?\.md")


def test_this_version_has_a_part_in_the_changelog() -> None:
    titles = re.findall(r"^## (\S+) \(\d{4}-\d\d-\d\d\)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert titles.count(__version__) == 1
    assert len(titles) == len(set(titles))


def test_every_fragment_has_a_name_that_towncrier_takes_and_says_something() -> None:
    """It passes over any other in silence."""
    fragments = [file for file in (ROOT / "docs/changes").glob("*.md") if file.name != "README.md"]
    assert [file.name for file in fragments if not NAME.fullmatch(file.name) or not file.read_text().strip()] == []
