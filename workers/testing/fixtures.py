"""The fixtures of `pytest_plugins = ["sluicegate.testing"]`; nothing else here needs pytest."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from sluicegate.workers.testing.trial_gate import TrialGate, gate


@pytest.fixture
def sluicegate_app(request: pytest.FixtureRequest) -> Any:
    """The app whose worker stands behind the gate. By default that of Celery's own plugin; override it with yours."""
    return request.getfixturevalue("celery_app")


@pytest.fixture
def sluicegate_gate(sluicegate_app: Any) -> Iterator[TrialGate]:
    """A gate that this test opens and closes, before the worker of `sluicegate_app`. Ask for it before any worker."""
    with gate(sluicegate_app) as trial:
        yield trial


@pytest.fixture
def sluicegate_worker(sluicegate_app: Any, sluicegate_gate: TrialGate) -> Iterator[Any]:
    """A solo worker of `sluicegate_app` behind `sluicegate_gate`, in a thread of this process."""
    from celery.contrib.testing.worker import start_worker

    with start_worker(sluicegate_app, perform_ping_check=False) as worker:
        yield worker
