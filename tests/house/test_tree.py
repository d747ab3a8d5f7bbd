"""What may stand in the tree."""

from __future__ import annotations

import os
import re
import tomllib
from pathlib import Path

import pytest

from tests.house.conftest import ROOT

FOLDERS = {"workers", "control", "schemas", "migrations", "tests", "docs", "src", ".ci"}

# Where packages come from is each machine's own setting. Written so that this file does not match itself.
REGISTRY = re.compile(
    r"pypi[.]org|pythonhosted[.]org|npmjs[.]org|registry[.]npmjs|deb[.]debian[.]org"
    r"|--(extra-)?index-url[ =]\S|--find-links[ =]\S|[/.]artifactory[/.]"
)


def texts(tree: list[Path]) -> list[tuple[Path, str]]:
    files = (path for path in tree if not (ROOT / path).is_symlink())
    return [(path, (ROOT / path).read_text(errors="replace")) for path in files]


def test_the_top_of_the_tree_has_these_folders_only(tree: list[Path]) -> None:
    assert {path.parts[0] for path in tree if len(path.parts) > 1} <= FOLDERS


def test_no_package_registry_is_named(tree: list[Path]) -> None:
    assert {path: found[0] for path, text in texts(tree) if (found := REGISTRY.search(text))} == {}


def test_no_path_of_the_machine_it_was_written_on_is_named(tree: list[Path]) -> None:
    """The checkout's own path, and its owner's home. A place directly below / may be any word."""
    places = {str(place) + "/" for place in (ROOT, Path.home()) if len(place.parts) > 2 or place == Path("/root")}
    assert {path: place for path, text in texts(tree) for place in places if place in text} == {}


def test_links_lead_to_the_rooms_and_are_relative(tree: list[Path]) -> None:
    links = {str(path): os.readlink(ROOT / path) for path in tree if (ROOT / path).is_symlink()}
    rooms = ("workers", "control", "schemas", "migrations")
    assert links == {f"src/sluicegate/{room}": f"../../{room}" for room in rooms}


def test_beside_the_links_stand_only_the_public_modules(tree: list[Path]) -> None:
    files = {str(path) for path in tree if path.parts[0] == "src" and not (ROOT / path).is_symlink()}
    assert files == {f"src/sluicegate/{name}" for name in ("__init__.py", "testing.py", "py.typed")}


def test_every_line_of_the_lock_is_an_exact_version_with_hashes() -> None:
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    packages = [line for line in lines if line and not line.startswith((" ", "#"))]
    assert packages
    assert all(re.match(r"[a-z0-9._-]+(\[[a-z,-]+\])?==[^ ]+ .*\\$", line) for line in packages)


def test_the_lock_holds_every_direct_dependency() -> None:
    """`make lock` has been run since pyproject.toml last gained one."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    direct = [*project["project"]["dependencies"], *project["dependency-groups"]["dev"]]
    direct += [need for extra in project["project"]["optional-dependencies"].values() for need in extra]
    locked = set(re.findall(r"^([a-z0-9._-]+)(?:\[.*?\])?==", (ROOT / "requirements.lock").read_text(), re.MULTILINE))
    assert {re.split(r"[\[<>=;]", need)[0].lower() for need in direct} <= locked


def test_every_direct_dependency_is_explained() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    direct = [*project["project"]["dependencies"], *project["dependency-groups"]["dev"]]
    direct += [need for extra in project["project"]["optional-dependencies"].values() for need in extra]
    explained = re.findall(r"^\| ([\w.-]+) \|", (ROOT / "docs/dependencies.md").read_text(), re.MULTILINE)
    assert {re.split(r"[\[<>=;]", need)[0] for need in direct} <= set(explained)


@pytest.mark.parametrize("secret", ["POSTGRES_PASSWORD", "SLUICEGATE_PUBLIC_KEYS", "SLUICEGATE_SIGNING_KEY_FILE"])
def test_compose_has_a_default_for_no_secret(secret: str) -> None:
    """Each use of it is `${NAME:?what to give}`: compose refuses to start without."""
    uses = re.findall(r"\$\{?" + secret + r"\b[^}]*\}?", (ROOT / "compose.yaml").read_text())
    assert uses
    assert all(use.startswith("${" + secret + ":?") for use in uses)
