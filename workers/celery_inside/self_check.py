"""Is this worker's Celery, and its app, what sluicegate was written against? Looked at once, when the worker starts.

`read` looks, `judge` finds; what is found is said in one line each, and what no gate can hold is refused.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import amqp
import billiard
import celery
import kombu
from celery import Task, bootsteps
from celery.app import trace
from celery.utils.imports import symbol_by_name
from celery.worker import strategy
from celery.worker.request import Request

from sluicegate.schemas.errors import InvalidSetting
from sluicegate.workers.celery_inside.batches import is_obeyed
from sluicegate.workers.celery_inside.relied_on import READ_FROM
from sluicegate.workers.log import logger

log = logger(__name__)

_RELIED_ON_OF_REQUEST = ("on_accepted", "acknowledge", "reject")


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What was read. Names of classes and functions are `module.name`.

    `versions`: of the libraries. `tracer`: whose `build_tracer` stands in the place of Celery's; None: its own does.
    `strategies`: of the tasks that hand over by another than Celery's own and are not known, by the task's name;
    `requests`: the methods that a task's own Request class has of those that are relied on. `unacknowledged`: queues
    that are consumed without acknowledgements. `steps`: consumer steps that handle messages and do not ask the gate.
    """

    versions: Mapping[str, str] = field(default_factory=dict)
    tracer: str | None = None
    strategies: Mapping[str, str] = field(default_factory=dict)
    requests: Mapping[str, str] = field(default_factory=dict)
    unacknowledged: tuple[str, ...] = ()
    steps: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that is not as foreseen: what it is, and what follows, as one line. `level`: of `logging`."""

    what: str
    says: str
    is_refused: bool = False
    level: int = logging.WARNING


def judge(seen: Seen) -> list[Finding]:
    """Everything that is not as foreseen, what is refused first. Pure."""
    return [*_refused(seen.strategies), *_not_as_foreseen(seen)]


def _refused(strategies: Mapping[str, str]) -> Iterator[Finding]:
    for task, name in sorted(strategies.items()):
        yield Finding(
            what="task",
            says=f"{task} hands its messages over by a strategy of its own ({name}), which no pause could hold: leave "
            f"it out of this worker's app, or run the worker with SLUICEGATE_ENABLED=false",
            is_refused=True,
        )


def _not_as_foreseen(seen: Seen) -> Iterator[Finding]:
    for package, version in sorted(seen.versions.items()):
        if ".".join(version.split(".")[:2]) not in READ_FROM[package]:
            known = ", ".join(READ_FROM[package])
            yield Finding(what=package, says=f"{version} was never tried with sluicegate ({known} were)")
    if seen.tracer is not None:
        says = f"is {seen.tracer}, in the place of Celery's own: it is called as ever, and a start is seen within it"
        yield Finding(what="build_tracer", says=says, level=logging.INFO)
    for task, methods in sorted(seen.requests.items()):
        says = f"{task} has a Request class with its own {methods}: it must call Celery's, or nothing is known of a run"
        yield Finding(what="task", says=says)
    if seen.unacknowledged:
        names = ", ".join(seen.unacknowledged)
        says = f"{names} is consumed without acknowledgements: what a worker has in hand dies with it"
        yield Finding(what="queue", says=says)
    for step in seen.steps:
        says = f"{step} handles messages and does not ask the gate: no pause holds it (docs/consumer-steps.md)"
        yield Finding(what="consumer step", says=says)


def read(worker: Any) -> Seen:
    """What there is to judge of `worker`, before its pool forks."""
    app = worker.app
    tasks = dict(app.tasks)
    return Seen(
        versions={module.__name__: module.__version__ for module in (celery, kombu, billiard, amqp)},
        tracer=_strange_tracer(),
        strategies=strange_strategies(tasks),
        requests=_own_requests(tasks),
        unacknowledged=tuple(name for name, queue in app.amqp.queues.consume_from.items() if queue.no_ack),
        steps=steps_beside(app),
    )


def strange_strategies(tasks: Mapping[str, Any]) -> dict[str, str]:
    """Of the tasks that hand over by a strategy that is neither Celery's nor known: its name, by the task's."""
    return {
        name: _name_of(getattr(found, "__func__", found))
        for name, task in tasks.items()
        if (found := _strategy_of(task)) is not strategy.default and not is_obeyed(task)
    }


def _strategy_of(task: Any) -> Any:
    """What builds the function that takes this task's messages: `Task.start_strategy` calls its `Strategy`."""
    own = type(task).start_strategy
    return symbol_by_name(task.Strategy) if own is Task.start_strategy else own


def _own_requests(tasks: Mapping[str, Any]) -> dict[str, str]:
    found = {}
    for name, task in tasks.items():
        own = symbol_by_name(task.Request)
        methods = [name for name in _RELIED_ON_OF_REQUEST if getattr(own, name, None) is not getattr(Request, name)]
        if methods:
            found[name] = ", ".join(methods)
    return found


def _strange_tracer() -> str | None:
    found: Any = trace.build_tracer
    # Not by its name: who wraps it may have given theirs the same.
    code = getattr(found, "__code__", None)
    return None if code is not None and code.co_filename == trace.__file__ else _name_of(found)


def _name_of(found: Any) -> str:
    named = found if hasattr(found, "__qualname__") else type(found)
    # A bootstep's metaclass has put the module into the latter.
    name = str(named.__qualname__)
    return name if name.startswith(f"{named.__module__}.") else f"{named.__module__}.{name}"


def steps_beside(app: Any) -> tuple[str, ...]:
    """The consumer steps that were added to `app`, handle messages, and do not say that they ask the gate."""
    steps = [symbol_by_name(step) for step in app.steps["consumer"]]
    return tuple(sorted(_name_of(step) for step in steps if _handles_messages(step) and not _asks(step)))


def _handles_messages(step: Any) -> bool:
    return isinstance(step, type) and (issubclass(step, bootsteps.ConsumerStep) or hasattr(step, "get_consumers"))


def _asks(step: Any) -> bool:
    return bool(getattr(step, "asks_gate", False))


def say(findings: Iterable[Finding]) -> None:
    """Each in one line of the log; raises InvalidSetting for what is refused, all of that in one line."""
    found = list(findings)
    if refused := [one for one in found if one.is_refused]:
        raise InvalidSetting(refused[0].what, "; ".join(one.says for one in refused))
    for one in found:
        log.log(one.level, "sluicegate: not as foreseen: %s: %s", one.what, one.says)


def refuse_strategies(app: Any) -> None:
    """Raises InvalidSetting where a task of `app` hands over as no pause could hold."""
    say(_refused(strange_strategies(app.tasks)))
