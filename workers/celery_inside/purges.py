"""A purge of a queue on Redis, by Celery or kombu, takes what was set aside of it: it is the queue's.

kombu deletes the lists that it knows of, and offers no place to say that there is one more.
"""

from __future__ import annotations

from functools import wraps
from typing import Any

from kombu.transport import redis

from sluicegate.schemas.adapters import aside
from sluicegate.workers.celery_inside.marks import PURGES
from sluicegate.workers.log import logger

log = logger(__name__)


def take_aside_too() -> None:
    """From now on, in this process; again does nothing more."""
    channel: Any = redis.Channel
    if hasattr(channel, PURGES):
        return
    channel.sluicegate_purges = True
    purge, delete = channel._purge, channel._delete

    @wraps(purge)
    def purge_both(self: Any, queue: str) -> int:
        return int(purge(self, queue)) + _purge_aside(self, queue)

    @wraps(delete)
    def delete_both(self: Any, queue: str, *args: Any, **kwargs: Any) -> None:
        # Celery's own queues for replies and events go with whoever asked, many a second: nothing is set aside of them.
        is_passing = queue in self.auto_delete_queues or queue in self._fanout_queues
        delete(self, queue, *args, **kwargs)
        if not is_passing:
            _purge_aside(self, queue)

    channel._purge, channel._delete = purge_both, delete_both


def _purge_aside(channel: Any, queue: str) -> int:
    prefix = getattr(channel, "global_keyprefix", None) or ""
    try:
        with channel.conn_or_acquire() as client:
            return aside.purge(client, [prefix + name for name in aside.lists_of(queue)])
    except Exception as error:
        # The queue itself is purged by now: that must be told, whatever becomes of the rest.
        log.error("sluicegate: what is set aside of %s could not be purged (%s): it will come back", queue, error)
        return 0
