"""A worker that is held for its GPU's health lets go of it, and one that is idle of what its children kept.

A pool that runs tasks in processes of its own ends them once nothing runs, and forks new ones before the gate opens:
what a process had on a GPU that was reset is dead. Whoever decides (`release`) says what is wanted, from any thread; it
is done on the consumer's.
"""

from __future__ import annotations

import enum
import threading
import time
from collections.abc import Callable

from sluicegate.workers.idle_hooks import call_due
from sluicegate.workers.log import logger
from sluicegate.workers.ports import PoolSide

log = logger(__name__)

LOOK_S = 0.5


class _Want(enum.Enum):
    SERVE = enum.auto()
    LET_GO = enum.auto()
    RECYCLE = enum.auto()


class Idling:
    """What a worker does of itself while it runs nothing.

    `is_drained`: is the gate closed, acknowledged, and does nothing run? `count_begun`: how many tasks were ever
    accepted; `is_busy`: does anything run? `wake` has `tend` called on the consumer's thread. `recycle_after_s`: after
    so many idle seconds children are replaced; 0: never.
    """

    def __init__(
        self,
        pool: PoolSide,
        *,
        is_drained: Callable[[], bool],
        is_busy: Callable[[], bool],
        count_begun: Callable[[], int],
        wake: Callable[[], None],
        recycle_after_s: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._pool = pool
        self._is_drained = is_drained
        self._is_busy = is_busy
        self._count_begun = count_begun
        self._wake = wake
        self._recycle_after_s = recycle_after_s
        self._clock = clock
        self._lock = threading.Lock()
        self._want = _Want.SERVE
        self._has_retired = False
        self._begun = -1
        self._idle_since_s: float | None = None
        self._is_recycled = True

    @property
    def can_renew(self) -> bool:
        """Can what runs tasks be replaced without a restart of the worker?"""
        return self._pool.can_renew

    def let_go(self) -> None:
        """Have no process that runs tasks, once nothing runs any more, until `take_up`."""
        self._ask(_Want.LET_GO)

    def take_up(self) -> None:
        """Have them again: for a gate that may open."""
        self._ask(_Want.SERVE)

    def _ask(self, want: _Want) -> None:
        with self._lock:
            if self._want is want:
                return
            self._want = want
        self._wake()

    @property
    def is_let_go(self) -> bool:
        """Was it drained since `let_go`, and has no process of the pool anything open any more?"""
        return self._want is _Want.LET_GO and (self._pool.is_retired() if self._pool.can_renew else self._is_drained())

    @property
    def is_serving(self) -> bool:
        """Are there, after `take_up`, processes that run tasks?"""
        return self._want is not _Want.LET_GO and not self._has_retired

    def tend(self) -> None:
        """Do what is wanted, on the consumer's own thread: nothing is handed to the pool meanwhile."""
        if not self._pool.can_renew:
            return
        want = self._want
        if want is _Want.LET_GO and not self._has_retired and self._is_drained():
            self._has_retired = self._pool.retire()
            if self._has_retired:
                log.warning("sluicegate: the pool's children have ended, so that none has a GPU open")
        elif want is _Want.SERVE and self._has_retired:
            self._pool.renew()
            self._has_retired = False
            log.warning("sluicegate: the pool has new children")
        elif want is _Want.RECYCLE:
            self._recycle()

    def _recycle(self) -> None:
        if not self._is_busy() and self._pool.retire():
            self._pool.renew()
            log.info("sluicegate: idle for %.0f s: the pool's children were replaced", self._recycle_after_s)
        with self._lock:
            if self._want is _Want.RECYCLE:
                self._want = _Want.SERVE

    def look(self) -> None:
        """Again and again, from one thread: has it been idle for long enough, for a callback or for new children?"""
        begun, is_busy = self._count_begun(), self._is_busy()
        now_s = self._clock()
        if is_busy or begun != self._begun:
            # A task between two looks ends an idle time too.
            self._begun, self._idle_since_s, self._is_recycled = begun, None, begun == 0
            call_due(None, lets_go=False)
        if not is_busy and self._idle_since_s is None:
            self._idle_since_s = now_s
        idle_for_s = None if self._idle_since_s is None else now_s - self._idle_since_s
        if idle_for_s is not None:
            call_due(idle_for_s, lets_go=self.is_let_go)
        if self._want is _Want.LET_GO and self._pool.can_renew and not self._has_retired and self._is_drained():
            # What ran has ended since the last look of the consumer's thread.
            self._wake()
        if idle_for_s is None or self._is_recycled or not self._recycle_after_s:
            return
        if idle_for_s >= self._recycle_after_s and self._want is _Want.SERVE:
            self._is_recycled = True
            self._ask(_Want.RECYCLE)


class Watch:
    """A thread that calls `looks` one after the other, twice a second."""

    def __init__(self, *looks: Callable[[], None]) -> None:
        self._looks = looks
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sluicegate-watch", daemon=True)

    def start(self) -> None:
        """Start the thread. Call after the pool has forked."""
        self._thread.start()

    def stop(self) -> None:
        """Look no more."""
        self._stopping.set()

    def _run(self) -> None:
        while not self._stopping.wait(LOOK_S):
            for look in self._looks:
                try:
                    look()
                except Exception:
                    # Whatever it was, a worker must not stay held, or open, for one look that failed.
                    log.exception("sluicegate: a look failed")
