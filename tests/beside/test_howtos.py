"""The how-tos in docs/recipes/ run as they stand: the worker, the pause that they tell of, and what they print."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from sluicegate.control.process.stack import Stack
from tests.beside.collector import sentry_events
from tests.beside.fleet import BesideFleet
from tests.beside.libraries import DJANGO, FLASK, SENTRY
from tests.fleet.harness import ROOT
from tests.fleet.waiting import stays, until

RECIPES = ROOT / "docs" / "recipes"
BLOCK = re.compile(r"^```python\n# ([\w/]+\.py)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SHOP = replace(FLASK, name="a how-to", module="shop", before=())


def write_project(page: Path, project: Path) -> None:
    """Each block into the file that its first line names."""
    text = page.read_text()
    blocks = BLOCK.findall(text)
    assert len(blocks) == text.count("```python"), "each begins with the name of its file"
    assert "celery -A shop worker" in text
    for name, code in blocks:
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        (project / name).write_text(code)


def run_while_paused(fleet: BesideFleet, name: str, project: Path, *, sent: int = 1) -> str:
    """Start the worker, pause, run `try_it.py`, see that its messages wait, resume; what it printed."""
    write_project(RECIPES / f"{name}.md", project)
    fleet.begin(arguments=("-Q", "celery"))
    fleet.pause()
    fleet.wait_acknowledged()
    program = fleet.start_program("try_it", [fleet.python, str(project / "try_it.py")])
    until("its messages are in the queue", lambda: fleet.redis.llen("celery") == sent)
    stays("nothing starts", lambda: fleet.redis.llen("celery") == sent, for_s=0.5)
    fleet.resume()
    until("it ends", lambda: not program.is_running)
    return program.output


def in_project(stack: Stack, project: Path, **environ: str) -> BesideFleet:
    """A fleet whose worker finds the project."""
    paths = f"{project}:{ROOT / 'src'}:{ROOT}"
    return BesideFleet(stack, SHOP, environ={"PYTHONPATH": paths, **environ})


@pytest.mark.parametrize(("name", "result"), [("flask", "result 5 EUR"), ("fastapi", "result 5")])
def test_what_a_site_sends_in_a_pause_runs_after_it(stack: Stack, tmp_path: Path, name: str, result: str) -> None:
    with in_project(stack, tmp_path) as fleet:
        printed = run_while_paused(fleet, name, tmp_path)
    assert printed.splitlines() == ["sent", result]


def test_what_djangos_site_sends_on_commit_in_a_pause_has_its_result_after_it(stack: Stack, tmp_path: Path) -> None:
    environ = {"DATABASE": str(tmp_path / "shop.sqlite3"), "DJANGO_SETTINGS_MODULE": "shop.settings"}
    with in_project(stack, tmp_path, **environ) as fleet:
        printed = run_while_paused(fleet, "django", tmp_path)
    assert printed.splitlines() == ["sent", "result 5"]
    assert DJANGO.group == SHOP.group


def test_sentry_has_one_transaction_of_each_run_and_the_error(stack: Stack, tmp_path: Path) -> None:
    with in_project(stack, tmp_path) as fleet:
        fleet.library = replace(SHOP, count=SENTRY.count)
        fleet._extra["SENTRY_DSN"] = f"http://key@{fleet.collector.address}/1"
        printed = run_while_paused(fleet, "sentry", tmp_path, sent=2)
        fleet.wait_own_work(Counter(transaction=2, event=1))
        found = sentry_events(fleet.collector.received)
    assert printed.splitlines() == ["sent", "result 3.0 ZeroDivisionError('division by zero')"]
    assert Counter(event["type"] for event in found) == Counter(transaction=2, event=1)
    assert {event["transaction"] for event in found} == {"shop.divide"}
