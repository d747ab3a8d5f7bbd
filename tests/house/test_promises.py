"""What code, tests and pages refer to is in the tree: promises by their ids, pages, files, tests."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.house.conftest import ROOT

PROMISES = "docs/promises.md"
ROW = re.compile(r"^\| ([SL]\d|R-[A-Z]\d+) \|", re.MULTILINE)
ID = re.compile(r"(?<![\w-])(?:[SL][1-9]|R-[A-Z]\d+)(?![\w-])")
IN_NAME = re.compile(r"\bdef test_((?:[sl]\d_)+)")

PAGE = re.compile(r"(?<![\w./-])(?![\w./]*NNNN)[\w./-]*\w\.md\b(?!\.)")
DECISION = re.compile(r"\bdecisions?[/ ](\d{4})\b")
LINK = re.compile(r"\]\(([^)\s]+)\)")
PLACE = re.compile(r"`(?![^`]*NNNN)((?:workers|control|schemas|migrations|tests|docs|src|\.ci)/[\w./-]*)(?:::(\w+))?`")

NOT_OURS = {"requirements.lock", ".ci/floor.lock", "docs/benchmarks.svg", "LICENSE"}
"""Hashes, digits of a picture, somebody else's text."""

NO_PAGES = {"WORD.TYPE.md", "page.md"}
"""A name that stands for many files, and one that a test gives to a file of its own."""


@pytest.fixture(scope="module")
def texts(tree: list[Path]) -> dict[Path, str]:
    """Every text of the tree, but those in which an id would be chance."""
    files = (path for path in tree if not (ROOT / path).is_symlink() and str(path) not in NOT_OURS)
    return {path: (ROOT / path).read_text(errors="replace") for path in files}


def pages(texts: dict[Path, str]) -> Iterator[tuple[Path, str]]:
    """The pages that speak of the tree as it is. The changelog speaks of it as it was."""
    for path, text in texts.items():
        if path.suffix == ".md" and path.name != "CHANGELOG.md" and path.parent != Path("docs/changes"):
            yield path, text


def is_page(name: str, named_in: Path) -> bool:
    """Whether there is such a page: beside the file that names it, at the top, or in docs/."""
    return any((ROOT / place / name).is_file() for place in (named_in.parent, ".", "docs"))


def base_of(page: Path) -> Path:
    """From where a page's links lead. A fragment's become those of the changelog, which stands at the top."""
    is_fragment = page.parent == Path("docs/changes") and page.name != "README.md"
    return ROOT if is_fragment else (ROOT / page).parent


def test_every_promise_that_is_named_is_defined(texts: dict[Path, str]) -> None:
    defined = set(ROW.findall(texts[Path(PROMISES)]))
    unknown = {path: sorted(set(ID.findall(text)) - defined) for path, text in texts.items()}
    assert {str(path): ids for path, ids in unknown.items() if ids} == {}


def test_every_promise_in_the_name_of_a_test_is_defined(texts: dict[Path, str]) -> None:
    defined = set(ROW.findall(texts[Path(PROMISES)]))
    named = {
        (str(path), promise.upper())
        for path, text in texts.items()
        for ids in IN_NAME.findall(text)
        for promise in ids.strip("_").split("_")
    }
    assert named
    assert {one for one in named if one[1] not in defined} == set()


def test_every_promise_is_defined_once(texts: dict[Path, str]) -> None:
    rows = ROW.findall(texts[Path(PROMISES)])
    assert len(rows) == len(set(rows))


def test_every_page_that_is_named_is_in_the_tree(texts: dict[Path, str]) -> None:
    named = {(str(path), name) for path, text in texts.items() for name in PAGE.findall(text)}
    assert {(path, name) for path, name in named if name not in NO_PAGES and not is_page(name, Path(path))} == set()


def test_every_decision_that_is_named_is_recorded(texts: dict[Path, str]) -> None:
    recorded = {file.name[:4] for file in (ROOT / "docs/decisions").glob("*.md")}
    named = {(str(path), number) for path, text in texts.items() for number in DECISION.findall(text)}
    assert {(path, number) for path, number in named if number not in recorded} == set()


def test_every_link_of_a_page_leads_somewhere(texts: dict[Path, str]) -> None:
    links = {(str(path), link) for path, text in texts.items() if path.suffix == ".md" for link in LINK.findall(text)}
    within = {(path, link.partition("#")[0]) for path, link in links if not link.startswith(("#", "https://"))}
    assert within
    assert {(path, link) for path, link in within if not (base_of(Path(path)) / link).exists()} == set()


def test_every_file_and_test_that_a_page_names_is_there(texts: dict[Path, str]) -> None:
    missing = set()
    for path, text in pages(texts):
        for place, test in PLACE.findall(text):
            if not (ROOT / place).exists() or (test and f"def {test}(" not in (ROOT / place).read_text()):
                missing.add((str(path), place, test))
    assert missing == set()
