"""The control plane as a process: its loops and its HTTP server, started and stopped."""

from __future__ import annotations

import signal
import socket
import threading
from collections.abc import Callable, Mapping
from time import monotonic
from types import FrameType

import uvicorn

from sluicegate.control.http import connections
from sluicegate.control.http.app import build
from sluicegate.control.http.few_lines import limit_the_servers_lines
from sluicegate.control.process.compose import compose
from sluicegate.schemas import settings
from sluicegate.schemas.adapters.redis_client import refuse_cluster
from sluicegate.schemas.errors import DatabaseTooNew, InvalidSetting, NotMigrated, Unavailable
from sluicegate.schemas.printable import printable_logger

logger = printable_logger("sluicegate.control")

START_S = 120.0
"""How long its HTTP server may take to come up, on a busy machine. One that fails ends, and is noticed at once."""
STOP_S = 3.5


class ControlPlane:
    """One replica: `start`, `url`, `stop`. Several may run on one database and one Redis at once."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        """Reads the settings and connects to nothing; raises InvalidSetting naming the one that is wrong."""
        made = compose(environ)
        self.namespace = made.namespace
        self.parts = made.parts
        self.database = made.database
        self.publisher = made.publisher
        self.fleet = made.fleet
        self.clock = made.clock
        self.draining = made.draining
        self.intake = made.intake
        self.rounds = made.rounds
        self.leader = made.leader
        self._made = made
        self._server: uvicorn.Server | None = None
        self._thread: threading.Thread | None = None
        self._socket: socket.socket | None = None

    @property
    def url(self) -> str:
        """Where it answers, such as http://127.0.0.1:8321; only after `start`."""
        if self._socket is None:
            raise RuntimeError("not started")
        host, port = self._socket.getsockname()[:2]
        reachable = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
        return f"http://[{reachable}]:{port}" if ":" in reachable else f"http://{reachable}:{port}"

    def start(self) -> None:
        """Starts everything, and returns when HTTP answers.

        Raises InvalidSetting where the address is taken or a Redis Cluster answers, NotMigrated, DatabaseTooNew.
        Postgres or Redis may be away: it then goes on trying, and /readyz says so.
        """
        try:
            self._refuse_clusters()
            self.database.check()
        except (InvalidSetting, NotMigrated, DatabaseTooNew):
            self.close()
            raise
        except Unavailable as error:
            logger.warning("%s; starting all the same", error)
        try:
            self._socket = _listen(*self._made.bind)
        except InvalidSetting:
            self.close()
            raise
        self._made.broadcast.start()
        for loop in self._made.loops:
            loop.start()
        self._serve(self._socket)
        logger.info("control plane of namespace %s at %s", self.namespace, self.url)

    def stop(self) -> None:
        """Stops everything, within five seconds. May be called twice, and after a `start` that failed."""
        ends_at = monotonic() + STOP_S
        for loop in self._made.loops:
            loop.stop()
        if self._server is not None:
            self._server.should_exit = True
        if self._thread is not None:
            self._thread.join(max(0.1, ends_at - monotonic()))
        self._made.broadcast.stop()
        for loop in self._made.loops:
            loop.join(max(0.1, ends_at - monotonic()))
        if self._socket is not None:
            self._socket.close()
        self.close()

    def close(self) -> None:
        """Closes the connections to Postgres and Redis."""
        self.parts.orders.close()
        self.database.close()
        self._made.bus.close()

    def _serve(self, listener: socket.socket) -> None:
        limit_the_servers_lines()
        config = uvicorn.Config(
            build(self.parts),
            log_config=None,
            access_log=False,
            server_header=False,
            # A forwarded address is whatever a client writes, until an operator says which proxy to believe.
            proxy_headers=False,
            timeout_graceful_shutdown=2,
            lifespan="off",
            http=connections.of_room(connections.Room(connections.most_connections())),
            ws="none",
            timeout_keep_alive=connections.IDLE_S,
            h11_max_incomplete_event_size=connections.LARGEST_HEAD_BYTES,
            backlog=connections.ACCEPTED_AT_ONCE,
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(
            target=self._server.run, args=([listener],), name="sluicegate-http", daemon=True
        )
        self._thread.start()
        ends_at = monotonic() + START_S
        while not self._server.started and monotonic() < ends_at and self._thread.is_alive():
            self._thread.join(0.01)
        if not self._server.started:
            self.stop()
            raise Unavailable("the HTTP server did not start")

    def _refuse_clusters(self) -> None:
        self._made.bus.refuse_cluster()
        place = self._made.broker.place
        if place is not None:
            refuse_cluster(place, settings.BROKER_URL.name)


def serve(environ: Mapping[str, str], *, ready: Callable[[str], None] | None = None) -> None:
    """Runs a control plane until SIGTERM or SIGINT; `ready` is called with its URL once it answers.

    To be called in the main thread. Raises what `ControlPlane` and its `start` raise.
    """
    stopping = threading.Event()

    def stop(number: int, frame: FrameType | None) -> None:
        stopping.set()

    plane = ControlPlane(environ)
    previous = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        plane.start()
        try:
            if ready is not None:
                ready(plane.url)
            stopping.wait()
        finally:
            plane.stop()
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listener = socket.create_server((host, port), family=family, backlog=128)
    except OSError as error:
        raise InvalidSetting("SLUICEGATE_BIND", f"{host}:{port} cannot be listened on: {error.strerror}") from None
    # Accepted sockets inherit it. asyncio sets it only on sockets whose protocol is spelled out, which these
    # are not; without it an answer may wait 40 ms for the client's delayed acknowledgement.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener
