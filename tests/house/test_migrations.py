"""Each revision says which code can go on with it."""

from __future__ import annotations

import re
from importlib import import_module
from types import ModuleType

from tests.house.conftest import ROOT

FILES = sorted((ROOT / "migrations/versions").glob("[0-9]*.py"))


def modules() -> list[ModuleType]:
    return [import_module(f"sluicegate.migrations.versions.{file.stem}") for file in FILES]


def test_revisions_are_one_line_of_numbers_without_gaps() -> None:
    """Two branches that each add the next number are found out when they meet."""
    numbers = [f"{place:04d}" for place in range(1, len(FILES) + 1)]
    assert [file.stem[:5] for file in FILES] == [f"{number}_" for number in numbers]
    assert [module.revision for module in modules()] == numbers
    assert [module.down_revision for module in modules()] == [None, *numbers[:-1]]


def test_every_revision_declares_from_which_code_on_it_can_be_used_and_that_never_goes_down() -> None:
    """None is usable by code that is newer than itself; what was taken away once does not come back."""
    declared = [(module.revision, module.usable_from) for module in modules()]
    usable_from = [usable for _, usable in declared]
    assert usable_from == sorted(usable_from)
    assert all(re.fullmatch(r"\d{4}", usable) and usable <= revision for revision, usable in declared)


def test_code_of_before_the_word_could_use_its_own_revision_alone() -> None:
    assert [module.usable_from for module in modules()][:6] == [module.revision for module in modules()][:6]
