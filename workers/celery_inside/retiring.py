"""The children of a prefork pool, ended while nothing runs, and forked anew: what they kept is free then."""

from __future__ import annotations

import time
from typing import Any

from sluicegate.workers.log import logger

log = logger(__name__)

END_S = 3.0
"""What idle children may take to end: they die of a SIGTERM at once, unless somebody handles it there."""


class Retiring:
    """Of one pool. All methods run on the consumer's thread, but for `is_retired`; `pool` gives billiard's."""

    def __init__(self, worker: Any) -> None:
        self._worker = worker
        self._count = 0

    def retire(self) -> bool:
        """End every child, and fork none. False where one may have work: then nothing was done."""
        pool = self._pool
        if pool is None or pool._cache:
            return False
        if self._count == 0:
            self._count = pool._processes
        ended = list(pool._pool)
        pool._processes = 0
        for child in ended:
            # As `Pool.shrink` does, which also takes the slots away by which Celery lets its messages come to us.
            child.terminate_controlled()
        ends_at = time.monotonic() + END_S
        for child in ended:
            child.join(max(0.0, ends_at - time.monotonic()))
        # So that nothing is written any more into the pipe of one that is gone.
        pool.maintain_pool()
        if alive := [child.pid for child in pool._pool if child._is_alive()]:
            log.warning("sluicegate: pool children do not end on SIGTERM: %s", ", ".join(map(str, alive)))
        return True

    def is_retired(self) -> bool:
        """Was it retired, and is no child left?"""
        pool = self._pool
        return self._count > 0 and pool is not None and not any(child._is_alive() for child in list(pool._pool))

    def renew(self) -> None:
        """Fork as many as there were."""
        if self._count:
            pool = self._pool
            pool._processes, self._count = max(pool._processes, self._count), 0
            pool.maintain_pool()

    @property
    def _pool(self) -> Any:
        return getattr(self._worker.pool, "_pool", None)
