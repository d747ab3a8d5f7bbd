"""What a worker fetched and may not start, on its way back to where it came from."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any

from sluicegate.schemas.beats import YieldedTask
from sluicegate.workers.gate import Gate, Standing
from sluicegate.workers.log import logger
from sluicegate.workers.ports import Books, WayBack

log = logger(__name__)

_RETRY_S = 0.1
_LAST_TRIES_S = 10.0


class HandBack:
    """Requests that came to a closed gate or were collected, and those that yielded: each becomes a debt.

    On the consumer's own thread, but for `hold`, `take_yielded` and `yielding`. `wake` has that thread look soon.
    """

    def __init__(self, gate: Gate[Any], *, way_back: WayBack, books: Books, wake: Callable[[], None]) -> None:
        self._gate = gate
        self._way_back = way_back
        self._books = books
        self._wake = wake
        self._held: deque[Any] = deque()
        self._yielded: deque[Any] = deque()
        self._ended: deque[Any] = deque()
        self._kept: list[Any] = []
        self.yields = Yields()
        self._is_closing = False
        self._last_hand_back = threading.Lock()

    def hold(self, request: Any) -> None:
        """Keep a request that came to a closed gate, until the consumer's thread hands it back; from any thread."""
        self._held.append(request)
        # The flip has called for the consumer's thread already, unless that ran before this one came.
        self._wake()

    def take_yielded(self, request: Any) -> None:
        """A task stopped at a checkpoint: its message must go back to the head of its queue; from any thread."""
        task = self._books.running_task(request, is_waiting=False)
        self.yields.note(YieldedTask(task=task, at=datetime.now(UTC)))
        self._yielded.append(request)
        if self._is_closing:
            self._hand_back_last()
        else:
            self._wake()

    def yielding(self) -> list[Any]:
        """The requests that yielded and are not owed yet; from any thread."""
        return list(self._yielded)

    def collect(self, requests: Iterable[Any]) -> None:
        """Hold what was taken out of Celery's hands."""
        self._held.extend(requests)

    def owe(self) -> None:
        """Make a debt of every request that is held, and of what yielded.

        One that fails leaves the others held, for the next try.
        """
        self.owe_held()
        self._owe_yielded()

    def owe_held(self) -> None:
        """Of those that nothing has begun to run."""
        while self._held:
            for request in self._books.parts(self._held.popleft()):
                self._owe(request)

    def _owe(self, request: Any) -> None:
        self._books.forget(request)
        if request.acknowledged:
            return
        if self._is_to_be_set_aside(request):
            self._way_back.set_aside(request)
        elif not self._way_back.owe(request):
            # Nobody knows where it came from; it waits here and starts when the gate opens.
            self._kept.append(request)

    def _is_to_be_set_aside(self, request: Any) -> bool:
        """Back in its queue it would come again at once: the queue itself goes on."""
        standing = self._gate.standing
        return self._way_back.can_set_aside and standing.is_task_held(self._gate.subject_of(request))

    def _owe_yielded(self) -> None:
        while self._yielded:
            request = self._yielded[0]
            if not self._way_back.owe_yielded(request):
                self._kept.append(request)
            self._yielded.popleft()

    def owe_ended(self, requests: Iterable[Any]) -> None:
        """Of those whose runs a deadline ended, to go back; where one fails, the others are there at the next call."""
        self._ended.extend(requests)
        while self._ended:
            request = self._ended[0]
            self._books.forget(request)
            self._way_back.owe(request)
            self._ended.popleft()

    def is_done(self) -> bool:
        """Is nothing held and nothing owed?"""
        return not self._held and not self._ended and not self._way_back.count_owed()

    def start_kept(self) -> None:
        """What had nowhere to go back to may start now."""
        kept, self._kept = self._kept, []
        for request in kept:
            self._books.start(request)

    def close(self, *, is_attached: bool) -> None:
        """The worker stops, and no loop reads any more: hand back what is under way, and what yields from here on."""
        self._is_closing = True
        if is_attached:
            try:
                self._way_back.finish()
            except Exception as error:
                log.error("sluicegate: what was under way at the stop could not be read (%s)", error)
        self._hand_back_last()

    def _hand_back_last(self) -> None:
        """Hand back what yields while the worker stops; in whichever thread hears of it, since no loop runs."""
        give_up = time.monotonic() + _LAST_TRIES_S
        with self._last_hand_back:
            hand_back = self._way_back.hand_back
            while True:
                try:
                    self._owe_yielded()
                    if self._way_back.count_owed():
                        hand_back()
                    return
                except Exception as error:
                    if time.monotonic() > give_up:
                        log.error("sluicegate: handing back failed at the stop (%s): the broker must do it", error)
                        return
                    # The consumer's connection is gone, and may be why the worker stops.
                    hand_back = self._way_back.hand_back_apart
                    time.sleep(_RETRY_S)


class Yields:
    """The last run of each task that gave its slot back at a checkpoint, told for as long as anything is held."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._by_task: dict[str, YieldedTask] = {}

    def note(self, told: YieldedTask) -> None:
        """Takes the newest run of a task for its last; from any thread."""
        with self._lock:
            self._by_task[told.task.id] = told

    def told(self) -> tuple[YieldedTask, ...]:
        """All of them; from any thread."""
        return tuple(self._by_task.copy().values())

    def forget_if_free(self, standing: Callable[[], Standing]) -> None:
        """Nothing is held: what yielded until now belongs to no hold any more.

        The standing is asked for while nobody can note anything: a task that yields to a hold which comes meanwhile is
        noted after this, and stays.
        """
        with self._lock:
            if standing().is_free:
                self._by_task.clear()
