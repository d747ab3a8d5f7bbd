"""docs/compatibility.md: what a run of `make beside` has shown, with the versions that its locks name."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from tests.beside import libraries
from tests.beside.libraries import Library
from tests.fleet.harness import ROOT

PAGE = ROOT / "docs" / "compatibility.md"
LOCKS = ROOT / "tests" / "beside" / "locks"

ALL = [found for found in vars(libraries).values() if isinstance(found, Library)]

HEAD = """# What it stands beside

`make beside` (part of `make test-all`) starts a real worker with each of these libraries in force, gives it 60 tasks
that write down their own starts, pauses it in the middle, and lets it go on. The checker of the fleet tests judges that
nothing started after the acknowledgement, and that nothing was lost or ran twice; the library's own work is counted
too. Where a library watches tasks or keeps their results, four more tasks yield when they are quiesced. This page is
written by `make beside ARGS=--write`, from such a run.

A library that is not here has not been tried. What of a library is not supported is refused when the worker starts, in
one line; it is never half done.
"""

ROW = re.compile(r"^\| (\w[\w.-]*) \| [^|]+ \| [^|]+ \| ([^|]+) \| ([^|]+) \|$", re.MULTILINE)

TAIL = """
## How each was tried

| library | what its drill does |
| --- | --- |
{drills}

The versions are those of the locks in `tests/beside/locks/`: one for all that stands beside the newest Celery that we
let in, and one each for celery-batches and for Airflow, which are not there yet.

## How-tos

[Django](recipes/django.md), [Flask](recipes/flask.md), [FastAPI](recipes/fastapi.md), [Sentry](recipes/sentry.md), and
[testing your tasks](testing-your-tasks.md). What each shows is run by a test.
"""

Told = Mapping[str, str]


def versions(group: str) -> dict[str, str]:
    """Of each distribution in a lock; of one that depends on Python's version, that for the oldest."""
    found = re.findall(r"^([a-z0-9._-]+)(?:\[[^]]*\])?==([^ ;]+)", (LOCKS / f"{group}.lock").read_text(), re.MULTILINE)
    return dict(reversed(found))


def render(told: Sequence[Told]) -> str:
    """The page; raises AssertionError where a library has told nothing."""
    missing = {library.name for library in ALL} - {one["library"] for one in told}
    assert not missing, f"nothing is known of {', '.join(sorted(missing))}: run all of tests/beside"
    by_name = {library.name: library for library in ALL}
    rows = sorted((one["library"], one["where"], one["seen"]) for one in told)
    lines = [
        f"| {name} | {_version(by_name[name])} | {_celery(by_name[name])} | {where} | {seen} |"
        for name, where, seen in rows
    ]
    drills = [f"| {library.name} | {library.drill} |" for library in sorted(ALL, key=lambda one: one.name)]
    return "\n".join(
        [
            HEAD,
            "| library | version | Celery | tried on | what was seen |",
            "| --- | --- | --- | --- | --- |",
            *lines,
            TAIL.format(drills="\n".join(drills)),
        ]
    )


def read() -> list[Told]:
    """What the page says was seen."""
    _heading, *rows = ROW.findall(PAGE.read_text())
    return [{"library": name, "where": where, "seen": seen} for name, where, seen in rows]


def _version(library: Library) -> str:
    return versions(library.group)[library.name]


def _celery(library: Library) -> str:
    return versions(library.group)["celery"]
