"""What the drills of a run have shown, for docs/compatibility.md: one file a test, beside the environments."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.beside.libraries import Library
from tests.fleet.harness import ROOT

FOLDER = ROOT / ".venv" / "beside" / "told"

Told = Callable[[Library, str, str], None]
"""Called with the library, what it was tried on, and what was seen."""


def teller(name: str) -> Told:
    """For the test called `name`."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    path = FOLDER / f"{''.join(letter if letter.isalnum() else '-' for letter in name)}.json"
    path.unlink(missing_ok=True)

    def tell(library: Library, where: str, seen: str) -> None:
        path.write_text(json.dumps({"library": library.name, "where": where, "seen": seen}))

    return tell


def read(folder: Path = FOLDER) -> Iterator[dict[str, str]]:
    """What was told, in the order of the tests' names."""
    for path in sorted(folder.glob("*.json")):
        yield json.loads(path.read_text())
