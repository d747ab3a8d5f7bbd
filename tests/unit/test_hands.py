"""The order of a pause, and what is told of it: the hands of a worker between ports that are no Celery's."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock
from uuid import UUID

import pytest

from sluicegate.schemas.beats import RunningTask
from sluicegate.schemas.holds.hold import Hold, Holds
from sluicegate.schemas.modes import Mode
from sluicegate.schemas.scopes import Scope, Subject
from sluicegate.schemas.snapshots import Snapshot
from sluicegate.workers.cell import Cell
from sluicegate.workers.following import Following
from sluicegate.workers.gate import Gate, Standing
from sluicegate.workers.hand_back import HandBack
from sluicegate.workers.hands import Hands
from sluicegate.workers.ports import Sides
from sluicegate.workers.report import Identity, Report

NOW = datetime(2026, 3, 1, tzinfo=UTC)


@dataclass(slots=True)
class Request:
    id: str
    queue: str = "mail"
    name: str = "app.send"
    acknowledged: bool = False


@dataclass
class Pool:
    """Has what a test put there."""

    calls: list[str]
    name: str = "prefork"
    waiting: list[Request] = field(default_factory=list)
    is_started: bool = True

    def guard(self, gate: Gate[Any], hold: Callable[[Any], None]) -> None:
        self.hold = hold

    def unstarted(self, is_wanted: Callable[[Any], bool]) -> Iterable[Any]:
        self.calls.append("collect")
        taken = [request for request in self.waiting if is_wanted(request)]
        self.waiting = [request for request in self.waiting if request not in taken]
        return taken

    def go_on(self) -> None:
        self.calls.append("go on")

    def is_past_barrier(self, is_wanted: Callable[[Any], bool]) -> bool:
        self.calls.append("barrier")
        return self.is_started

    def forget_looks(self) -> None: ...

    def forgotten(self) -> tuple[RunningTask, ...]:
        return ()

    def is_waiting(self, request: Any) -> bool:
        return False


@dataclass
class WayBack:
    """Remembers what went back; `error` is raised instead."""

    calls: list[str]
    can_set_aside: bool = True
    owed: list[Request] = field(default_factory=list)
    aside: list[Request] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)
    error: Exception | None = None

    def attach(self, consumer: Any, wake: Callable[[], None]) -> None: ...

    def before_consuming(self) -> None:
        self.calls.append("before consuming")

    def listen_closed(self) -> None:
        self.calls.append("listen")

    def stop_consuming(self) -> None:
        self.calls.append("stop consuming")

    def stop_queue(self, queue: str) -> None:
        self.calls.append(f"stop {queue}")

    def set_aside(self, request: Any) -> None:
        self.aside.append(request)

    def hand_back_aside(self, held: Collection[str]) -> bool:
        self.calls.append("sweep")
        return False

    def owe(self, request: Any) -> bool:
        self.owed.append(request)
        return bool(request.queue != "broadcast")

    owe_yielded = owe

    def keep(self, requests: Iterable[Any]) -> None: ...

    def hand_back(self) -> None:
        self.calls.append("hand back")
        if self.error is not None:
            raise self.error
        self.gone += [request.id for request in self.owed]
        self.owed.clear()

    def count_owed(self) -> int:
        return len(self.owed)

    def look_at_redelivery(self) -> str | None:
        return None

    def count_in_hand(self) -> int:
        return 0

    def due_in_s(self) -> float | None:
        return None


class Consumer:
    """Consumes two queues."""

    def __init__(self, calls: list[str]) -> None:
        self.calls = calls
        self.consumed = {"mail": "the queue mail", "gpu": "the queue gpu"}

    def guard(self, gate: Gate[Any], hold: Callable[[Any], None]) -> None: ...

    def attach(self, consumer: Any, consume: Callable[[Callable[[], None]], None]) -> None:
        self.consume = lambda: consume(lambda: self.calls.append("consume"))

    def detach(self) -> None:
        self.calls.append("detach")

    def queues(self) -> dict[str, Any]:
        return dict(self.consumed)

    def add_queue(self, queue: Any) -> None:
        self.calls.append(f"add {queue}")

    def unstarted(self, is_wanted: Callable[[Any], bool]) -> Iterable[Any]:
        return ()

    def is_usual(self, error: Exception) -> bool:
        return isinstance(error, ConnectionError)


class Books:
    """Knows a request's queue and name."""

    def __init__(self) -> None:
        self.active: list[Any] = []
        self.started: list[str] = []

    def running(self) -> list[Any]:
        return list(self.active)

    def running_task(self, request: Any, *, is_waiting: bool) -> RunningTask:
        return RunningTask(id=request.id, name=request.name, is_waiting=is_waiting)

    def forget(self, request: Any) -> None: ...

    def parts(self, request: Any) -> tuple[Any, ...]:
        return getattr(request, "requests", (request,))

    def start(self, request: Any) -> None:
        self.started.append(request.id)

    def beside(self) -> tuple[str, ...]:
        return ()

    def count_reserved(self) -> int:
        return 0

    def queues(self) -> tuple[str, ...]:
        return ("gpu", "mail")

    def concurrency(self) -> int:
        return 2


