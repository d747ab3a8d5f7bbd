"""The control plane as a process: built from settings, its loops and its HTTP server started and stopped."""

from __future__ import annotations

import logging
import signal
import socket
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import timedelta
from time import monotonic
from types import FrameType

import uvicorn

from sluicegate.control.access.admission import Access
from sluicegate.control.fleet.view import Fleet
from sluicegate.control.holds.namespaces import clock
from sluicegate.control.http.app import Parts, build
from sluicegate.control.links.broadcast import SecondDoor
from sluicegate.control.links.broker import Broker
from sluicegate.control.links.state_redis import Bus
from sluicegate.control.pausing import idempotency
from sluicegate.control.pausing.change import Pausing
from sluicegate.control.pausing.drains import Draining
from sluicegate.control.process.loops import Loop
from sluicegate.control.publishing import signing_key
from sluicegate.control.publishing.publisher import Publisher
from sluicegate.control.store.database import Database
from sluicegate.schemas import settings
from sluicegate.schemas.adapters.redis_client import refuse_cluster
from sluicegate.schemas.adapters.trusted_keys import TrustedKeys
from sluicegate.schemas.errors import InvalidSetting, NotMigrated, Unavailable
from sluicegate.schemas.public_keys import parse_public_keys
from sluicegate.schemas.redis_urls import place_of

logger = logging.getLogger("sluicegate.control")

START_S = 10.0
STOP_S = 3.5
EXPIRE_EVERY_S = 0.5
DRAIN_EVERY_S = 0.5
FOLD_EVERY_S = 2.0
CLEAN_EVERY_S = 600.0


class ControlPlane:
    """One replica: `start`, `url`, `stop`. Several may run on one database and one Redis at once."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        """Reads the settings and connects to nothing; raises InvalidSetting naming the one that is wrong."""
        namespace = settings.NAMESPACE.read(environ)
        redis_url = settings.REDIS_URL.read(environ)
        master_name = settings.REDIS_MASTER_NAME.read_or_none(environ)
        state = place_of(redis_url, settings.REDIS_URL, master_name, settings.REDIS_MASTER_NAME)
        broker_url = settings.BROKER_URL.read_or_none(environ) or redis_url
        brokers_name = settings.BROKER_MASTER_NAME.read_or_none(environ) or master_name
        broker = place_of(broker_url, settings.BROKER_URL, brokers_name, settings.BROKER_MASTER_NAME)
        key_prefix = settings.BROKER_KEY_PREFIX.read_or_none(environ)
        key = signing_key.load(settings.SIGNING_KEY_FILE.read(environ))
        # Our own signature is always trusted; the others are those of a rotation that is under way.
        others = settings.PUBLIC_KEYS.read_or_none(environ)
        trusted = {key.kid: key.public_bytes} | (parse_public_keys(others) if others else {})
        self._bind = settings.BIND.read(environ)
        interval_s = settings.REPUBLISH_INTERVAL_MS.read(environ) / 1000
        lease = timedelta(seconds=settings.LEASE_S.read(environ))

        self.namespace = namespace
        self.database = Database(settings.DATABASE_URL.read(environ))
        self.bus = Bus(state, namespace)
        self._broker_place = broker
        self._door = SecondDoor(broker_url, brokers_name, key_prefix)
        self.publisher = Publisher(
            database=self.database,
            bus=self.bus,
            namespace=namespace,
            key=key,
            trusted=TrustedKeys(trusted),
            on_change=self._door.knock,
        )
        self.fleet = Fleet(
            database=self.database,
            bus=self.bus,
            broker=Broker(broker_url, brokers_name, key_prefix),
            namespace=namespace,
            lease=lease,
        )
        self.draining = Draining(database=self.database, fleet=self.fleet, namespace=namespace)
        self.pausing = Pausing(
            database=self.database,
            publisher=self.publisher,
            fleet=self.fleet,
            draining=self.draining,
            namespace=namespace,
        )
        self._loops = [
            Loop("publish", self.publisher.republish, interval_s=interval_s),
            Loop("expire", self.pausing.expire_due, interval_s=EXPIRE_EVERY_S),
            Loop("escalate", self.pausing.escalate_due, interval_s=EXPIRE_EVERY_S),
            Loop("drain", self.draining.follow, interval_s=DRAIN_EVERY_S),
            Loop("fold", self.fleet.fold, interval_s=FOLD_EVERY_S),
            Loop("clean", self._clean, interval_s=CLEAN_EVERY_S),
        ]
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

        Raises InvalidSetting where the address is taken or a Redis Cluster answers, NotMigrated. Postgres or Redis may
        be away: it then goes on trying, and /readyz says so.
        """
        try:
            self._refuse_clusters()
            self.database.check()
        except (InvalidSetting, NotMigrated):
            self.close()
            raise
        except Unavailable as error:
            logger.warning("%s; starting all the same", error)
        try:
            self._socket = _listen(*self._bind)
        except InvalidSetting:
            self.close()
            raise
        self._door.start()
        for loop in self._loops:
            loop.start()
        self._serve(self._socket)
        logger.info("control plane of namespace %s at %s", self.namespace, self.url)

    def stop(self) -> None:
        """Stops everything, within five seconds. May be called twice, and after a `start` that failed."""
        ends_at = monotonic() + STOP_S
        for loop in self._loops:
            loop.stop()
        if self._server is not None:
            self._server.should_exit = True
        if self._thread is not None:
            self._thread.join(max(0.1, ends_at - monotonic()))
        self._door.stop()
        for loop in self._loops:
            loop.join(max(0.1, ends_at - monotonic()))
        if self._socket is not None:
            self._socket.close()
        self.close()

    def close(self) -> None:
        """Closes the connections to Postgres and Redis."""
        self.database.close()
        self.bus.close()

    def _serve(self, listener: socket.socket) -> None:
        app = build(
            Parts(
                pausing=self.pausing,
                fleet=self.fleet,
                access=Access(self.database, self.namespace),
                database=self.database,
                bus=self.bus,
                namespace=self.namespace,
            )
        )
        config = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            server_header=False,
            # A forwarded address is whatever a client writes, until an operator says which proxy to believe.
            proxy_headers=False,
            timeout_graceful_shutdown=2,
            lifespan="off",
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
        self.bus.refuse_cluster()
        if isinstance(self._broker_place, str) and self._broker_place.startswith(("redis://", "rediss://")):
            # kombu takes URLs that redis-py does not.
            with suppress(ValueError, TypeError):
                refuse_cluster(self._broker_place, settings.BROKER_URL.name)

    def _clean(self) -> None:
        with self.database.transaction() as connection:
            idempotency.purge(connection, clock(connection))
        self.fleet.purge()


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
