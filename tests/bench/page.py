"""docs/benchmarks.md: where the tables stand that the benchmarks print."""

from __future__ import annotations

from pathlib import Path

PAGE = Path(__file__).resolve().parents[2] / "docs" / "benchmarks.md"
PICTURE = PAGE.with_suffix(".svg")


def put(name: str, table: str, page: Path = PAGE) -> None:
    """Put `table` in the place of the one between the marks of `name`; ValueError where there are none."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    text = page.read_text()
    if not 0 <= text.find(begin) < text.find(end):
        raise ValueError(f"{page.name} has no place for {name}")
    before, after = text[: text.find(begin)], text[text.find(end) + len(end) :]
    page.write_text(f"{before}{begin}\n{table}\n{end}{after}")
