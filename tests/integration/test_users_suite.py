"""A user's own test suite runs as it did, and the documentation's examples run as they stand."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

DOCUMENT = Path(__file__).parents[2] / "docs" / "testing-your-tasks.md"
BLOCK = re.compile(r"^```python\n# (\w+\.py)\n(.*?)^```$", re.MULTILINE | re.DOTALL)

SHOP = """
import sluicegate
from celery import Celery

app = Celery("shop", broker="memory://", backend="cache+memory://")
sluicegate.install(app)

@app.task
def add(a, b):
    return a + b
"""
CONFTEST = """
import pytest
import sluicegate

pytest_plugins = ["celery.contrib.pytest"]

@pytest.fixture(scope="session")
def celery_config():
    return {"task_default_queue": "session"}

@pytest.fixture(scope="session")
def celery_session_app(celery_session_app):
    sluicegate.install(celery_session_app)
    return celery_session_app

@pytest.fixture
def celery_app(celery_app):
    sluicegate.install(celery_app)
    return celery_app
"""
TESTS = """
import unittest
import pytest
import celery.contrib.testing.tasks
from celery.contrib.testing.worker import start_worker
from shop import add, app

def test_called_directly():
    assert add(1, 2) == 3

def test_applied():
    assert add.apply((1, 2)).get() == 3

def test_eager():
    app.conf.task_always_eager = True
    try:
        assert add.delay(1, 2).get() == 3
    finally:
        app.conf.task_always_eager = False

def test_the_worker_of_a_session(celery_session_app, celery_session_worker):
    @celery_session_app.task
    def half(x):
        return x // 2
    celery_session_worker.reload()
    assert half.delay(4).get(timeout=10) == 2

@pytest.mark.celery(task_default_queue="own")
def test_the_worker_of_the_fixtures(celery_app, celery_worker):
    @celery_app.task
    def double(x):
        return 2 * x
    celery_worker.reload()
    assert double.delay(4).get(timeout=10) == 8

class Worker(unittest.TestCase):
    def test_in_a_thread(self):
        with start_worker(app, perform_ping_check=False):
            self.assertEqual(add.delay(1, 2).get(timeout=10), 3)
            self.assertEqual(add.apply_async((2, 2), countdown=0.1).get(timeout=10), 4)

    def test_and_again_with_threads(self):
        with start_worker(app, pool="threads"):
            self.assertEqual(add.delay(1, 2).get(timeout=10), 3)
"""


UNITTEST = """
import os
import unittest
from unittest import mock
import celery.contrib.testing.tasks
from celery.contrib.testing.worker import start_worker
from sluicegate.testing import gate
from shop import add, app

FLEET = {"SLUICEGATE_REDIS_URL": "redis://127.0.0.1:1/0", "SLUICEGATE_PUBLIC_KEYS": "A" * 43 + "="}

class Tests(unittest.TestCase):
    def test_1_a_worker_of_ones_own_is_refused_by_an_ordinary_exception(self):
        with self.assertRaisesRegex(Exception, "SLUICEGATE_REDIS_URL.*SLUICEGATE_PUBLIC_KEYS.*sluicegate.testing"):
            app.Worker(pool="solo")

    @mock.patch.dict(os.environ, FLEET)
    def test_2_so_is_one_in_a_shell_that_joined_a_fleet(self):
        with self.assertRaisesRegex(Exception, "memory is not supported.*sluicegate.testing"):
            with start_worker(app, perform_ping_check=False):
                pass

    @mock.patch.dict(os.environ, FLEET)
    def test_3_and_there_the_gate_of_a_test_stands_all_the_same(self):
        with gate(app), start_worker(app, perform_ping_check=False):
            self.assertEqual(add.delay(1, 2).get(timeout=10), 3)

    def test_4_what_comes_later_runs(self):
        with start_worker(app):
            self.assertEqual(add.delay(1, 2).get(timeout=10), 3)
"""


def run(project: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Run a Python program there, without any setting of ours."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("SLUICEGATE_", "PYTEST_"))}
    command = (sys.executable, *command)
    return subprocess.run(command, cwd=project, env=clean, capture_output=True, text=True, timeout=110)


def run_pytest(project: Path) -> subprocess.CompletedProcess[str]:
    """Every warning is an error."""
    (project / "pytest.ini").write_text("[pytest]\nfilterwarnings = error\n")
    return run(project, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:randomly")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "shop.py").write_text(SHOP)
    return tmp_path


def test_a_suite_without_any_setting_runs_unchanged(project: Path) -> None:
    """Eager, direct, in unittest's cases, and with the fixtures of Celery's own plugin."""
    (project / "conftest.py").write_text(CONFTEST)
    (project / "test_shop.py").write_text(TESTS)
    done = run_pytest(project)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "7 passed" in done.stdout


def test_a_suite_of_unittest_goes_on_after_a_worker_that_was_refused(project: Path) -> None:
    (project / "test_shop.py").write_text(UNITTEST)
    done = run(project, "-m", "unittest", "test_shop")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Ran 4 tests" in done.stderr


def test_the_examples_of_the_documentation_run_as_they_stand(tmp_path: Path) -> None:
    blocks = BLOCK.findall(DOCUMENT.read_text())
    assert len(blocks) == DOCUMENT.read_text().count("```python"), "each begins with the name of its file"
    for name, text in blocks:
        (tmp_path / name).write_text(text)
    done = run_pytest(tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "7 passed" in done.stdout


@pytest.mark.parametrize(
    "command",
    [
        ("-m", "celery", "-A", "shop", "worker", "-P", "solo"),
        ("-c", "import shop; shop.app.worker_main(['worker', '-P', 'solo'])"),
    ],
    ids=["celery worker", "worker_main"],
)
def test_a_worker_that_a_command_starts_without_settings_tells_all_that_is_missing(
    project: Path, command: tuple[str, ...]
) -> None:
    done = run(project, *command)
    assert done.returncode == 2
    said = [line for line in done.stderr.splitlines() if line.startswith("sluicegate")]
    assert [line.split(": is not set")[0] for line in said[:-1]] == [
        "sluicegate: SLUICEGATE_REDIS_URL",
        "sluicegate: SLUICEGATE_PUBLIC_KEYS",
    ]
    assert ".sluicegate/env" in said[-1]
    assert "Traceback" not in done.stderr
    assert "ready" not in done.stdout


def test_a_worker_that_a_program_makes_without_settings_raises_and_names_the_ways_out(project: Path) -> None:
    done = run(project, "-c", "import shop; shop.app.Worker(pool='solo').start()")
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith("sluicegate.schemas.errors.InvalidSetting: SLUICEGATE_REDIS_URL: is not set")
    assert "SLUICEGATE_ENABLED=false runs this worker without the gate; for tests there is sluicegate.testing" in last


def test_the_testing_module_needs_no_pytest(project: Path) -> None:
    script = """
import sys
sys.modules["pytest"] = None
from importlib import util
find_spec, util.find_spec = util.find_spec, lambda name: None if name == "pytest" else find_spec(name)
from sluicegate.testing import gate, quiesced, resumed
"""
    done = run(project, "-W", "error", "-c", script)
    assert (done.returncode, done.stderr) == (0, "")
