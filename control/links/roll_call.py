"""The roll call: Celery's own question who consumes what, asked over the broker now and then.

Who answers and sends no heartbeat is told of with each order (`schemas.roll_call`). No look waits for it: what is told
is at most KEPT_FOR_S old.
"""

from __future__ import annotations

from collections.abc import Mapping
from time import monotonic
from typing import Any

from celery import Celery

from sluicegate.control.links.broker import transport_options
from sluicegate.control.links.outages import Outage
from sluicegate.schemas.roll_call import MAX_ANSWERS, Answers, answer_of

EVERY_S = 10.0
KEPT_FOR_S = 3 * EVERY_S
QUIET_FOR_S = 0.5
"""Nobody else answers once this long has passed without an answer."""


class RollCall:
    """Asks all workers of a broker. Thread-safe: one thread calls, any may ask what was answered."""

    def __init__(
        self,
        broker_url: str,
        master_name: str | None = None,
        key_prefix: str | None = None,
        tls: Mapping[str, Any] | None = None,
    ) -> None:
        self._broker_url = broker_url
        self._tls = dict(tls) if tls else None
        self._options = transport_options(broker_url, master_name, key_prefix)
        self._outage = Outage("roll call")
        self._last: tuple[float, Answers] | None = None

    def call(self) -> None:
        """One turn of the loop: asks, and keeps what is answered. Never raises for a broker that is away."""
        try:
            answers = self._ask()
        except Exception as error:  # whatever a transport raises, or a broker forbids: then nobody is known of
            self._outage.begin(error)
            return
        self._outage.end()
        self._last = (monotonic(), answers)

    def answers(self) -> Answers:
        """What was answered last; empty where that is too old to mean anything."""
        last = self._last
        return last[1] if last is not None and monotonic() - last[0] < KEPT_FOR_S else {}

    def _ask(self) -> Answers:
        # An app for each call: its mailbox keeps what comes too late, for ever.
        with Celery("sluicegate.control", broker=self._broker_url, set_as_current=False) as app:
            app.conf.update(
                broker_transport_options=self._options, broker_connection_timeout=1, broker_use_ssl=self._tls
            )
            with app.connection_for_write(connect_timeout=1) as connection:
                replies = app.control.broadcast(
                    "active_queues", reply=True, timeout=QUIET_FOR_S, limit=MAX_ANSWERS, connection=connection
                )
        found: dict[str, frozenset[str]] = {}
        for reply in replies or []:
            if len(found) >= MAX_ANSWERS:
                break
            found |= answer_of(reply)
        return found
