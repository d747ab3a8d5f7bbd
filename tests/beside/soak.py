"""The soak beside a library: many pauses, and the library's own count beside plain Celery's of as many tasks.

    make soak N=200 ARGS="--beside sentry"

Half of the pauses with early acknowledgement, half with late. Each chapter is judged by the checker. When all is done,
as many tasks run on plain Celery with the same library, and what it counted there must be what it counted here.
"""

from __future__ import annotations

import random
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from sluicegate.control.process.stack import Stack
from tests.beside import libraries
from tests.beside.fleet import BesideFleet
from tests.beside.libraries import Library
from tests.beside.processes import flower
from tests.fleet.checker import Verdict
from tests.fleet.harness import Feeder

NAP_S = 0.02
CHAPTER = 25
"""Pauses that are judged together; the queue is run dry between two chapters."""

LIBRARIES: dict[str, Library] = {
    "sentry": libraries.SENTRY,
    "sentry-after": replace(libraries.SENTRY, environ={**libraries.SENTRY.environ, "BESIDE_ORDER": "after"}),
    "opentelemetry": libraries.OTEL,
    "ddtrace": libraries.DDTRACE,
    "newrelic": libraries.NEWRELIC,
    "batches": libraries.BATCHES,
    "django": libraries.DJANGO,
    "flask": libraries.FLASK,
    "flower": libraries.FLOWER,
    "airflow": libraries.AIRFLOW,
}


def run(
    name: str, pauses: int, say: Callable[[str], None], add: Callable[[Verdict], None], *, pool: str, seed: int | None
) -> dict[str, Any]:
    """Pause `pauses` times beside the library of that name; `add` gets each verdict. What the library counted."""
    library, chance = _with_short_tasks(LIBRARIES[name]), random.Random(seed)
    counted: dict[str, Counter[str]] = {"here": Counter(), "plain": Counter()}
    tasks = 0
    with (
        tempfile.TemporaryDirectory(prefix="sluicegate-soak-", ignore_cleanup_errors=True) as directory,
        Stack(Path(directory) / "stack", durable=False, actor="soak") as stack,
    ):
        for acks_late in (False, True):
            share = (pauses + (not acks_late)) // 2
            if not share:
                continue
            say(f"{name}, {pool}, {'late' if acks_late else 'early'} acknowledgement: {share} pauses")
            with BesideFleet(stack, library, pool=pool, acks_late=acks_late) as fleet, _started(fleet):
                sent = 0
                for first in range(0, share, CHAPTER):
                    chapter = min(CHAPTER, share - first)
                    add(_pause_often(fleet, chapter, chance))
                    sent += len(fleet.sent)
                    say(f"  {first + chapter} of {share} pauses, {sent} tasks")
                counted["here"] += _count(fleet, sent)
            say(f"  and {sent} tasks on plain Celery")
            with BesideFleet(stack, library, pool=pool, acks_late=acks_late, plugin=False) as fleet, _started(fleet):
                fleet.send_work(sent)
                fleet.wait_done(within_s=60 + sent)
                counted["plain"] += _count(fleet, sent)
            tasks += sent
    return {"library": name, "tasks": tasks, "counted": dict(counted["here"]), "onPlainCelery": dict(counted["plain"])}


def _with_short_tasks(library: Library) -> Library:
    """The queue is kept full: no task need be long for a pause to find work."""
    environ = {**library.environ, "BESIDE_TAKES_S": str(NAP_S)}
    return replace(library, arguments=(NAP_S,) if library.arguments else (), environ=environ)


@contextmanager
def _started(fleet: BesideFleet) -> Iterator[None]:
    if not fleet.library.events:
        fleet.begin()
        yield
        return
    with flower(fleet) as address:
        fleet.watched_at = address
        fleet.begin()
        yield


def _pause_often(fleet: BesideFleet, pauses: int, chance: random.Random) -> Verdict:
    fleet.turn_page()
    with Feeder(fleet, low=60, send=lambda count: _feed(fleet, count)):
        for _ in range(pauses):
            fleet.wait_started(len(fleet.started()) + chance.randint(1, 12))
            # Not always right after a start: a pause can be in force before the next one.
            time.sleep(chance.uniform(0, 0.03))
            fleet.pause("soak")
            fleet.wait_drained()
            fleet.resume("soak")
            fleet.wait_open()
    fleet.wait_done()
    return fleet.check()


def _feed(fleet: BesideFleet, count: int) -> None:
    fleet.send_work(count)


def _count(fleet: BesideFleet, tasks: int) -> Counter[str]:
    """What the library counts once its worker has ended in order, and given it a moment."""
    fleet.workers["w1"].stop()
    fleet.wait_own_work(Counter(dict.fromkeys(fleet.own_work(), tasks)), within_s=10)
    return fleet.own_work()
