"""The Celery app of Airflow's provider, as its workers have it; only what a workload does is left out."""

from __future__ import annotations

import os
import time
from typing import Any

from airflow.executors.base_executor import BaseExecutor
from airflow.providers.celery.executors.celery_executor_utils import app, execute_workload

import sluicegate
from tests.beside.apps.recorded import recorded

TAKES_S = float(os.environ.get("BESIDE_TAKES_S", "0.1"))

_own_code = execute_workload.run


def _recorded(text: str) -> Any:
    """The task's own code begins with the reading of its workload, which takes some milliseconds: it starts here."""
    number = text.partition('"dag_id": "dag_')[2].partition('"')[0]
    with recorded(execute_workload.request, int(number)):
        return _own_code(text)


def _nothing(workload: Any, **_: Any) -> int:
    """In the place of a process that would ask Airflow's API server what to do."""
    time.sleep(TAKES_S)
    return 0


execute_workload.run = _recorded
BaseExecutor.run_workload = staticmethod(_nothing)

if os.environ.get("FLEET_PLUGIN") == "1":
    sluicegate.install(app)
