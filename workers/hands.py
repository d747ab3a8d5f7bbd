"""What one worker has in its hands, and the order of a pause. Lives as long as the process.

Stop consuming, collect what has not started, hand it back, wait for the barrier, acknowledge: `Hands.tend` and `_obey`
are that order, and each step is a part's of its own (`intake`, `hand_back`, `forced_ends`, `upkeep`, `next_look`). The
pool, the broker, Celery's consumer and books, and the loop are behind `ports`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from sluicegate.workers.forced_ends import ForcedEnds
from sluicegate.workers.gate import Gate, Standing
from sluicegate.workers.hand_back import HandBack
from sluicegate.workers.intake import Intake
from sluicegate.workers.log import logger
from sluicegate.workers.next_look import NextLook
from sluicegate.workers.own_starts import OwnStarts
from sluicegate.workers.ports import Sides, Wanted
from sluicegate.workers.run_ends import RunEnds
from sluicegate.workers.upkeep import Upkeep

log = logger(__name__)


def _everything(request: Any) -> bool:
    return True


class Hands:
    """All methods run on the consumer's own thread, but for `wake`.

    Every start goes through `gate` from here on; so it is made before the pool starts.
    """

    def __init__(self, gate: Gate[Any], sides: Sides) -> None:
        self._gate = gate
        self._pool = sides.pool
        self._way_back = sides.way_back
        self._loop = sides.loop
        self._books = sides.books
        self._intake = Intake(gate, consumer=sides.consumer, way_back=sides.way_back, books=sides.books)
        self.hand_back = HandBack(gate, way_back=sides.way_back, books=sides.books, wake=sides.loop.wake)
        self.own_starts = OwnStarts(gate, sides.loop.wake)
        self.forced_ends = ForcedEnds(sides.pool, sides.books, gate.subject_of)
        self.run_ends = RunEnds(sides.books, standing=lambda: gate.standing, subject_of=gate.subject_of)
        self._upkeep = Upkeep(pool=sides.pool, way_back=sides.way_back, books=sides.books)
        self._next_look = NextLook(sides.loop, self.tend)
        self._last_failure = ""
        self._is_closing = False
        self._after_tend: Callable[[], None] = lambda: None
        sides.pool.guard(gate, self.hand_back.hold)
        sides.consumer.guard(gate, self.hand_back.hold)

    def tend_too(self, tend: Callable[[], None]) -> None:
        """Have `tend` called too, each time that the worker has been brought in line; it must not raise."""
        self._after_tend = tend

    def wake(self) -> None:
        """Have `tend` called soon on the consumer's thread; safe from any thread."""
        self._loop.wake()

    def attach(self, consumer: Any) -> None:
        """Take hold of a new broker connection's task consumer, before its first `consume()`."""
        self._way_back.attach(consumer, self.wake)
        self.hand_back.owe_held()
        self._intake.attach(consumer)
        self._upkeep.note_new_connection()
        self._loop.attach(consumer, self.tend)

    def register(self, hub: Any) -> None:
        """Listen for `wake` on the event loop; again after every reset of the hub."""
        self._loop.register(hub)
        self._next_look.drop()
        self.tend()

    def detach(self) -> None:
        """The broker connection is going: touch nothing of it any more. What is owed waits for the next one."""
        self._intake.detach()

    def close(self) -> None:
        """The worker stops: its loop has ended; the connection stays until the pool has. Once is enough."""
        if self._is_closing:
            return
        self._is_closing = True
        if waiting := sum(self._pool.is_waiting(request) for request in self._books.running()):
            log.warning(
                "sluicegate: stopping while %d tasks wait at a checkpoint: those with a cursor go back to their queue, "
                "others keep this worker until they are resumed",
                waiting,
            )
        self.hand_back.close(is_attached=self._intake.is_attached)

    def tend(self) -> None:
        """Bring the worker in line with the gate, and acknowledge once it is."""
        self._gate.take_turns()
        standing, was_closed = self._gate.take_duty()
        if standing.is_free:
            self._forget_what_was_told()
        for task in self._pool.forgotten():
            self.run_ends.doubt(task)
        if not self._intake.is_attached:
            # Nothing is consumed, and `register` comes here again after the reconnect.
            return
        try:
            is_complete = self._obey(standing, was_closed)
        except Exception as error:
            # Whatever the broker said (gone, read-only after a failover, no permission), a worker must not die of
            # a pause, nor go deaf: what is owed stays owed, and the reconnect or the next try hands it back.
            self._note_failure(error)
            return
        self._last_failure = ""
        self._next_look.note_success()
        if is_complete and self._gate.acknowledge(standing):
            self._pool.forget_looks()
            self._next_look.note_acknowledged()
            self._look_again_when_due(standing)
        else:
            self._next_look.at_barrier()
        self._after_tend()

    def _obey(self, standing: Standing, was_closed: bool) -> bool:
        """Do what the standing asks, in the order of a pause; is it complete?"""
        if was_closed:
            self._intake.stop()
            self._collect(_everything)
        elif standing.scoped:
            self._intake.stop_held_queues(standing)
            self._collect(self._is_held)
        self.hand_back.owe()
        self._end_overdue(standing)
        self._way_back.hand_back()
        self._upkeep.keep_fresh()
        if standing.is_open:
            self._upkeep.sweep_aside(standing)
            self._pool.go_on()
            self.hand_back.start_kept()
            self._intake.start(standing)
        return self._is_past_barrier(standing)

    def _collect(self, is_wanted: Wanted) -> None:
        """Take those wanted of the requests that nothing has begun to run out of Celery's hands, and hold them."""
        self.hand_back.collect(self._unstarted(is_wanted))

    def _unstarted(self, is_wanted: Wanted) -> Iterator[Any]:
        yield from self._pool.unstarted(is_wanted)
        yield from self._intake.unstarted(is_wanted)

    def _end_overdue(self, standing: Standing) -> None:
        """What a deadline ends is handed back when its run is over."""
        over, look_in_s = self.forced_ends.tend(standing.ends_tasks, self._books.running())
        self.hand_back.owe_ended(over)
        if look_in_s is not None:
            self._next_look.within(look_in_s)

    def _is_past_barrier(self, standing: Standing) -> bool:
        """Has everything held that was given to the pool started or come back? Then nothing of it can start."""
        if standing.is_free:
            return True
        is_wanted = self._is_held if standing.is_open else _everything
        # Asked in this order: what the pool lets go is held.
        has_come_back = self._pool.is_past_barrier(is_wanted) and self.hand_back.is_done()
        return has_come_back and self.own_starts.is_past_barrier(standing)

    def _is_held(self, request: Any) -> bool:
        return self._gate.standing.is_held(self._gate.subject_of(request))

    def _look_again_when_due(self, standing: Standing) -> None:
        for due_in_s in (self._upkeep.due_in_s(standing), self._way_back.due_in_s(), self._gate.reopens_in_s()):
            if due_in_s is not None:
                self._next_look.within(max(0.0, due_in_s))

    def _note_failure(self, error: Exception) -> None:
        said = f"{type(error).__name__}: {error}"
        if said != self._last_failure:
            owed, is_usual = self._way_back.count_owed(), self._intake.is_usual(error)
            log.error("sluicegate: handing back failed, %d owed (%s)", owed, said, exc_info=not is_usual)
        self._last_failure = said
        self._next_look.after_failure()

    def _forget_what_was_told(self) -> None:
        """Nothing is held any more. Here, and not where it is asked for: a question must not lose an answer."""
        self.hand_back.yields.forget_if_free(lambda: self._gate.standing)
        self.forced_ends.forget()
        self.run_ends.forget_if_free()
