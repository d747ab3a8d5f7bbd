"""One word for one thing (docs/glossary.md): names that were given up do not come back."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = sorted(path for room in ("workers", "control", "schemas") for path in (ROOT / room).rglob("*.py"))
GIVEN_UP = {
    "claim": "a job is claimed: what a scope is matched against is its subject",
    "claims": "as claim",
    "settle": "owed messages are handed back; an acknowledgement waits for the barrier; a drain is concluded",
    "settled": "as settle",
    "owing": "what is owed is a debt",
    "park": "jobs are parked: a queue is stopped, a message set aside",
    "parked": "as park",
    "door": "the second way of a hint is the broadcast",
    "knock": "as door",
    "moment": "an instant; what stood at the pause is at_pause",
}
IN_TWO_WORDS = {("give", "back"), ("gives", "back"), ("put", "back"), ("take", "back")}
WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_name_uses_a_word_that_was_given_up(path: Path) -> None:
    """Of classes, functions, arguments, variables and attributes; and of the module itself."""
    found = {}
    for name in {path.stem, *_names(ast.parse(path.read_text()))}:
        words = [word.lower() for word in WORD.findall(name)]
        for word in GIVEN_UP.keys() & set(words):
            found[name] = GIVEN_UP[word]
        if IN_TWO_WORDS & set(pairwise(words)):
            found[name] = "one act, one word: hand back"
    assert found == {}


def test_each_word_that_was_given_up_stands_in_the_glossary() -> None:
    text = (ROOT / "docs" / "glossary.md").read_text()
    assert [word for word in GIVEN_UP if word not in text and GIVEN_UP[word][:3] != "as "] == []


def _names(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name) | ast.Attribute(attr=name) | ast.arg(arg=name):
                yield name
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                yield name
