"""New Relic's agent in its developer mode, which sends nothing; each recorded transaction is told to the witness."""

from __future__ import annotations

from typing import Any

import newrelic.agent
from newrelic.core.application import Application

from tests.beside.apps.witness import tell

YIELDED = "sluicegate.workers.celery_inside.yields:YieldedRun"

newrelic.agent.initialize()
# The agent takes every exception for an error, Celery's own Ignore and Retry too, and knows none by its base class.
newrelic.agent.global_settings().error_collector.ignore_classes = [YIELDED]

_record = Application.record_transaction


def _witnessed(self: Any, data: Any) -> Any:
    tell("error" if data.errors else "transaction", data.name)
    return _record(self, data)


Application.record_transaction = _witnessed

from tests.fleet.app import app  # noqa: E402

__all__ = ["app"]
