"""What one worker has in its hands, and how it comes back when the gate closes. Lives as long as the process.

The pool's side and the broker's side, and the loop that both stand on, are `celery_inside`'s; here is the order in
which they are asked: stop consuming, collect what has not started, hand it back, wait for what is in the pool,
acknowledge.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from redis.exceptions import ResponseError

from sluicegate.schemas.beats import ForcedTask, RunningTask, YieldedTask
from sluicegate.schemas.scopes import ScopeKind, Subject
from sluicegate.schemas.snapshots import Edition
from sluicegate.workers import ports
from sluicegate.workers.celery_inside import requests, waiting
from sluicegate.workers.cell import Cell
from sluicegate.workers.forced_ends import Endings
from sluicegate.workers.gate import Gate, Standing
from sluicegate.workers.ports import Loop, PoolSide, WayBack

log = logging.getLogger(__name__)

_BARRIER_LOOK_S = 0.001
_BARRIER_LOOK_AT_MOST_S = 0.05
_FRESH_EVERY_S = 1.0
_SWEEP_EVERY_S = 5.0
_RETRY_S = 0.1
_RETRY_AT_MOST_S = 5.0
_LAST_TRIES_S = 10.0


def _everything(request: Any) -> bool:
    return True


class Hands:
    """All methods run on the consumer's own thread, but for `hold`, `wake` and what the heartbeat says."""

    def __init__(self, worker: Any, cell: Cell, *, pool: PoolSide, way_back: WayBack, loop: Loop) -> None:
        self.worker = worker
        self.cell = cell
        self.pool = pool
        self.way_back = way_back
        self.loop = loop
        self.gate: Gate[Any] | None = None
        self._consumer: Any = None
        self._consume: Callable[..., None] | None = None
        self._is_consuming = False
        self._held: deque[Any] = deque()
        self._kept: list[Any] = []
        self._yielded: deque[Any] = deque()
        self._last_yields: dict[str, YieldedTask] = {}
        self.endings = Endings(pool, self._subject_of)
        self._kept_fresh_at = 0.0
        self._parked: dict[str, Any] = {}
        self._swept_at = 0.0
        self._swept_for: Edition | None = None
        self._next_look: Any = None
        self._next_look_at = 0.0
        self._looks = 0
        self._failures = 0
        self._last_failure = ""
        self._is_closing = False
        self._last_hand_back = threading.Lock()

    def stand_at(self, gate: Gate[Any]) -> None:
        """Have every start go through `gate` from here on; called once, before the pool starts."""
        self.gate = gate
        self.pool.guard(gate, self.hold)

    def hold(self, request: Any) -> None:
        """Keep a request that came to a closed gate, until the consumer's thread hands it back; from any thread."""
        self._held.append(request)
        # The flip has called for the consumer's thread already, unless that ran before this one came.
        self.wake()

    def take_yielded(self, request: Any) -> None:
        """A task stopped at a checkpoint: its message must go back to the head of its queue; from any thread."""
        task = requests.running_task(request, is_waiting=False)
        self._last_yields[request.id] = YieldedTask(task=task, at=datetime.now(UTC))
        self._yielded.append(request)
        if self._is_closing:
            self._hand_back_last()
        else:
            self.wake()

    def wake(self) -> None:
        """Have `tend` called soon on the consumer's thread; safe from any thread."""
        self.loop.wake()

    # -- the consumer ---------------------------------------------------------------------------------------

    def attach(self, consumer: Any) -> None:
        """Take hold of a new broker connection's task consumer, before its first `consume()`."""
        self._consumer = consumer
        self.way_back.attach(consumer, self.wake)
        self._owe_held()
        tasks = consumer.task_consumer
        self._consume = tasks.consume
        self._is_consuming = False
        self._parked.clear()
        self._swept_for = None
        tasks.consume = self.consume
        self.loop.attach(consumer, self.tend)

    def detach(self) -> None:
        """The broker connection is going: touch nothing of it any more. What is owed waits for the next one."""
        self._consumer = None

    def close(self) -> None:
        """The worker stops: its loop has ended; the connection stays until the pool has. Once is enough."""
        if self._is_closing:
            return
        self._is_closing = True
        if waiting := sum(self.pool.is_waiting(request) for request in requests.running_requests()):
            log.warning(
                "sluicegate: stopping while %d tasks wait at a checkpoint: those with a cursor go back to their queue, "
                "others keep this worker until they are resumed",
                waiting,
            )
        if self._consumer is not None:
            try:
                self.way_back.finish()
            except Exception as error:
                log.error("sluicegate: what was under way at the stop could not be read (%s)", error)
        self._hand_back_last()

    def _hand_back_last(self) -> None:
        """Hand back what yields while the worker stops; in whichever thread hears of it, since no loop runs."""
        give_up = time.monotonic() + _LAST_TRIES_S
        with self._last_hand_back:
            hand_back = self.way_back.hand_back
            while True:
                try:
                    self._owe_yielded()
                    if self.way_back.count_owed():
                        hand_back()
                    return
                except Exception as error:
                    if time.monotonic() > give_up:
                        log.error("sluicegate: handing back failed at the stop (%s): the broker must do it", error)
                        return
                    # The consumer's connection is gone, and may be why the worker stops.
                    hand_back = self.way_back.hand_back_apart
                    time.sleep(_RETRY_S)

    def register(self, hub: Any) -> None:
        """Listen for `wake` on the event loop; again after every reset of the hub."""
        self.loop.register(hub)
        # Celery cancels a broken connection's timer entries, ours among them: it would be waited for in vain.
        if self._next_look is not None:
            self._next_look.cancel()
            self._next_look = None
        self.tend()

    def consume(self, no_ack: bool | None = None) -> None:
        """In the place of the task consumer's `consume`: at boot, on reconnect and for an added queue."""
        assert self.gate is not None
        assert self._consume is not None
        standing = self.gate.standing
        if not standing.is_open:
            return
        self._park_queues(standing)
        self.way_back.before_consuming()
        self._consume(no_ack)
        self._is_consuming = True

    def tend(self) -> None:
        """Bring the consumer in line with the gate, and acknowledge once it is."""
        assert self.gate is not None
        self.gate.take_turns()
        standing, was_closed = self.gate.take_duty()
        if self._consumer is None:
            # No broker connection: nothing is consumed, and `register` comes here again after the reconnect.
            return
        try:
            if was_closed:
                self._stop_consuming()
                self._collect(_everything)
            elif standing.scoped:
                self._park_queues(standing)
                self._collect(self._is_held)
            self._owe_held()
            self._owe_yielded()
            self._end_overdue(standing)
            self.way_back.hand_back()
            self._keep_fresh()
            if standing.is_open:
                self._sweep_aside(standing)
                self.pool.go_on()
                self._start_consuming(standing)
            is_done = self._is_past_barrier(standing)
        except Exception as error:
            # Whatever the broker said (gone, read-only after a failover, no permission), a worker must not die of
            # a pause, nor go deaf: what is owed stays owed, and the reconnect or the next try hands it back.
            self._note_failure(error)
            return
        self._failures = 0
        if is_done and self.gate.acknowledge(standing):
            self.pool.forget_looks()
            self._looks = 0
            if standing.is_open and self.way_back.can_set_aside:
                # Somebody may have set tasks aside by older orders than ours, and be gone.
                self._look_again(_SWEEP_EVERY_S)
            elif requests.running_requests():
                self._look_again(_FRESH_EVERY_S)
            for due_in_s in (self.way_back.due_in_s(), self.gate.reopens_in_s()):
                if due_in_s is not None:
                    self._look_again(max(0.0, due_in_s))
            return
        self._looks += 1
        # A pause is most often complete within milliseconds; where it is not, nobody is helped by a busy loop.
        self._look_again(_BARRIER_LOOK_S if self._looks < 100 else _BARRIER_LOOK_AT_MOST_S)

    def _note_failure(self, error: Exception) -> None:
        said = f"{type(error).__name__}: {error}"
        if self._failures == 0 or said != self._last_failure:
            is_usual = isinstance(error, (*self._consumer.connection_errors, ResponseError))
            owed = self.way_back.count_owed()
            log.error("sluicegate: handing back failed, %d owed (%s)", owed, said, exc_info=not is_usual)
        self._last_failure = said
        self._look_again(min(_RETRY_AT_MOST_S, _RETRY_S * 2 ** min(self._failures, 6)))
        self._failures += 1

    def _look_again(self, delay_s: float) -> None:
        at = time.monotonic() + delay_s
        if self._next_look is not None:
            if at >= self._next_look_at:
                return
            self._next_look.cancel()
        self._next_look, self._next_look_at = self.loop.call_later(delay_s, self._on_next_look), at

    def _on_next_look(self) -> None:
        self._next_look = None
        self.tend()

    def _start_consuming(self, standing: Standing) -> None:
        kept, self._kept = self._kept, []
        for request in kept:
            self.worker.process_task(request)
        has_released = self._release_queues(standing)
        if not self._is_consuming or has_released:
            self.consume()

    def _park_queues(self, standing: Standing) -> None:
        """Stop consuming the queues that are held, and those alone."""
        tasks = self._consumer.task_consumer
        for queue in list(tasks.queues):
            if self._is_queue_held(standing, queue.name):
                self._parked[queue.name] = queue
                self.way_back.stop_queue(queue.name)

    def _release_queues(self, standing: Standing) -> bool:
        """Have those that are held no more consumed again; was there one?"""
        released = [name for name in self._parked if not self._is_queue_held(standing, name)]
        for name in released:
            queue = self._parked.pop(name)
            # Celery's own cancel_consumer may have come meanwhile.
            if name in self.queues():
                self._consumer.task_consumer.add_queue(queue)
        return bool(released)

    def _is_queue_held(self, standing: Standing, name: str) -> bool:
        assert self.gate is not None
        return standing.is_held(replace(self.gate.subject, queue=name))

    def _is_held(self, request: Any) -> bool:
        assert self.gate is not None
        return self.gate.standing.is_held(self._subject_of(request))

    def _sweep_aside(self, standing: Standing) -> None:
        """What was set aside and is held no more goes back, whoever set it aside: at each order, and now and then."""
        now = time.monotonic()
        if self.way_back.can_set_aside and (
            self._swept_for != standing.edition or now - self._swept_at >= _SWEEP_EVERY_S
        ):
            held = {hold.scope.name for hold in standing.scoped if hold.scope.kind is ScopeKind.TASK}
            self.way_back.hand_back_aside(held)
            if (news := self.way_back.look_at_redelivery()) is not None:
                log.warning("sluicegate: %s", news)
            self._swept_at, self._swept_for = now, standing.edition

    def _stop_consuming(self) -> None:
        self.way_back.stop_consuming()
        self._is_consuming = False

    # -- the way back ---------------------------------------------------------------------------------------

    def _collect(self, is_wanted: ports.Wanted) -> None:
        """Take those wanted of the requests that nothing has begun to run out of Celery's hands, and hold them."""
        self._held.extend(self.pool.unstarted(is_wanted))
        self._held.extend(waiting.rate_limited(self._consumer, is_wanted))
        self._held.extend(waiting.waiting_for_eta(self._consumer, is_wanted))

    def _owe_held(self) -> None:
        """Make a debt of every request that is held; one that fails leaves the others held, for the next try."""
        while self._held:
            request = self._held.popleft()
            requests.forget(request)
            if request.acknowledged:
                continue
            if self._is_to_be_set_aside(request):
                self.way_back.set_aside(request)
            elif not self.way_back.owe(request):
                # A broadcast has no list to go back to; it waits here and starts when the gate opens.
                self._kept.append(request)

    def _is_to_be_set_aside(self, request: Any) -> bool:
        """Back in its queue it would come again at once: the queue itself goes on."""
        assert self.gate is not None
        standing = self.gate.standing
        return self.way_back.can_set_aside and standing.is_task_held(self._subject_of(request))

    def _owe_yielded(self) -> None:
        while self._yielded:
            request = self._yielded[0]
            if not self.way_back.owe_yielded(request):
                self._kept.append(request)
            self._yielded.popleft()

    def _end_overdue(self, standing: Standing) -> None:
        """What a deadline ends is given back when its run is over."""
        over, look_in_s = self.endings.tend(standing.ending, requests.running_requests())
        for request in over:
            requests.forget(request)
            self.way_back.owe(request)
        if look_in_s is not None:
            self._look_again(look_in_s)

    def _subject_of(self, request: Any) -> Subject:
        assert self.gate is not None
        return requests.subject_of(request, self.gate.subject)

    def _keep_fresh(self) -> None:
        """Whose task waits at a checkpoint has not been lost, however long it takes."""
        now = time.monotonic()
        if now - self._kept_fresh_at >= _FRESH_EVERY_S:
            self._kept_fresh_at = now
            self.way_back.keep([r for r in requests.running_requests() if self.pool.is_waiting(r)])

    def _is_past_barrier(self, standing: Standing) -> bool:
        """Has everything held that was given to the pool started or come back? Then nothing of it can start."""
        if standing.is_free:
            return True
        # Asked in this order: what the pool lets go is held.
        is_wanted = self._is_held if standing.is_open else _everything
        return self.pool.is_past_barrier(is_wanted) and not self._held and not self.way_back.count_owed()

    # -- what the heartbeat says ------------------------------------------------------------------------------

    def running(self) -> tuple[RunningTask, ...]:
        """The tasks that the pool has accepted and not finished, forgotten ones too; from any thread."""
        running = [
            requests.running_task(request, is_waiting=self.pool.is_waiting(request))
            for request in requests.running_requests()
        ]
        # On their way back, and not there yet: a fleet is not drained before they are.
        known = {task.id for task in running}
        leaving = [request for request in (*list(self._yielded), *self.endings.under_way()) if request.id not in known]
        gone = [requests.running_task(request, is_waiting=False) for request in leaving]
        return (*self.pool.forgotten(), *running, *gone)

    def yielded(self) -> tuple[YieldedTask, ...]:
        """Which tasks gave their slot back at a checkpoint, while anything is held; from any thread.

        Read after `running`: what is in neither has finished.
        """
        assert self.gate is not None
        standing = self.gate.standing
        if standing.is_free:
            self._last_yields = {}
        return tuple(self._last_yields.copy().values())

    def forced(self) -> tuple[ForcedTask, ...]:
        """Which tasks a deadline ended, while anything is held; as `yielded`."""
        assert self.gate is not None
        standing = self.gate.standing
        if standing.is_free:
            self.endings.forget()
        return self.endings.told()

    def count_reserved(self) -> int:
        """How many messages are in hand and not started, ETA ones included; from any thread."""
        return waiting.count_reserved(self.worker) + self.way_back.count_in_hand()

    def enforces(self) -> tuple[str, ...]:
        """The kinds of scope whose holds are obeyed here."""
        return tuple(kind for kind in ScopeKind if kind is not ScopeKind.TASK or self.way_back.can_set_aside)

    def is_busy(self) -> bool:
        """Can anything still run here that a goodbye would deny?"""
        return self.pool.is_busy()

    def queues(self) -> tuple[str, ...]:
        """The names of the queues that this worker consumes when it is open."""
        return tuple(self.worker.app.amqp.queues.consume_from)
