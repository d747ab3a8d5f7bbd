"""The libraries: where each stands, what it does in a worker, and what its drill holds it to."""

from __future__ import annotations

import json
import re
import sqlite3
import uuid
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tests.beside.collector import sentry_events
from tests.beside.flower_page import tasks_of

if TYPE_CHECKING:
    from tests.beside.fleet import BesideFleet

NAP_S = 0.1
"""Long enough for a pause to find most of 60 of them waiting, also on a busy machine."""
APPS = "tests.beside.apps"


def _number(first_argument: Any) -> int:
    return int(first_argument)


def _no_work(fleet: BesideFleet) -> Counter[str]:
    return Counter()


@dataclass(frozen=True, slots=True, kw_only=True)
class Library:
    """One library in one lock (`group`), set up by `module`, which has the Celery app.

    `drill` says in a sentence what its tests hold it to. `task` is what is sent, and `arguments` what stands behind the
    task's number. In `environ` the word COLLECTOR stands for the collector's address, in `places` DIRECTORY for the
    fleet's own and BROKER for its broker's. `before` are calls of the module as a program, and `events` says that
    somebody listens to the worker's. `count` tells what the library has done, by its own kinds.
    """

    name: str
    drill: str
    group: str = "common"
    module: str
    task: str = "fleet.nap"
    arguments: tuple[Any, ...] = (NAP_S,)
    environ: Mapping[str, str] = field(default_factory=dict)
    places: Mapping[str, str] = field(default_factory=dict)
    before: tuple[tuple[str, ...], ...] = ()
    events: bool = False
    count: Callable[[BesideFleet], Counter[str]] = _no_work
    number_of: Callable[[Any], int] = _number

    def arguments_of(self, task: str, seq: int) -> tuple[Any, ...]:
        """What a task with this number is sent with."""
        if task == "execute_workload":
            return (workload(seq),)
        if task in ("fleet.steps_yield", "fleet.steps_wait"):
            return (seq, 20, 0.1)
        return (seq, *(() if task == "fleet.fails" else self.arguments))


def _by_witness(*kinds: str) -> Callable[[BesideFleet], Counter[str]]:
    def count(fleet: BesideFleet) -> Counter[str]:
        return Counter(kind for kind, _ in fleet.witnessed() if kind in kinds)

    return count


def _by_sentry(fleet: BesideFleet) -> Counter[str]:
    return Counter(event["type"] for event in sentry_events(list(fleet.collector.received)))


def _by_airbrake(fleet: BesideFleet) -> Counter[str]:
    return Counter("notice" for sent in list(fleet.collector.received) if sent.path.endswith("/notices"))


def _rows(query: str) -> Callable[[BesideFleet], Counter[str]]:
    def count(fleet: BesideFleet) -> Counter[str]:
        with sqlite3.connect(f"file:{fleet.database()}?mode=ro", uri=True, timeout=20) as database:
            return Counter(dict(database.execute(query).fetchall()))

    return count


def _by_flower(fleet: BesideFleet) -> Counter[str]:
    return Counter(task["state"] for task in tasks_of(fleet.watched_at).values())


def _batches(fleet: BesideFleet) -> Counter[str]:
    return Counter({"message": sum(int(note) for kind, note in fleet.witnessed() if kind == "batch")})


def workload(seq: int) -> str:
    """What Airflow's executor sends for a task instance whose DAG is numbered `seq`."""
    ti = {
        "id": str(uuid.UUID(int=seq)),
        "task_id": "nap",
        "dag_id": f"dag_{seq}",
        "run_id": "run",
        "try_number": 1,
        "dag_version_id": str(uuid.UUID(int=0)),
        "pool_slots": 1,
        "priority_weight": 1,
        "queue": "default",
    }
    bundle = {"name": "beside", "version": None}
    return json.dumps(
        {"type": "ExecuteTask", "token": "", "dag_rel_path": "d.py", "bundle_info": bundle, "log_path": None, "ti": ti}
    )


def _number_of_workload(text: Any) -> int:
    found = re.search(r'"dag_id": "dag_(\d+)"', str(text))
    return int(found[1]) if found else int(text)


