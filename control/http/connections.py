"""The connections of clients: how many there may be, whose room is whose, and how long one may take to say a thing.

Whoever reaches the address may connect, and a connection costs one of the files that this process may have open. So
strangers (no valid token was shown on the connection) are few: where one more comes, the one that has kept us
waiting longest is cut off, of the address that has most of them. Whoever showed a token has other room. A request has
RECEIVE_S to come in whole, and its answer to be taken.
"""

from __future__ import annotations

import asyncio
import logging
import resource
from collections import Counter
from typing import Any, ClassVar

from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from sluicegate.control.http.few_lines import limited

logger = limited(logging.getLogger("sluicegate.control"))

RECEIVE_S = 10.0
"""How long the head of a request may take to come, and then its body, and how long an answer may wait to be taken."""
IDLE_S = 5
"""How long a connection may stay open for the next request."""
LARGEST_HEAD_BYTES = 16 * 1024
LARGEST_REST_BYTES = 1 << 20
"""What is read, and thrown away, of a body whose request is answered already: a client reads the answer after it."""
MOST_CONNECTIONS = 1000
ACCEPTED_AT_ONCE = 32
"""Sockets that the kernel hands over before the first of them is judged here."""


def most_connections() -> int:
    """How many connections there may be: half of the files that this process may have open are for its own work."""
    open_files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return MOST_CONNECTIONS if open_files == resource.RLIM_INFINITY else min(MOST_CONNECTIONS, open_files // 2)


class Room:
    """Who is connected. Half of the places are for strangers. Used from the event loop's thread alone."""

    def __init__(self, most: int) -> None:
        self._most_of_each = max(1, most // 2)
        # In the order of their coming; a dict is an ordered set here.
        self._strangers: dict[Connection, None] = {}
        self._known: dict[Connection, None] = {}

    def enter(self, connection: Connection) -> bool:
        """Takes a newcomer in, where need be in the place of another stranger; was there a place?"""
        if len(self._strangers) >= self._most_of_each and not self._make_room():
            logger.warning("connections: no room for another stranger, who was turned away")
            return False
        self._strangers[connection] = None
        return True

    def know(self, connection: Connection) -> None:
        """A valid token was shown on it. Where there is no room for one more such, it stays among the strangers."""
        if connection in self._strangers and len(self._known) < self._most_of_each:
            del self._strangers[connection]
            self._known[connection] = None

    def leave(self, connection: Connection) -> None:
        """It is closed."""
        self._strangers.pop(connection, None)
        self._known.pop(connection, None)

    def _make_room(self) -> bool:
        waiting = [one for one in self._strangers if one.keeps_us_waiting]
        if not waiting:
            return False
        crowd = Counter(one.address for one in self._strangers)
        oldest = max(waiting, key=lambda one: crowd[one.address])  # of several the first, who came first
        logger.warning(
            "connections: %d strangers at once: one that sent nothing whole was cut off", len(self._strangers)
        )
        oldest.cut_off()
        return True


class Connection(H11Protocol):
    """uvicorn's connection, with a place in the room and with deadlines. A request finds it as `state.connection`."""

    room: ClassVar[Room]

    def __init__(self, config: Any, server_state: Any, app_state: dict[str, Any], _loop: Any = None) -> None:
        super().__init__(config, server_state, app_state | {"connection": self}, _loop)
        self.address = ""
        self._timer: asyncio.TimerHandle | None = None
        self._waits_for: object = None
        self._rest = 0

    @property
    def keeps_us_waiting(self) -> bool:
        """Is it the client's turn: to begin a request, to end it, or to take its answer?"""
        is_answering = self._cycle is not None and not self._cycle.response_complete
        return not is_answering or self.flow.write_paused or self._is_awaiting_body or self.transport.is_closing()

    @property
    def _cycle(self) -> RequestResponseCycle | None:
        return self.cycle  # None before the first request, whatever uvicorn's types say

    @property
    def _is_awaiting_body(self) -> bool:
        return self._their_state == "SEND_BODY"

    @property
    def _their_state(self) -> str:
        return repr(self.conn.their_state)  # h11's constants are repeated by their names

    def know(self) -> None:
        """Its client has shown a valid token."""
        self.room.know(self)

    def cut_off(self) -> None:
        """Closes it at once, and frees its place; what was not sent yet is lost."""
        self.room.leave(self)
        self.transport.abort()

    def connection_made(self, transport: Any) -> None:
        """A newcomer, who is turned away where there is no room."""
        super().connection_made(transport)
        self.address = self.client[0] if self.client else ""
        if self.room.enter(self):
            self._set_deadline()
        else:
            transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """It is gone, and its place is free."""
        super().connection_lost(exc)
        self.room.leave(self)
        self._wait_for(None)

    def data_received(self, data: bytes) -> None:
        """Takes in what came; a rest without end of a request that is answered already is not."""
        is_rest = self._cycle is not None and self._cycle.response_complete and self._is_awaiting_body
        self._rest = self._rest + len(data) if is_rest else 0
        if self._rest > LARGEST_REST_BYTES:
            self.cut_off()
            return
        super().data_received(data)
        self._set_deadline()

    def on_response_complete(self) -> None:
        """The answer is written; the next request may follow."""
        super().on_response_complete()
        self._set_deadline()

    def timeout_keep_alive_handler(self) -> None:
        """No next request came: it closes, once the client has taken what was sent."""
        super().timeout_keep_alive_handler()
        self._set_deadline()

    def pause_writing(self) -> None:
        """The client does not take what it asked for."""
        super().pause_writing()
        self._set_deadline()

    def resume_writing(self) -> None:
        """It goes on taking it."""
        super().resume_writing()
        self._set_deadline()

    def _set_deadline(self) -> None:
        """What is waited for since when; the same wait is not begun anew by each byte that comes of it."""
        if self.flow.write_paused:
            self._wait_for("taking")
        elif self.transport.is_closing():
            self._wait_for("closing")
        elif self._is_awaiting_body:
            self._wait_for(self.cycle)
        elif self._their_state == "IDLE" and not self._is_idle:
            self._wait_for("head")
        else:
            self._wait_for(None)

    @property
    def _is_idle(self) -> bool:
        # uvicorn's own timer is set between requests, and taken away by the first byte of the next.
        return self.timeout_keep_alive_task is not None

    def _wait_for(self, what: object) -> None:
        if what is self._waits_for:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._waits_for = what
        self._timer = None if what is None else self.loop.call_later(RECEIVE_S, self.cut_off)


def of_room(room: Room) -> type[Connection]:
    """What uvicorn makes its connections by."""
    return type("RoomConnection", (Connection,), {"room": room})
