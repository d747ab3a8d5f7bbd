"""What calls `tend` on the consumer's own thread: Celery's event loop, and gevent's calls of `drain_events`."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any


class HubLoop:
    """The event loop of prefork, threads and solo workers."""

    def __init__(self, worker: Any) -> None:
        self._worker = worker
        self._tend: Callable[[], None] = do_nothing
        self._waker_r, self._waker_w = socket.socketpair()
        self._waker_r.setblocking(False)
        self._waker_w.setblocking(False)

    def attach(self, consumer: Any, tend: Callable[[], None]) -> None:
        """`register` follows when the loop starts."""
        self._tend = tend

    def register(self, hub: Any) -> None:
        """The hub forgets its readers when it is reset."""
        hub.add_reader(self._waker_r.fileno(), self._on_wake)

    def wake(self) -> None:
        """By a byte in a pipe, which the loop listens to."""
        # Where the pipe is full of wake-ups that have not been read, one of them will do.
        with suppress(BlockingIOError):
            self._waker_w.send(b"\0")

    def _on_wake(self) -> None:
        with suppress(BlockingIOError):
            self._waker_r.recv(4096)
        self._tend()

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> Any:
        """By the hub's timer."""
        return self._worker.hub.call_later(delay_s, callback)

    def close(self) -> None:
        """Closes the pipe by which other threads wake the hub."""
        self._waker_r.close()
        self._waker_w.close()


class DrainLoop:
    """For gevent, whose workers have no event loop: they call `drain_events` again and again, up to 2 s each.

    What is asked for is done between two of these calls, so that it happens on the main greenlet (on another one
    the hand-back was seen to hang), and no call may take longer than CAP_S.
    """

    CAP_S = 0.05

    def __init__(self) -> None:
        self._tend: Callable[[], None] = do_nothing
        self._is_due = True
        self._look: _Look | None = None

    def attach(self, consumer: Any, tend: Callable[[], None]) -> None:
        """Stand in the place of the new connection's `drain_events`."""
        self._tend = tend
        self._is_due = True
        drain = consumer.connection.drain_events
        consumer.connection.drain_events = lambda timeout=None, **kw: self._drain(drain, timeout, kw)

    def register(self, hub: Any) -> None:
        """There is no hub."""

    def wake(self) -> None:
        """Noticed within CAP_S."""
        self._is_due = True

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> Any:
        """One at a time is all that is needed."""
        self._look = _Look(time.monotonic() + delay_s, callback)
        return self._look

    def close(self) -> None:
        """Nothing is held."""

    def _drain(self, drain: Callable[..., Any], timeout: float | None, kw: dict[str, Any]) -> Any:
        ends_at = None if timeout is None else time.monotonic() + timeout
        while True:
            self._do_what_is_due()
            now = time.monotonic()
            span_s = self.CAP_S if ends_at is None else min(self.CAP_S, max(0.0, ends_at - now))
            if self._look is not None:
                span_s = max(0.001, min(span_s, self._look.at - now))
            try:
                return drain(timeout=span_s, **kw)
            except TimeoutError:
                if ends_at is not None and time.monotonic() >= ends_at:
                    raise

    def _do_what_is_due(self) -> None:
        look = self._look
        if look is not None and (look.is_canceled or time.monotonic() >= look.at):
            self._look = None
            if not look.is_canceled:
                look.callback()
        if self._is_due:
            self._is_due = False
            self._tend()


@dataclass(slots=True)
class _Look:
    at: float
    callback: Callable[[], None]
    is_canceled: bool = False

    def cancel(self) -> None:
        self.is_canceled = True


def do_nothing() -> None:
    """In the place of what is attached later."""
