"""Two real Valkeys, one a replica of the other, and three real sentinels that watch them; all on free ports.

The sentinels take a master for lost after half a second, so that a failover takes some two seconds.
"""

from __future__ import annotations

import signal
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from redis.sentinel import Sentinel

from sluicegate.control.embedded.ports import LOOPBACK, free_port
from sluicegate.control.embedded.process import EmbeddedServerError, ServerProcess
from sluicegate.control.embedded.valkey import EmbeddedValkey, find_server
from tests.fleet.waiting import until

MASTER_NAME = "fleet"
STATE_DATABASE, BROKER_DATABASE = 0, 1
COUNT = 3
QUORUM = 2
LOST_AFTER_MS = 500
FAILOVER_TIMEOUT_MS = 1500
START_WITHIN_S = 20.0
FAILOVER_WITHIN_S = 30.0
_PORTS_TO_TRY = 5
_PATIENCE: dict[str, Any] = {"socket_timeout": 1.0, "socket_connect_timeout": 1.0, "retry": Retry(NoBackoff(), 0)}


class Watched:
    """The servers, in `directory`. A context manager that leaves no process behind."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory.absolute()
        self.servers = [EmbeddedValkey(self.directory / f"valkey-{number}") for number in (1, 2)]
        self._sentinels: list[tuple[int, ServerProcess]] = []

    def url(self, database: int) -> str:
        """As Celery and sluicegate take it."""
        return ";".join(f"sentinel://{LOOPBACK}:{port}/{database}" for port, _ in self._sentinels)

    def client(self, database: int) -> redis.Redis:
        """A client of whichever is the master."""
        return client_of(self.url(database))

    def start(self) -> None:
        """Return once the replica has everything and the sentinels know it and each other."""
        for server in self.servers:
            server.start()
            # Redis waits five seconds for more replicas to serve at once.
            _command(server, "CONFIG", "SET", "repl-diskless-sync-delay", "0")
        _follow(self.servers[1], self.servers[0])
        self._wait_in_step(self.servers[1])
        for number in range(COUNT):
            self._sentinels.append(self._start_sentinel(number))
        self._wait_watchful()

    def stop(self) -> None:
        """End everything."""
        for _, process in self._sentinels:
            process.stop(signal.SIGKILL)
        for server in self.servers:
            server.kill()

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def master(self) -> EmbeddedValkey:
        """The one that the sentinels say is the master."""
        port = self._ask(0)["port"]
        return next(server for server in self.servers if _port(server) == port)

    @property
    def replica(self) -> EmbeddedValkey:
        """The other."""
        master = self.master
        return next(server for server in self.servers if server is not master)

    def wait_failed_over(self, former: EmbeddedValkey) -> None:
        """Return once every sentinel names another master than `former`, and that one takes writes."""
        port = _port(former)
        until(
            "another master is named",
            lambda: all(self._ask(number)["port"] != port for number in range(COUNT)),
            within_s=FAILOVER_WITHIN_S,
        )
        until("the new master is one", lambda: _role(self.master) == "master", within_s=FAILOVER_WITHIN_S)

    def replicate(self) -> None:
        """Return once the replica has all that was written."""
        with _client(self.master) as client:
            client.execute_command("SET", "sluicegate-test:mark", "1")
            assert client.execute_command("WAIT", 1, 10_000) == 1

    def cut_replica(self) -> None:
        """Let the replica miss what is written from now on: it can no longer sign in to its master."""
        master, replica = self.master, self.replica
        _command(replica, "CONFIG", "SET", "masteruser", "nobody", "masterauth", "nothing")
        _command(master, "CLIENT", "KILL", "TYPE", "replica")
        until("the replica is cut off", lambda: _replication(replica)["master_link_status"] == "down")

    def heal(self) -> None:
        """Two running servers again, one the replica of the other, and sentinels that know it."""
        for server in self.servers:
            server.thaw()
            server.start()
            _command(server, "CONFIG", "SET", "repl-diskless-sync-delay", "0", "masteruser", "", "masterauth", "")
        master, replica = self.master, self.replica
        # The sentinels would do it by themselves, after a while.
        _follow(replica, master)
        self._wait_in_step(replica)
        self._wait_watchful()

    def _wait_in_step(self, replica: EmbeddedValkey) -> None:
        until("the replica is in step", lambda: _replication(replica).get("master_link_status") == "up")

    def _wait_watchful(self) -> None:
        def is_watchful(number: int) -> bool:
            state = self._ask(number)
            if not state["is_master"] or state["is_sdown"] or state["num-other-sentinels"] != COUNT - 1:
                return False
            with self._sentinel(number) as client:
                replicas: Any = client.execute_command("SENTINEL", "REPLICAS", MASTER_NAME)
            flags = [str(replica["flags"]) for replica in map(_table, replicas)]
            return len(flags) == 1 and flags[0] == "slave"

        for number in range(COUNT):
            until(f"sentinel {number} is watchful", lambda number=number: is_watchful(number), within_s=START_WITHIN_S)  # type: ignore[misc]

    def _ask(self, number: int) -> dict[str, Any]:
        with self._sentinel(number) as client:
            masters: Any = client.sentinel_masters()
        found: dict[str, Any] = masters[MASTER_NAME]
        return found

    def _sentinel(self, number: int) -> redis.Redis:
        return redis.Redis(LOOPBACK, self._sentinels[number][0], decode_responses=True, **_PATIENCE)

    def _start_sentinel(self, number: int) -> tuple[int, ServerProcess]:
        program = find_server()
        folder = self.directory / f"sentinel-{number}"
        folder.mkdir(parents=True)
        for tries_left in reversed(range(_PORTS_TO_TRY)):
            port = free_port()
            # It writes into this file what it learns.
            (folder / "sentinel.conf").write_text(
                f"port {port}\nbind {LOOPBACK}\ndir {folder}\n"
                f"sentinel monitor {MASTER_NAME} {LOOPBACK} {_port(self.servers[0])} {QUORUM}\n"
                f"sentinel down-after-milliseconds {MASTER_NAME} {LOST_AFTER_MS}\n"
                f"sentinel failover-timeout {MASTER_NAME} {FAILOVER_TIMEOUT_MS}\n"
            )
            command = [program, str(folder / "sentinel.conf"), "--sentinel"]
            process = ServerProcess(command, folder / "sentinel.log", signal.SIGKILL)
            try:
                process.wait_until(lambda port=port: _answers(port), START_WITHIN_S)  # type: ignore[misc]
            except EmbeddedServerError:
                if tries_left and not process.is_running and "in use" in process.output:
                    continue
                process.stop(signal.SIGKILL)
                raise
            return port, process
        raise AssertionError("unreachable")


def client_of(url: str, **options: Any) -> redis.Redis:
    """A client of the Redis at `url`, with `options`, or of the one that the sentinels in it watch."""
    if not url.startswith("sentinel://"):
        return redis.Redis.from_url(url, **options)
    entries = [entry.removeprefix("sentinel://") for entry in url.split(";")]
    places = [entry.partition("/")[0].rpartition(":") for entry in entries]
    untyped: Any = Sentinel
    sentinel = untyped(
        [(host, int(port)) for host, _, port in places],
        sentinel_kwargs=_PATIENCE,
        db=int(entries[0].partition("/")[2]),
        **_PATIENCE,
    )
    client: redis.Redis = sentinel.master_for(MASTER_NAME)
    return client


def _port(server: EmbeddedValkey) -> int:
    return int(server.url.rpartition(":")[2].partition("/")[0])


def _client(server: EmbeddedValkey) -> redis.Redis:
    return redis.Redis(LOOPBACK, _port(server), decode_responses=True, **_PATIENCE)


def _command(server: EmbeddedValkey, *words: str) -> Any:
    with _client(server) as client:
        return client.execute_command(*words)


def _follow(replica: EmbeddedValkey, master: EmbeddedValkey) -> None:
    _command(replica, "REPLICAOF", LOOPBACK, str(_port(master)))


def _replication(server: EmbeddedValkey) -> dict[str, Any]:
    with _client(server) as client:
        found: dict[str, Any] = client.info("replication")
        return found


def _role(server: EmbeddedValkey) -> str:
    with suppress(redis.RedisError):
        return str(_replication(server)["role"])
    return "unknown"


def _table(replica: Any) -> dict[str, Any]:
    """On the older protocol a table is a list of names and values in turn."""
    return dict(zip(replica[::2], replica[1::2], strict=True)) if isinstance(replica, list) else dict(replica)


def _answers(port: int) -> bool:
    with suppress(redis.RedisError), redis.Redis(LOOPBACK, port, **_PATIENCE) as client:
        return bool(client.ping())
    return False
