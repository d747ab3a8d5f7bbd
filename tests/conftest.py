"""What several suites share: real servers, one each for every test process."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from sluicegate.control.embedded import EmbeddedPostgres, EmbeddedValkey

VENV = Path(__file__).parents[1] / ".venv"

# Beside pytest's own cache: what Hypothesis remembers may not stand in the tree.
os.environ.setdefault("HYPOTHESIS_STORAGE_DIRECTORY", str(VENV / ".hypothesis"))

# Hundreds of processes are started, and with PYTHONDONTWRITEBYTECODE set each would compile everything that it imports:
# two thirds of what a worker's start costs. Compiled once, beside the tree and not in it.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
os.environ.setdefault("PYTHONPYCACHEPREFIX", str(VENV / ".pycache"))
sys.dont_write_bytecode = False
sys.pycache_prefix = os.environ["PYTHONPYCACHEPREFIX"]

# How fast examples are drawn and tried says more about what else the machine does than about the property.
hypothesis.settings.register_profile("full", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
# `make test` takes it: 20 examples of each property. "full" has as many as Hypothesis itself holds for enough.
hypothesis.settings.register_profile("quick", parent=hypothesis.settings.get_profile("full"), max_examples=20)
hypothesis.settings.load_profile("full")


def pytest_xdist_auto_num_workers() -> int:
    """As many test processes as there are cores, within what one machine's disk and memory bear."""
    return max(2, min(8, len(os.sched_getaffinity(0))))


@pytest.hookimpl(wrapper=True)
def pytest_report_to_serializable() -> Generator[None, Any, Any]:
    """A failure may speak of halves of surrogate pairs: xdist cannot send those, and ends the whole run."""
    return _sendable((yield))


def _sendable(told: Any) -> Any:
    match told:
        case str():
            return told.encode(errors="backslashreplace").decode()
        case dict():
            return {_sendable(key): _sendable(value) for key, value in told.items()}
        case list() | tuple():
            return type(told)(map(_sendable, told))
    return told


@pytest.fixture(scope="session")
def servers_dir() -> Iterator[Path]:
    """Where this test process keeps its servers' data; not `tmp_path`, which keeps three runs of them."""
    with tempfile.TemporaryDirectory(prefix="sluicegate-test-") as directory:
        yield Path(directory)


@pytest.fixture(scope="session")
def postgres(servers_dir: Path) -> Iterator[EmbeddedPostgres]:
    """A running Postgres. A test that stops or kills it starts it again."""
    with EmbeddedPostgres(servers_dir / "postgres", durable=False) as server:
        yield server


@pytest.fixture(scope="session")
def valkey(servers_dir: Path) -> Iterator[EmbeddedValkey]:
    """A running Valkey. A test that stops, freezes or kills it starts it again."""
    with EmbeddedValkey(servers_dir / "valkey") as server:
        yield server
