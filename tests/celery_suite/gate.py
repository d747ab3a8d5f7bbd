"""A pytest plugin for Celery's own integration tests: their session worker runs behind the gate.

With `SUITE_PAUSES_S` set to seconds, an operator pauses and resumes the fleet that often meanwhile, and writes how many
of its pauses the worker acknowledged to the file that `SUITE_REPORT` names.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import celery.contrib.testing.worker as testing

import sluicegate
from sluicegate.control.client import Client
from sluicegate.schemas.beats import WorkerState
from sluicegate.schemas.settings import TOKEN, URL
from tests.fleet.waiting import until

PAUSES_S = "SUITE_PAUSES_S"
REPORT = "SUITE_REPORT"
HELD_S = 1.0
"""For how long each pause lasts once it is acknowledged."""

ACKNOWLEDGED_WITHIN_S = 60.0
"""A task that was running when the pause came may take its time to be accepted."""

start_plainly = testing.start_worker


@contextmanager
def start_behind_the_gate(app: Any, **parameters: Any) -> Iterator[Any]:
    """The same worker, with the plugin in it, once it is open."""
    sluicegate.install(app)
    with start_plainly(app, **parameters) as worker:
        member: Any = worker.sluicegate  # type: ignore[attr-defined]
        until("the gate is open", lambda: member.gate.standing.is_open)
        with pausing_now_and_then(member.gate, float(os.environ.get(PAUSES_S, "0"))):
            yield worker


@contextmanager
def pausing_now_and_then(gate: Any, every_s: float) -> Iterator[None]:
    """Pause for a second, every `every_s` seconds; never where it is 0. What the operator met is raised at the end."""
    stop = threading.Event()
    errors: list[Exception] = []
    acknowledged = 0

    def operate() -> None:
        nonlocal acknowledged
        try:
            with Client(os.environ[URL.name], os.environ[TOKEN.name]) as client:
                while not stop.wait(every_s):
                    client.pause(mode="drain", reason="suite")
                    until("the pause is acknowledged", lambda: is_paused(gate), within_s=ACKNOWLEDGED_WITHIN_S)
                    acknowledged += 1
                    stop.wait(HELD_S)
                    client.resume(reason="suite", force=True)
        except Exception as error:
            errors.append(error)

    operator = threading.Thread(target=operate, daemon=True)
    if every_s:
        operator.start()
    try:
        yield
    finally:
        stop.set()
        if every_s:
            operator.join()
            Path(os.environ[REPORT]).write_text(str(acknowledged))
    if errors:
        raise errors[0]


def is_paused(gate: Any) -> bool:
    """Has the worker acknowledged a pause, and holds it?"""
    return bool(gate.state is WorkerState.PAUSED)


def pytest_configure() -> None:
    """Celery's fixture looks `start_worker` up when it starts its worker."""
    testing.start_worker = start_behind_the_gate  # type: ignore[assignment]
