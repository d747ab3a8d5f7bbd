"""A file is one thing that a reader can name, and a function fits a screen."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROOMS = ("workers", "control", "schemas")
FILES = sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))
MOST_LINES_OF_A_FILE = 500
MOST_LINES_OF_A_FUNCTION = 50


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_long_file_says_why_and_a_function_fits_a_screen(path: Path) -> None:
    """A file of more than 500 lines has a line `Long because …` in its first docstring."""
    text = path.read_text()
    tree = ast.parse(text)
    if text.count("\n") > MOST_LINES_OF_A_FILE:
        assert "Long because" in (ast.get_docstring(tree) or ""), "over 500 lines, and no reason at its top"
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    long = {f.name: lines for f in functions if (lines := _lines_of_code(f)) > MOST_LINES_OF_A_FUNCTION}
    assert not long


def _lines_of_code(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """From its first statement to its last: what is declared (decorators, parameters, docstring) is read as a table."""
    body = function.body[1:] if ast.get_docstring(function) is not None else function.body
    return 0 if not body else (body[-1].end_lineno or 0) - body[0].lineno + 1