class Loop:
    """Calls nothing by itself: the test does."""

    def __init__(self) -> None:
        self.entries: list[tuple[float, Callable[[], None]]] = []

    def attach(self, consumer: Any, tend: Callable[[], None]) -> None: ...

    def register(self, hub: Any) -> None: ...

    def wake(self) -> None: ...

    def close(self) -> None: ...

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> Any:
        entry = (delay_s, callback)
        self.entries.append(entry)
        return SimpleNamespace(cancel=lambda: self.entries.remove(entry))

    def come(self) -> float:
        """Call the one entry that is there; for how long it was asked to wait."""
        ((delay_s, callback),) = self.entries
        self.entries.clear()
        callback()
        return delay_s


class Worker:
    """One worker's hands, attached, with nothing in force yet."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.pool, self.way_back, self.loop = Pool(self.calls), WayBack(self.calls), Loop()
        self.books, self.consumer = Books(), Consumer(self.calls)
        subject = Subject(host="h", worker="w1@h")
        self.gate: Gate[Any] = Gate(
            Cell(),
            subject,
            wake=self.loop.wake,
            on_applied=lambda: None,
            subject_of=lambda request: Subject(host="h", worker="w1@h", queue=request.queue, task=request.name),
        )
        parts: Any = {"pool": self.pool, "way_back": self.way_back, "books": self.books, "consumer": self.consumer}
        sides = Sides(loop=self.loop, **parts)
        self.hands = Hands(self.gate, sides)
        self.hands.attach("a consumer")
        self.version = 0
        follower: Any = SimpleNamespace(is_stale=False, refused={}, following=Following(), shown=None)
        identity = Identity(nodename="w1@h", incarnation="1", host="h")
        self.report = Report(identity, gate=self.gate, follower=follower, hands=self.hands, sides=sides)

    def order(self, **modes: Mode) -> None:
        """Put holds into force: `all` is the global scope, any other name a task's or a queue's (`queue_`, `task_`)."""
        self.version += 1
        holds = frozenset(
            Hold(id=UUID(int=n), scope=scope_of(name), mode=mode, reason="r", actor="a", created_at=NOW)
            for n, (name, mode) in enumerate(modes.items())
        )
        state = Holds(version=self.version, active=holds)
        self.gate.put_in_force(Snapshot(namespace="n", epoch=1, holds=state, publication=1, issued_at=NOW))

    def tend(self) -> list[str]:
        """What the ports were asked, in order."""
        self.calls.clear()
        self.hands.tend()
        return list(self.calls)

    def has_acknowledged(self) -> bool:
        return self.gate.applied.edition.version == self.version

    def yielded(self) -> list[str]:
        return [told.task.id for told in self.report.beat(1, False).yielded]


def scope_of(name: str) -> Scope:
    kind, _, rest = name.partition("_")
    return Scope.parse("global" if kind == "all" else f"{kind}:{rest.replace('_', '.')}")


@pytest.fixture
def worker() -> Worker:
    made = Worker()
    made.order()
    made.tend()
    return made


def test_a_pause_stops_consuming_collects_hands_back_waits_for_the_barrier_and_acknowledges(worker: Worker) -> None:
    worker.pool.waiting = [Request("a"), Request("b")]
    worker.order(all=Mode.DRAIN)
    assert worker.tend() == ["stop consuming", "collect", "hand back", "barrier"]
    assert worker.way_back.gone == ["a", "b"]
    assert worker.has_acknowledged()


def test_a_resume_hands_back_what_came_meanwhile_and_consumes_again(worker: Worker) -> None:
    worker.order(all=Mode.DRAIN)
    worker.tend()
    worker.pool.hold(Request("late"))
    worker.order()
    # What was under way when the gate opened goes back first: newer ones may not start before it.
    order = worker.tend()
    assert order.index("hand back") < order.index("go on") < order.index("before consuming") < order.index("consume")
    assert worker.way_back.gone == ["late"]
    assert worker.has_acknowledged()


def test_nothing_is_acknowledged_before_the_barrier_and_the_looks_at_it_grow_rarer(worker: Worker) -> None:
    worker.pool.is_started = False
    worker.order(all=Mode.DRAIN)
    worker.tend()
    waits = [worker.loop.come() for _ in range(120)]
    assert not worker.has_acknowledged()
    assert (waits[0], waits[-1]) == (0.001, 0.05)
    worker.pool.is_started = True
    worker.loop.come()
    assert worker.has_acknowledged()


def test_what_is_still_owed_is_not_acknowledged_said_once_and_tried_again_more_and_more_rarely(
    worker: Worker, caplog: pytest.LogCaptureFixture
) -> None:
    worker.pool.waiting = [Request("a")]
    worker.way_back.error = ConnectionError("gone")
    worker.order(all=Mode.DRAIN)
    worker.tend()
    waits = [worker.loop.come() for _ in range(8)]
    assert not worker.has_acknowledged()
    assert waits == sorted(waits)
    assert (waits[0], waits[-1]) == (0.1, 5.0)
    assert [record.getMessage() for record in caplog.records if "failed" in record.getMessage()] == [
        "sluicegate: handing back failed, 1 owed (ConnectionError: gone)"
    ]
    worker.way_back.error = None
    worker.loop.come()
    assert worker.has_acknowledged()
    assert worker.way_back.gone == ["a"]


def test_a_held_queue_alone_is_stopped_and_consumed_again(worker: Worker) -> None:
    worker.pool.waiting = [Request("a"), Request("b", queue="gpu")]
    worker.order(queue_gpu=Mode.DRAIN)
    calls = worker.tend()
    assert "stop gpu" in calls
    assert not {"stop mail", "stop consuming"} & set(calls)
    assert worker.way_back.gone == ["b"]
    worker.order()
    assert "add the queue gpu" in worker.tend()


def test_a_connection_that_comes_while_the_gate_is_closed_is_listened_to_and_not_consumed(worker: Worker) -> None:
    """At boot, and after a reconnect: what is nowhere but under way must not be missed."""
    worker.order(all=Mode.DRAIN)
    worker.tend()
    worker.calls.clear()
    worker.consumer.consume()
    assert worker.calls == ["listen"]


def test_a_held_task_of_a_free_queue_is_set_aside(worker: Worker) -> None:
    worker.pool.waiting = [Request("a"), Request("b", name="app.train")]
    worker.order(task_app_train=Mode.DRAIN)
    worker.tend()
    assert [request.id for request in worker.way_back.aside] == ["b"]
    assert [request.id for request in worker.pool.waiting] == ["a"]


def test_what_has_no_way_back_waits_here_and_starts_when_the_gate_opens(worker: Worker) -> None:
    worker.order(all=Mode.DRAIN)
    worker.pool.hold(Request("a", queue="broadcast"))
    worker.way_back.owed = []
    worker.tend()
    assert worker.books.started == []
    worker.order()
    worker.tend()
    assert worker.books.started == ["a"]


def test_while_no_connection_is_there_no_port_to_it_is_touched(worker: Worker) -> None:
    worker.hands.detach()
    worker.order(all=Mode.DRAIN)
    assert worker.tend() == []
    assert not worker.has_acknowledged()


def test_what_yielded_is_told_while_anything_is_held_and_forgotten_afterwards(worker: Worker) -> None:
    worker.order(all=Mode.QUIESCE)
    worker.hands.hand_back.take_yielded(Request("a"))
    worker.tend()
    assert worker.yielded() == ["a"]
    worker.order()
    worker.tend()
    assert worker.yielded() == []


@pytest.mark.parametrize("look", range(6))
def test_a_question_loses_no_yield_that_comes_while_it_is_asked(
    worker: Worker, monkeypatch: pytest.MonkeyPatch, look: int
) -> None:
    """The heart's thread once read that nothing is held, was interrupted by a hold and a yield to it, and forgot."""

    def a_task_yields_to_a_new_hold() -> None:
        worker.order(all=Mode.QUIESCE)
        worker.hands.hand_back.take_yielded(Request("a"))

    with interrupted_after(look, worker.gate, monkeypatch, a_task_yields_to_a_new_hold):
        worker.yielded()
    assert worker.yielded() == ["a"]


