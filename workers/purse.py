"""What tasks have cost, told to the control plane by a stream in Redis.

Each report has a key and counts once. By itself that is the task's id, its attempt, the cursor it went on from and the
number of the report in this run: a message that comes again reports the same keys again. Where Redis is away, a process
keeps what it could not tell and tells it with its next report; what a process that ends has kept is lost.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from typing import Any

from redis import Redis
from redis.exceptions import RedisError

from sluicegate.schemas.names import costs_key
from sluicegate.workers import checkpoints
from sluicegate.workers.costs import Amount
from sluicegate.workers.log import logger

log = logger(__name__)

MOST_KEPT = 1000
MOST_RUNS = 10_000
MOST_IN_STREAM = 100_000


class Purse:
    """One per worker; pool children have it by fork, and connect for themselves. Thread-safe.

    `about`: whose costs these are (`host`, `worker`, `labels`). `queue_of` tells where a task came from.
    """

    def __init__(
        self,
        namespace: str,
        connect: Callable[[], Redis],
        *,
        about: Mapping[str, Any],
        queue_of: Callable[[Any], str | None] = lambda request: None,
    ) -> None:
        self._key = costs_key(namespace)
        self._connect = connect
        self._about = dict(about)
        self._queue_of = queue_of
        self._pid = 0
        self._client: Any = None
        self._lock = threading.Lock()
        self._kept: deque[str] = deque(maxlen=MOST_KEPT)
        self._runs: OrderedDict[str, tuple[str, int]] = OrderedDict()
        self._is_away = False

    def report(self, task: Any, amount: Amount, key: str | None, currency: str) -> None:
        """Tells one cost, and what could not be told before."""
        self._begin_process()
        with self._lock:
            said = {
                "key": key or self._next_key(task),
                "amount": str(amount),
                "currency": currency,
                "task": task.name,
                "taskId": str(task.request.id),
                "queue": self._queue_of(task.request),
            }
            self._kept.append(json.dumps(said | self._about, separators=(",", ":")))
            self._tell()

    def _begin_process(self) -> None:
        if self._pid != os.getpid():
            # A forked child may not use its parent's connection, nor its lock, nor tell once more what it has kept.
            self._pid, self._client = os.getpid(), self._connect()
            self._lock = threading.Lock()
            self._kept.clear()
            self._runs.clear()

    def _next_key(self, task: Any) -> str:
        task_id = str(task.request.id)
        attempt = getattr(task.request, "retries", 0)
        run, count = self._runs.pop(task_id, ("", 0))
        if not run.startswith(f"{attempt}:"):
            run, count = f"{attempt}:{_digest_of_cursor(task)}", 0
        self._runs[task_id] = run, count + 1
        while len(self._runs) > MOST_RUNS:
            self._runs.popitem(last=False)
        return f"{task_id}:{run}:{count}"

    def _tell(self) -> None:
        try:
            while self._kept:
                fields = {"cost": self._kept[0]}
                self._client.xadd(self._key, fields, maxlen=MOST_IN_STREAM, approximate=True)
                self._kept.popleft()
        except (RedisError, OSError) as error:
            # What a task does must not depend on what it costs.
            if not self._is_away:
                log.warning("sluicegate: costs cannot be told now (%s): kept for the next report", error)
            self._is_away = True
        else:
            self._is_away = False


def _digest_of_cursor(task: Any) -> str:
    """Tells a run that goes on from a cursor from the one before; empty for a task that never yields."""
    if not hasattr(task, "on_quiesce"):
        return ""
    cursor = checkpoints.resume_cursor()
    told = "" if cursor is None else json.dumps(cursor, sort_keys=True)
    return hashlib.sha256(told.encode()).hexdigest()[:8] if told else ""
