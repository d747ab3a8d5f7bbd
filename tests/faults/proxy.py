"""A TCP proxy that hands everything on late: a slow network, where the kernel offers none (`tc netem`).

Bytes keep their order in each direction and nothing is dropped. The delay may change at any time; it holds for what
arrives from then on, and what came before is never overtaken.
"""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress
from types import TracebackType
from typing import Self

from sluicegate.control.embedded.ports import LOOPBACK

_CHUNK = 65_536
_MOST_UNDER_WAY = 1000
_END = b""

Parcel = tuple[float, bytes]


class DelayingProxy:
    """Listens on a free port of the loopback address, and speaks for `port` there. A context manager."""

    def __init__(self, port: int) -> None:
        self.delay_s = 0.0
        """How late each byte is, in each direction."""
        self.port = 0
        self._target = port
        self._loop = asyncio.new_event_loop()
        self._server: asyncio.Server | None = None
        self._calls: set[asyncio.Task[None]] = set()
        self._thread = threading.Thread(target=self._loop.run_forever, name="delaying-proxy", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._open(), self._loop).result()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _open(self) -> None:
        self._server = await asyncio.start_server(self._called, LOOPBACK, 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _close(self) -> None:
        if self._server is not None:
            self._server.close()
        for call in self._calls:
            call.cancel()
        await asyncio.gather(*self._calls, return_exceptions=True)

    async def _called(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        call = asyncio.current_task()
        assert call is not None
        self._calls.add(call)
        ends = [writer]
        try:
            # Whoever is called may be away, and either side may hang up in the middle: that is no news to a proxy. When
            # the proxy closes it cancels its calls, and asyncio would report a connection's task that ends cancelled.
            with suppress(OSError, asyncio.CancelledError):
                far_reader, far_writer = await asyncio.open_connection(LOOPBACK, self._target)
                ends.append(far_writer)
                await asyncio.gather(self._hand_on(reader, far_writer), self._hand_on(far_reader, writer))
        finally:
            for end in ends:
                end.close()
            self._calls.discard(call)

    async def _hand_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        road: asyncio.Queue[Parcel] = asyncio.Queue(_MOST_UNDER_WAY)
        arriving = asyncio.ensure_future(self._take(reader, road))
        try:
            while True:
                due, data = await road.get()
                await asyncio.sleep(due - self._loop.time())
                if data == _END:
                    writer.write_eof()
                    return
                writer.write(data)
                await writer.drain()
        finally:
            arriving.cancel()

    async def _take(self, reader: asyncio.StreamReader, road: asyncio.Queue[Parcel]) -> None:
        due = 0.0
        data = None
        while data != _END:
            # A connection that is reset ends for the other side too.
            try:
                data = await reader.read(_CHUNK)
            except OSError:
                data = _END
            due = max(due, self._loop.time() + self.delay_s)
            await road.put((due, data))
