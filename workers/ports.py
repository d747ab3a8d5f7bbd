"""What the core asks of a pool, of the way back to a broker, of Celery's consumer, of its books, and of a loop.

`celery_inside` has the answers. A `request` is Celery's (or stands for one that it cannot make), and a `consumer` is
Celery's for one broker connection. The core passes both on, and reads of a request only `id`, `name` and
`acknowledged`; `Books` tells the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

from sluicegate.schemas.beats import RunningTask
from sluicegate.schemas.holds.hold import Then
from sluicegate.workers.gate import Gate

Wanted = Callable[[Any], bool]
"""Is this request among those that are asked about?"""


class PoolSide(Protocol):
    """The pool: where starts are let through, and what it has of those that were."""

    name: str
    """As `celery worker -P` spells it."""

    def guard(self, gate: Gate[Any], hold: Callable[[Any], None]) -> None:
        """Stand in the way of every start; `hold` takes the request of one that came to a closed gate."""

    def take_in_tasks(self) -> None:
        """Tasks may have been registered since the start: whatever each needs, before it takes its first message."""

    def watch(self) -> None:
        """Do what can only be done once the pool has started."""

    can_renew: bool
    """Does it run tasks in processes of its own, which `retire` ends?"""

    def retire(self) -> bool:
        """End those processes; False where one may have work, and then nothing was done."""

    def is_retired(self) -> bool:
        """Have all of them ended, after `retire`? From any thread."""

    def renew(self) -> None:
        """Make as many as there were before `retire`."""

    def unstarted(self, is_wanted: Wanted) -> Iterable[Any]:
        """Take those wanted of the requests that nothing has begun to run out of the pool's hands."""

    def go_on(self) -> None:
        """Start what waits for a slot that a start that did not happen left."""

    def is_past_barrier(self, is_wanted: Wanted) -> bool:
        """Has everything wanted that was let through started, come back, or ended?"""

    def forget_looks(self) -> None:
        """An acknowledgement was made: what was seen for it is of no use to the next."""

    def forgotten(self) -> tuple[RunningTask, ...]:
        """Tasks that run, or may, and that Celery's books do not have; from any thread."""

    def is_busy(self) -> bool:
        """Can anything still run here?"""

    def end(self, request: Any, then: Then, *, is_hard: bool) -> bool:
        """Have a running request's task ended, for good or to be handed back; False where this pool cannot.

        Called again with `is_hard` where it still runs a while later.
        """

    def has_ended(self, request: Any) -> bool:
        """Is nothing of it running any more, after `end`?"""

    def note_waiting(self, task_id: str, is_waiting: bool) -> None:
        """Called where a task runs: it waits at a checkpoint, or no longer does."""

    def is_waiting(self, request: Any) -> bool:
        """Does this running request's task wait at a checkpoint? From any thread."""


class WayBack(Protocol):
    """The broker: how what was fetched and not started gets back to where it came from."""

    def attach(self, consumer: Any, wake: Callable[[], None]) -> None:
        """A new connection's consumer, before its first `consume()`. What was owed on the last one is still owed.

        `wake` is to be called when something came after the hand-back.
        """

    def before_consuming(self) -> None:
        """Right before each `consume()`."""

    def listen_closed(self) -> None:
        """In the place of a `consume()` that the gate does not allow: take in and keep what would be lost."""

    def stop_consuming(self) -> None:
        """Cancel, in such a way that what is still under way is handed back too."""

    def stop_queue(self, queue: str) -> None:
        """The same for one queue of several."""

    can_set_aside: bool
    """Can single tasks of a queue be kept out of it for as long as a hold lasts?"""

    def set_aside(self, request: Any) -> None:
        """As `owe`, but beside its queue, out of the way of those that may run, in its order."""

    def hand_back_aside(self, held: Collection[str]) -> bool:
        """Hand what was set aside, here or by anybody, back to the head of its queue, but for tasks named in `held`.

        False where nothing went back. Raises the broker's errors; what was not handed back is still there.
        """

    def owe(self, request: Any) -> bool:
        """Take over the message of a request, which is then no longer Celery's; False where it cannot go back."""

    def owe_yielded(self, request: Any) -> bool:
        """As `owe`, for a request whose task began and stopped at a checkpoint: its message may be acknowledged."""

    def keep(self, requests: Iterable[Any]) -> None:
        """Let the broker not take these running requests' messages for lost, however long their tasks wait."""

    def finish(self) -> None:
        """The worker stops, and no loop reads any more: take in what is still under way, so that it can go back."""

    def hand_back(self) -> None:
        """Hand back all that is owed; raises the broker's errors, and then all is still owed."""

    def hand_back_apart(self) -> None:
        """As `hand_back`, over a connection of its own: the consumer's was lost, and there will be no other."""

    def count_owed(self) -> int:
        """How many messages have not gone back yet, and should soon."""

    def look_at_redelivery(self) -> str | None:
        """What there is to say about whether lost workers' messages are given out again; raises the broker's errors."""

    def count_in_hand(self) -> int:
        """How many messages stay here while the gate is closed, since their way back would do harm."""

    def due_in_s(self) -> float | None:
        """When `hand_back` will have something to do although nothing happened; None: never."""


