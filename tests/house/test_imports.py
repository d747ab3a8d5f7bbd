"""What is loaded when a module is imported: the operator's tools start fast, and on a base install."""

from __future__ import annotations

import subprocess
import sys
import tomllib

import pytest

from tests.house.conftest import ROOT

SERVERS = ("sqlalchemy", "psycopg", "alembic", "fastapi", "starlette", "uvicorn", "mcp", "flower")


def loaded_by(module: str) -> set[str]:
    """The modules that a fresh interpreter has after importing `module`."""
    script = f"import sys, {module}; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    return set(run.stdout.split())


@pytest.mark.parametrize(
    ("module", "unwanted"),
    [
        ("sluicegate", (*SERVERS, "httpx", "rich", "pynvml", "sluicegate.control")),
        (
            "sluicegate.schemas.holds",
            (*SERVERS, "celery", "kombu", "redis", "cryptography", "httpx", "click"),
        ),
        ("sluicegate.control.cli", (*SERVERS, "kombu", "redis", "cryptography", "psutil")),
        ("sluicegate.control.client", (*SERVERS, "kombu", "redis", "cryptography", "psutil")),
        # It is imported by every `celery` command of everybody who has sluicegate installed.
        (
            "sluicegate.control.cli.celery_plugin",
            (*SERVERS, "httpx", "rich", "redis", "cryptography", "psutil"),
        ),
    ],
)
def test_importing_it_does_not_load(module: str, unwanted: tuple[str, ...]) -> None:
    assert loaded_by(module).isdisjoint(unwanted)


def test_the_rule_that_the_core_of_a_worker_knows_no_celery_is_about_all_of_it() -> None:
    """Its list can only be written by hand: what is added to `workers` must come into it."""
    modules = {path.stem for path in (ROOT / "workers").glob("*.py")} - {"__init__", "install", "steps", "member"}
    modules |= {"probes"}
    rules = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (rule,) = (rule for rule in rules if rule["name"].startswith("the core of a worker"))
    assert set(rule["source_modules"]) == {f"sluicegate.workers.{module}" for module in modules}
    assert {"sluicegate.workers.celery_inside", "celery", "kombu", "amqp", "billiard", "gevent"} <= set(
        rule["forbidden_modules"]
    )


def test_install_imports_nothing_that_a_library_may_still_replace() -> None:
    """Who imported by name what a library replaces afterwards has the old one, and the library does nothing."""
    script = (
        "import sys; from celery import Celery; app = Celery('a'); before = set(sys.modules);"
        "import sluicegate; sluicegate.install(app, {});"
        "new = set(sys.modules) - before;"
        "print(*(name for name in new if name.startswith(('celery.app', 'celery.concurrency', 'celery.worker'))))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.split() == []
