"""A worker that runs without the gate, in a fleet that has set tasks aside."""

from __future__ import annotations

from typing import Any

from sluicegate.schemas.adapters import aside
from sluicegate.workers.log import logger

log = logger(__name__)


class LeftAside:
    """What others set aside of the queues of one consumer, on Redis. Safe from any thread: no connection is shared."""

    def __init__(self, consumer: Any) -> None:
        self._consumer = consumer
        self._last_failure = ""

    @staticmethod
    def may_be_at(consumer: Any) -> bool:
        """Does this consumer's broker keep what is set aside?"""
        return bool(consumer.controller._conninfo.transport.driver_type == "redis")

    def hand_back(self) -> None:
        """To the heads of their queues, in their order. Raises nothing: a worker that is off needs none of us."""
        try:
            moved = self._hand_back()
        except Exception as error:
            said = f"{type(error).__name__}: {error}"
            if said != self._last_failure:
                log.error("sluicegate: switched off, and what was set aside cannot be handed back (%s)", said)
            self._last_failure = said
            return
        self._last_failure = ""
        if moved:
            number, queues = sum(moved.values()), ", ".join(sorted(aside.by_queue(moved)))
            log.warning("sluicegate: switched off: %d tasks that were set aside are back in %s", number, queues)

    def _hand_back(self) -> dict[str, int]:
        channel = self._consumer.task_consumer.channel
        prefix = getattr(channel, "global_keyprefix", None) or ""
        queues = self._consumer.app.amqp.queues.consume_from
        lists = [prefix + name for queue in queues for name in aside.lists_of(queue)]
        with channel.conn_or_acquire() as client:
            return aside.hand_back(client, lists)