def test_the_consumer_s_thread_forgets_no_yield_to_a_hold_that_comes_while_it_looks(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    take_duty = worker.gate.take_duty

    def then_a_task_yields() -> tuple[Standing, bool]:
        duty = take_duty()
        worker.order(all=Mode.QUIESCE)
        worker.hands.hand_back.take_yielded(Request("a"))
        return duty

    monkeypatch.setattr(worker.gate, "take_duty", then_a_task_yields)
    worker.tend()
    assert worker.yielded() == ["a"]


@contextmanager
def interrupted_after(
    looks: int, gate: Gate[Any], monkeypatch: pytest.MonkeyPatch, interrupt: Callable[[], None]
) -> Iterator[None]:
    """Let `interrupt` happen right after the standing has been read so often; at the latest at the end."""
    left = [interrupt, *[None] * looks]

    class Interrupted(Gate[Any]):
        @property
        def standing(self) -> Standing:
            found: Standing = self.__dict__["standing"]
            if left and (due := left.pop()) is not None:
                due()
            return found

        @standing.setter
        def standing(self, value: Standing) -> None:
            self.__dict__["standing"] = value

    with monkeypatch.context() as patch:
        patch.setattr(gate, "__class__", Interrupted)
        yield
    if left:
        interrupt()


def test_one_forced_end_that_cannot_go_back_yet_costs_no_other_of_its_batch():
    """S5: what of a batch is left is there at the next call, which may bring nothing new."""
    way_back = Mock()
    way_back.owe.side_effect = [None, ConnectionError("the broker is away"), None, None]
    hand_back = HandBack(Mock(), way_back=way_back, books=Mock(), wake=Mock())
    with pytest.raises(ConnectionError):
        hand_back.owe_ended(["a", "b", "c"])
    assert not hand_back.is_done()
    hand_back.owe_ended([])
    owed = [call.args[0] for call in way_back.owe.call_args_list]
    assert owed == ["a", "b", "b", "c"]
