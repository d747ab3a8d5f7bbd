"""A pytest plugin for Celery's own integration tests: their session worker runs behind the gate.

With `SLUICEGATE_SUITE_PAUSES` set to seconds, an operator pauses and resumes the fleet that often meanwhile.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import celery.contrib.testing.worker as testing

import sluicegate
from sluicegate.control.client import Client
from sluicegate.schemas.settings import TOKEN, URL
from tests.fleet.waiting import until

start_plainly = testing.start_worker


@contextmanager
def start_behind_the_gate(app: Any, **parameters: Any) -> Iterator[Any]:
    """The same worker, with the plugin in it, once it is open."""
    sluicegate.install(app)
    with start_plainly(app, **parameters) as worker:
        member: Any = worker.sluicegate  # type: ignore[attr-defined]
        until("the gate is open", lambda: member.gate.applied.edition.version > 0)
        with pausing_now_and_then(float(os.environ.get("SLUICEGATE_SUITE_PAUSES", "0"))):
            yield worker


@contextmanager
def pausing_now_and_then(every_s: float) -> Iterator[None]:
    """Pause for a second, every `every_s` seconds; never where it is 0."""
    stop = threading.Event()

    def operate() -> None:
        with Client(os.environ[URL.name], os.environ[TOKEN.name]) as client:
            while not stop.wait(every_s):
                client.pause(mode="drain", reason="suite")
                stop.wait(1.0)
                client.resume(reason="suite", force=True)

    operator = threading.Thread(target=operate, daemon=True)
    if every_s:
        operator.start()
    yield
    stop.set()
    if every_s:
        operator.join()


testing.start_worker = start_behind_the_gate  # type: ignore[assignment]