class Loop(Protocol):
    """What calls `tend` on the consumer's own thread."""

    def attach(self, consumer: Any, tend: Callable[[], None]) -> None:
        """A new connection: from now on `tend` is called when asked for."""

    def register(self, hub: Any) -> None:
        """The event loop starts, or was reset."""

    def wake(self) -> None:
        """Have `tend` called soon; from any thread."""

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> Any:
        """Call `callback` on the consumer's thread; what comes back has `cancel()`."""

    def close(self) -> None:
        """Let go of what it holds of the system; only a test outlives a loop."""


class TaskConsumer(Protocol):
    """Celery's consumer of tasks, on one broker connection after the other, and what waits in it before the pool."""

    def guard(self, gate: Gate[Any], hold: Callable[[Any], None]) -> None:
        """Give `hold` what Celery would throw away unread while it is held: a task that this worker does not know."""

    def attach(self, consumer: Any, consume: Callable[[Callable[[], None]], None]) -> None:
        """A new connection: from now on `consume` is called in the place of Celery's own, and is given that."""

    def detach(self) -> None:
        """The connection is going: touch nothing of it any more."""

    def consume(self) -> None:
        """Consume what `queues` has and nobody consumes yet."""

    def queues(self) -> dict[str, Any]:
        """What is consumed here, or will be at the next `consume`: the queues by name, as `add_queue` takes them."""

    def add_queue(self, queue: Any) -> None:
        """Put back what the way back took out by `stop_queue`."""

    def unstarted(self, is_wanted: Wanted) -> Iterable[Any]:
        """Take those wanted of the requests that wait for their rate or their ETA out of Celery's hands."""

    def is_usual(self, error: Exception) -> bool:
        """Is it one of those that a broker which is away or refuses brings, and no defect?"""


class Books(Protocol):
    """Celery's books: which requests there are, and what each is."""

    def running(self) -> list[Any]:
        """The requests that the pool has accepted and not finished; from any thread."""

    def running_task(self, request: Any, *, is_waiting: bool) -> RunningTask:
        """What is said of a request that runs, or ran until now."""

    def parts(self, request: Any) -> Iterable[Any]:
        """The requests of one message each that this one stands for: most stand for themselves."""

    def forget(self, request: Any) -> None:
        """Strike out a request that is not to start."""

    def start(self, request: Any) -> None:
        """Have it go the way of one that came now."""

    def count_reserved(self) -> int:
        """How many messages Celery has in hand and has not started, ETA ones included; from any thread."""

    def count_begun(self) -> int:
        """How many tasks the pool has ever accepted; from any thread."""

    def queues(self) -> tuple[str, ...]:
        """The names of the queues that this worker consumes when it is open; from any thread."""

    def beside(self) -> tuple[str, ...]:
        """The consumer steps of the user's own that handle messages and do not ask the gate, by their names."""

    def concurrency(self) -> int:
        """How many tasks it was told to run at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sides:
    """What a worker stands on: one of each."""

    pool: PoolSide
    way_back: WayBack
    loop: Loop
    consumer: TaskConsumer
    books: Books