SENTRY = Library(
    name="sentry-sdk",
    drill="20 of the 60 tasks fail: one transaction for each run, and in each report of an error the id, tag and "
    "breadcrumbs of its own task alone; initialised before the plugin is installed, or after it",
    module=f"{APPS}.sentry",
    environ={"SENTRY_DSN": "http://key@COLLECTOR/1", "BESIDE_ORDER": "before"},
    count=_by_sentry,
)
PYBRAKE = Library(
    name="pybrake",
    drill="20 of the 60 tasks fail: one notice for each; initialised before the plugin is installed, or after it",
    module=f"{APPS}.pybrake",
    environ={"BESIDE_ORDER": "before"},
    count=_by_airbrake,
)
OTEL = Library(
    name="opentelemetry-instrumentation-celery",
    drill="one span for each run, and none that ends in an error where a task yields",
    module=f"{APPS}.otel",
    count=_by_witness("span", "error"),
)
DDTRACE = Library(
    name="ddtrace",
    drill="one span for each run, and none that is an error where a task yields; a stand-in takes the agent's place",
    module=f"{APPS}.datadog",
    environ={
        "DD_TRACE_AGENT_URL": "http://COLLECTOR",
        "DD_INSTRUMENTATION_TELEMETRY_ENABLED": "false",
        "DD_REMOTE_CONFIGURATION_ENABLED": "false",
        "DD_TRACE_STARTUP_LOGS": "false",
    },
    count=_by_witness("span", "error"),
)
NEWRELIC = Library(
    name="newrelic",
    drill="one transaction for each run, in the agent's developer mode. It takes Celery's own Ignore for an error, and "
    "so each yield: `error_collector.ignore_classes` must name `sluicegate.workers.celery_inside.yields:YieldedRun`",
    module=f"{APPS}.newrelic_agent",
    environ={
        "NEW_RELIC_DEVELOPER_MODE": "true",
        "NEW_RELIC_APP_NAME": "beside",
        # The first run of each process waits until the agent is there, so that it is counted too.
        "NEW_RELIC_STARTUP_TIMEOUT": "10.0",
    },
    count=_by_witness("transaction", "error"),
)
DJANGO = Library(
    name="django-celery-results",
    drill="one row for each result",
    module=f"{APPS}.django_site",
    task="fleet.kept",
    before=(("migrate",),),
    count=_rows("select status, count(*) from django_celery_results_taskresult group by status"),
)
DJANGO_BEAT = Library(
    name="django-celery-beat",
    drill="what beat sends in the pause waits; each tick that was sent runs once",
    module=f"{APPS}.django_site",
    task="fleet.kept",
    before=(("migrate",), ("schedule",)),
    count=_by_witness("tick"),
)
REDBEAT = Library(
    name="celery-redbeat",
    drill="what beat sends in the pause waits; each tick that was sent runs once; the schedule is in Redis",
    module=f"{APPS}.redbeat_app",
    count=_by_witness("tick"),
)
SINGLETON = Library(
    name="celery-singleton",
    drill="a task that waits in the pause keeps its lock, so that it is not sent twice; no lock is left at the end",
    module=f"{APPS}.locking",
    task="fleet.singleton",
    arguments=(),
)
ONCE = Library(
    name="celery-once",
    drill="a task that waits in the pause keeps its lock, so that it is not sent twice; no lock is left at the end",
    module=f"{APPS}.locking",
    task="fleet.once",
    arguments=(),
)
FLOWER = Library(
    name="flower",
    drill="it goes on showing the paused worker, and hears of every task's end",
    module=f"{APPS}.watched",
    events=True,
    environ={"FLOWER_UNAUTHENTICATED_API": "true"},
    count=_by_flower,
)
FLASK = Library(
    name="flask",
    drill="each task runs within the context of its application",
    module=f"{APPS}.flask_app",
    task="fleet.flask",
    count=_by_witness("context"),
)
BATCHES = Library(
    name="celery-batches",
    drill="each message is in one batch, and starts when its batch does; or the worker refuses to start",
    group="batches",
    module=f"{APPS}.batches",
    task="fleet.batched",
    arguments=(),
    count=_batches,
)
AIO_POOL = Library(
    name="celery-aio-pool",
    drill="every async task is awaited to its end; or the worker refuses to start",
    module=f"{APPS}.aio",
    task="fleet.async_nap",
    environ={"CELERY_CUSTOM_WORKER_POOL": "celery_aio_pool.pool:AsyncIOPool"},
)
AIRFLOW = Library(
    name="apache-airflow-providers-celery",
    drill="the provider's own app and task, without what a workload does; one result for each",
    group="airflow",
    module=f"{APPS}.airflow_app",
    task="execute_workload",
    places={
        "AIRFLOW_HOME": "DIRECTORY/airflow",
        "AIRFLOW__CELERY__RESULT_BACKEND": "db+sqlite:///DIRECTORY/database",
        "AIRFLOW__CELERY__BROKER_URL": "BROKER",
        "AIRFLOW__CELERY__WORKER_PREFETCH_MULTIPLIER": "4",
        "AIRFLOW__CELERY_BROKER_TRANSPORT_OPTIONS__VISIBILITY_TIMEOUT": "3600",
    },
    number_of=_number_of_workload,
    count=_rows("select status, count(*) from celery_taskmeta group by status"),
)
