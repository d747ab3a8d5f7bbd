"""What a worker process offers its tasks at their checkpoints; `workers.checkpoints` asks it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from redis.exceptions import RedisError

from sluicegate.schemas.errors import Unavailable
from sluicegate.schemas.modes import Mode
from sluicegate.schemas.scopes import Subject
from sluicegate.workers.cell import Cell
from sluicegate.workers.cursor_seals import Origin
from sluicegate.workers.cursors import Cursors
from sluicegate.workers.log import logger
from sluicegate.workers.scoped_table import Table

log = logger(__name__)

PATIENCE_S = 60.0
"""How long a task that starts waits for the cursor of its earlier run, where Redis does not answer."""


class Station:
    """One per worker; pool children have it by fork.

    `current_task` tells the task that runs where it is asked; None where none does that the worker started.
    `note_waiting` and `rest` are the pool's: who waits where, and what a waiting task does between two looks.
    `queue_of` tells the queue that a task came from, by its `task.request`; `origin_of` its message.
    """

    def __init__(
        self,
        cell: Cell,
        table: Table,
        cursors: Cursors,
        *,
        current_task: Callable[[], Any],
        note_waiting: Callable[[str, bool], None],
        rest: Callable[[float], None],
        queue_of: Callable[[Any], str | None],
        origin_of: Callable[[Any], Origin],
    ) -> None:
        self._cell = cell
        self._table = table
        self._cursors = cursors
        self._is_away = False
        self._queue_of = queue_of
        self._origin_of = origin_of
        self.current_task = current_task
        self.note_waiting = note_waiting
        self.rest = rest
        self._on_cursor: Callable[[], None] = lambda: None

    def ask_for_ends(self, ask: Callable[[], None]) -> None:
        """Have `ask` called where a task of this process has a cursor: somebody must say when it ends."""
        self._on_cursor = ask

    def is_quiesced(self, task: Any) -> bool:
        """By the mode of the whole worker, or by a hold that this task falls under."""
        if self._cell.mode is Mode.QUIESCE:
            return True
        if not self._cell.has_scoped:
            return False
        subject = Subject(queue=self._queue_of(task.request), task=task.name)
        return self._table.mode_for(subject) is Mode.QUIESCE

    def is_leaving(self) -> bool:
        """Has the worker been told to stop?"""
        return self._cell.is_leaving

    def keep_cursor(self, task: Any, cursor: Any) -> bool:
        """Is it stored? False where Redis is away: the task must stay where it is. Raises InvalidInput."""
        task_id = str(task.request.id)
        try:
            self._cursors.store(task_id, cursor, self._origin(task))
        except (RedisError, OSError) as error:
            if not self._is_away:
                self._is_away = True
                log.error("sluicegate: the cursor of %s cannot be stored (%s): it waits in place", task_id, error)
            return False
        self._is_away = False
        self._on_cursor()
        return True

    def load_cursor(self, task: Any) -> Any:
        """Raises Unavailable where Redis is away for long: to begin anew would repeat what is done."""
        task_id, origin = str(task.request.id), self._origin(task)
        ends_at = time.monotonic() + PATIENCE_S
        while True:
            try:
                cursor = self._cursors.load(task_id, origin)
            except (RedisError, OSError) as error:
                if time.monotonic() > ends_at:
                    raise Unavailable(f"the cursor of {task_id} cannot be read: {error}") from error
                self.rest(0.5)
            else:
                if cursor is not None:
                    self._on_cursor()
                return cursor

    def drop_cursor(self, task_id: str) -> None:
        """The task has ended and needs no cursor. Never raises: where Redis is away, the cursor expires by itself."""
        try:
            self._cursors.drop(task_id)
        except (RedisError, OSError) as error:
            # It goes away by itself, and nobody asks for it again.
            log.warning("sluicegate: the cursor of %s stays for now (%s)", task_id, error)

    def _origin(self, task: Any) -> Origin:
        return replace(self._origin_of(task.request), task=str(task.name))

    def let_go(self, task_id: str) -> None:
        """The task goes on in another run: its cursor stays."""
        self._cursors.let_go(task_id)
