"""Every test that docs/reliability.md names is there: a row that nothing stands behind is worse than none."""

from __future__ import annotations

import re

from tests.house.conftest import ROOT

PAGE = (ROOT / "docs/reliability.md").read_text().partition("\n## ")[0]
"""The table of faults: what stands below its own heading has other tables."""


def test_every_row_names_a_test_that_is_there() -> None:
    named = re.findall(r"^\|[^|]+\|[^|]+\| `(tests/[\w/]+\.py)(?:::(\w+))?` \|", PAGE, re.MULTILINE)
    rows = [line for line in PAGE.splitlines() if line.startswith("| ") and "---" not in line][1:]
    assert len(named) == len(rows)
    missing = [
        (file, name)
        for file, name in named
        if not (ROOT / file).exists() or (name and f"def {name}(" not in (ROOT / file).read_text())
    ]
    assert missing == []
