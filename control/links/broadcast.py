"""The broadcast: a Celery control command that says "read the state again", beside the Redis hint.

It goes through the broker, so it reaches workers whose subscription is dead. It is a hint like the other:
nothing on it can resume a fleet, and nothing waits for it.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

from celery import Celery

from sluicegate.control.links.broker import transport_options
from sluicegate.control.links.outages import Outage
from sluicegate.schemas.snapshots import Edition

COMMAND = "sluicegate_hint"
STOP_S = 1.0
AFTER_S = 0.2
"""How long after the change it is sent. By then the hint has been heard wherever it could be, and a broadcast, which
costs a connection here and an answer there, is not in the way of the workers that are busy obeying it."""


class Broadcast:
    """Sends the newest edition's hint from a thread of its own; an older one that still waits is dropped."""

    def __init__(
        self,
        broker_url: str,
        master_name: str | None = None,
        key_prefix: str | None = None,
        tls: Mapping[str, Any] | None = None,
    ) -> None:
        # The app is only a way to the mailbox: it runs no task and is nobody's current app.
        self._app = Celery("sluicegate.control", broker=broker_url, set_as_current=False)
        options = transport_options(broker_url, master_name, key_prefix)
        self._app.conf.update(
            broker_transport_options=options, broker_connection_timeout=1, broker_use_ssl=dict(tls) if tls else False
        )
        self._broker_url = broker_url
        self._wakeup = threading.Condition()
        self._waiting: Edition | None = None
        self._is_stopping = False
        self._outage = Outage("control broadcast")
        self._thread = threading.Thread(target=self._run, name="sluicegate-broadcast", daemon=True)

    def start(self) -> None:
        """Starts the thread; the broker may be away, now and later."""
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread; a broadcast that hangs is left behind (daemon)."""
        with self._wakeup:
            self._is_stopping = True
            self._wakeup.notify()
        if self._thread.is_alive():
            self._thread.join(STOP_S)
        self._app.close()

    def ask(self, edition: Edition) -> None:
        """Asks for a broadcast and returns at once."""
        with self._wakeup:
            self._waiting = edition
            self._wakeup.notify()

    def _run(self) -> None:
        while True:
            with self._wakeup:
                self._wakeup.wait_for(lambda: self._waiting is not None or self._is_stopping)
                self._wakeup.wait_for(lambda: self._is_stopping, timeout=AFTER_S)
                if self._is_stopping:
                    return
                edition, self._waiting = self._waiting, None
            assert edition is not None
            self._broadcast({"epoch": edition.epoch, "version": edition.version})

    def _broadcast(self, arguments: dict[str, Any]) -> None:
        try:
            # A connection for each: changes are rare, and an idle one would be found dead when it is needed.
            with self._app.connection_for_write(connect_timeout=1) as connection:
                self._app.control.broadcast(COMMAND, arguments=arguments, reply=False, connection=connection)
        except Exception as error:  # whatever a transport raises: a hint must never hurt
            self._outage.begin(error)
        else:
            self._outage.end()
