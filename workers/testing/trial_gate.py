"""A gate that a test opens and closes: the holds that are in force, and the worker that obeys them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from sluicegate.schemas.beats import RunningTask
from sluicegate.schemas.errors import Refused
from sluicegate.schemas.holds.hold import Hold, HoldKey, Holds, check_reason
from sluicegate.schemas.holds.transitions import place, release
from sluicegate.schemas.modes import Mode
from sluicegate.schemas.names import DEFAULT_NAMESPACE
from sluicegate.schemas.scopes import Scope
from sluicegate.schemas.snapshots import Snapshot
from sluicegate.workers.celery_inside.in_trial import tasks_as_they_were
from sluicegate.workers.checkpoints import station_for_a_while
from sluicegate.workers.steps import FollowHolds, GuardConsumer
from sluicegate.workers.testing.shelf import cursors_in_memory
from sluicegate.workers.testing.trial_member import TrialMember

ACTOR = "a test"
TIMEOUT_S = 10.0
_LOOK_S = 0.01


class TrialGate:
    """Stands before the worker of one app. Orders are in force at once, for a worker that comes later too.

    One worker at a time: Celery keeps what runs in one book for the whole process.
    """

    def __init__(self, labels: Mapping[str, str]) -> None:
        self._labels = labels
        self._holds = Holds(version=1)
        self._cursors = cursors_in_memory()
        self._member: TrialMember | None = None
        self._on_worker = ExitStack()
        self._changed = threading.Condition()

    # -- what a test does -------------------------------------------------------------------------------------

    def pause(self, *, mode: str = "drain", scope: str = "global", reason: str = "a test") -> None:
        """Place a hold, as `Client.pause` does; raises InvalidInput. `wait_paused` waits until it is obeyed."""
        wish = Hold(
            id=uuid4(),
            scope=Scope.parse(scope),
            mode=Mode.of_hold(mode),
            reason=check_reason(reason),
            actor=ACTOR,
            created_at=datetime.now(UTC),
        )
        self._put_in_force(place(self._holds, wish).holds)

    def resume(self, *, scope: str = "global", reason: str = "a test") -> None:
        """Release the hold of `scope`; does nothing where there is none. Raises InvalidInput."""
        key = HoldKey(scope=Scope.parse(scope))
        change = release(self._holds, key, actor=ACTOR, reason=check_reason(reason), now=datetime.now(UTC))
        self._put_in_force(change.holds)

    def wait_paused(self, timeout_s: float = TIMEOUT_S) -> None:
        """Until the worker has acknowledged all orders: what is held cannot start any more, and is in its queue.

        What ran before still runs. Raises TimeoutError, and Refused where no worker stands here or nothing is held.
        """
        if not self._holds.active:
            raise Refused("nothing is paused: call pause() first")
        self._wait(lambda member: member.has_applied(), timeout_s)

    def wait_drained(self, timeout_s: float = TIMEOUT_S) -> None:
        """As `wait_paused`, and until nothing that is held runs but tasks that wait at a checkpoint."""
        if not self._holds.active:
            raise Refused("nothing is paused: call pause() first")
        self._wait(lambda member: member.has_applied() and not member.held_and_running(), timeout_s)

    def wait_resumed(self, timeout_s: float = TIMEOUT_S) -> None:
        """Until the worker has acknowledged all orders, and consumes what is not held any more; raises as above."""
        self._wait(lambda member: member.has_applied(), timeout_s)

    @property
    def running(self) -> tuple[RunningTask, ...]:
        """What runs; of each task its id, name and queue, and whether it waits at a checkpoint."""
        return () if self._member is None else self._member.report.running()

    def cursor_of(self, task_id: str) -> Any:
        """With what the next run of this task goes on; None where it never stopped, or has ended."""
        return self._cursors.load(task_id)

    def _wait(self, is_done: Callable[[TrialMember], bool], timeout_s: float) -> None:
        ends_at = time.monotonic() + timeout_s
        with self._changed:
            while True:
                member = self._member
                if member is None or member.has_left:
                    raise Refused("no worker stands at this gate: start it inside the block of gate()")
                if is_done(member):
                    return
                if time.monotonic() > ends_at:
                    raise TimeoutError(_what_is_missing(member, timeout_s))
                # That a task ended is told by nobody.
                self._changed.wait(_LOOK_S)

    # -- what the worker's step does --------------------------------------------------------------------------

    def take_in(self, worker: Any) -> TrialMember:
        """A worker was made; raises InvalidSetting for one that cannot be held, Refused beside another."""
        if self._member is not None and not self._member.has_left:
            raise Refused("a worker stands at this gate already: one at a time")
        self._let_go()
        # First: a member stands before some tasks as soon as it is made.
        self._on_worker.enter_context(tasks_as_they_were(worker.app))
        member = TrialMember(worker, self._cursors, labels=self._labels, on_applied=self._tell)
        self._on_worker.callback(lambda: member.end(self._snapshot(Holds(version=self._holds.version + 1))))
        self._on_worker.enter_context(station_for_a_while(member.station, member.cell.flags))
        member.prepare_tasks()
        member.gate.put_in_force(self._snapshot(self._holds))
        self._member = member
        return member

    def end(self) -> None:
        """Nothing is held any more, and nothing is left of it on the app."""
        self._let_go()

    def _let_go(self) -> None:
        self._on_worker.close()
        self._on_worker = ExitStack()

    def _put_in_force(self, holds: Holds) -> None:
        self._holds = holds
        if self._member is not None:
            self._member.gate.put_in_force(self._snapshot(holds))

    def _snapshot(self, holds: Holds) -> Snapshot:
        return Snapshot(
            namespace=DEFAULT_NAMESPACE, epoch=1, holds=holds, publication=holds.version, issued_at=datetime.now(UTC)
        )

    def _tell(self) -> None:
        with self._changed:
            self._changed.notify_all()


def _what_is_missing(member: TrialMember, timeout_s: float) -> str:
    name = member.subject.worker
    if not member.has_applied():
        return f"{name} has not acknowledged within {timeout_s:g} s; running: {_names(member.report.running())}"
    return f"{name} still runs what is held after {timeout_s:g} s: {_names(member.held_and_running())}"


def _names(tasks: tuple[RunningTask, ...]) -> str:
    return ", ".join(f"{task.name}[{task.id}]" for task in tasks) or "nothing"


@contextmanager
def gate(app: Any, *, labels: Mapping[str, str] | None = None) -> Iterator[TrialGate]:
    """A gate before the worker that is started for `app` within this block; open, until the test closes it.

    `install(app)` may have been called or not; settings are not read. `labels` are the worker's. At the end the app
    is as it was.
    """
    trial = TrialGate(dict(labels or {}))
    workers, consumers = app.steps["worker"], app.steps["consumer"]
    followers = {step for step in workers if issubclass(step, FollowHolds)}
    ours, added = _step_of(trial), {GuardConsumer} - consumers
    workers.difference_update(followers)
    workers.add(ours)
    consumers.update(added)
    try:
        yield trial
    finally:
        workers.discard(ours)
        workers.update(followers)
        consumers.difference_update(added)
        trial.end()


def _step_of(trial: TrialGate) -> type[FollowHolds]:
    class FollowTrial(FollowHolds):
        """In the place of the step that follows a fleet."""

        def include_if(self, w: Any) -> bool:
            return True

        def create(self, w: Any) -> Any:
            w.sluicegate = trial.take_in(w)
            return w.sluicegate

        def stop(self, w: Any) -> None:
            w.sluicegate.leave()

        def terminate(self, w: Any) -> None:
            w.sluicegate.leave()

    return FollowTrial
