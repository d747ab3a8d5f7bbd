"""The Celery app of Airflow's provider, as its workers have it; only what a workload does is replaced, by a record."""

from __future__ import annotations

import os
import time
from typing import Any

from airflow.executors.base_executor import BaseExecutor
from airflow.providers.celery.executors.celery_executor_utils import app

import sluicegate
from tests.beside.apps.recorded import recorded

TAKES_S = 0.02


def _run(workload: Any, **_: Any) -> int:
    """In the place of a process that would ask Airflow's API server what to do."""
    with recorded(app.current_task.request, int(workload.ti.dag_id.rpartition("_")[2])):
        time.sleep(TAKES_S)
    return 0


BaseExecutor.run_workload = staticmethod(_run)

if os.environ.get("FLEET_PLUGIN") == "1":
    sluicegate.install(app)
