"""The stack of the fleet tests, whole and running before every test, and what the faults are made with."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults import clock
from tests.faults.clock import WallClock
from tests.fleet.conftest import one_stack, stack

__all__ = ["one_stack", "stack"]


def need(why_missing: str | None) -> None:
    """Skip where a program is not installed; fail where everything is installed on purpose."""
    if why_missing is not None:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(why_missing)


@pytest.fixture(scope="session")
def clock_library() -> Iterator[Path]:
    need(clock.missing())
    with tempfile.TemporaryDirectory(prefix="sluicegate-clock-") as directory:
        yield clock.build(Path(directory))


@pytest.fixture
def wall_clock(clock_library: Path, tmp_path: Path) -> WallClock:
    """A clock that can be set wrong for the processes that are started under it."""
    return WallClock(clock_library, tmp_path / "clock")
