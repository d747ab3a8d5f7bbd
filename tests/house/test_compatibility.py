"""docs/compatibility.md, and the locks of tests/beside, which it tells of."""

from __future__ import annotations

import re

import pytest

from tests.beside import page
from tests.house.conftest import ROOT


def test_the_page_is_what_a_run_would_write() -> None:
    """Versions, drills and words as they are now (`make beside ARGS=--write`); what was seen is taken from the page."""
    assert page.render(page.read()) == page.PAGE.read_text()


@pytest.mark.parametrize("group", ["common", "batches", "airflow"])
def test_every_line_of_a_lock_is_an_exact_version_with_hashes(group: str) -> None:
    lines = (page.LOCKS / f"{group}.lock").read_text().splitlines()
    packages = [line for line in lines if line and not line.startswith((" ", "#"))]
    assert packages
    assert all(re.match(r"[a-z0-9._-]+(\[[a-z,-]+\])?==[^ ]+ .*\\$", line) for line in packages)


@pytest.mark.parametrize("group", ["common", "batches", "airflow"])
def test_a_lock_holds_what_its_list_names(group: str) -> None:
    """`make lock` has been run since a list gained a library."""
    lines = (page.LOCKS / f"{group}.in").read_text().splitlines()
    wanted = {re.split(r"[<>=]", line)[0] for line in lines if line and not line.startswith("#")}
    assert wanted <= set(page.versions(group))


def test_the_newest_celery_that_we_let_in_is_the_one_most_are_tried_with() -> None:
    lock = (ROOT / "requirements.lock").read_text()
    assert f"\ncelery=={page.versions('common')['celery']} " in lock
