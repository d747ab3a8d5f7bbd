"""A real Postgres on a free port of this machine."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, Self

from sluicegate.control.embedded.ports import LOOPBACK
from sluicegate.control.embedded.postgres_binaries import find_binaries, nobody
from sluicegate.control.embedded.process import (
    PATIENCE_S,
    Account,
    EmbeddedServerError,
    ServerProcess,
    start_on_a_port,
)

_NAMED = Path(__file__).with_name("named.py")
_STOP_WITHIN_S = 60.0  # its last checkpoint included
_STOP_SIGNALS = {"smart": signal.SIGTERM, "fast": signal.SIGINT, "immediate": signal.SIGQUIT}


class EmbeddedPostgres:
    """A Postgres cluster whose data lie in `data_dir` and outlive it; made there at the first start.

    Anyone on this machine who reaches the loopback port is `postgres` (or any role), without a password: for trying
    out, developing and testing, not for others' machines. `durable=False` gives up fsync: a killed
    server keeps its data, a power cut may not. `port` is a free one unless given, and stays the same
    over restarts. `log` defaults to a file beside `data_dir`. Methods raise `EmbeddedServerError`.

    Postgres refuses to run as root, so root runs it as nobody, who owns `data_dir` then and is handed
    it as an open descriptor: the directories above it (a home of mode 0700) need not be opened to anyone.
    """

    def __init__(
        self, data_dir: Path, *, port: int | None = None, log: Path | None = None, durable: bool = True
    ) -> None:
        self.data_dir = data_dir.absolute()
        self.log = log or self.data_dir.with_name(self.data_dir.name + ".log")
        self._durable = durable
        self._port = port
        self._account = nobody() if os.geteuid() == 0 else Account()
        self._server: ServerProcess | None = None

    @property
    def url(self) -> str:
        """Where clients reach it as its superuser. Known once it has been started."""
        return self.url_as("postgres")

    def url_as(self, role: str) -> str:
        """Where clients reach it as `role`, which must be there. Known once it has been started."""
        if self._port is None:
            raise EmbeddedServerError("Postgres has no address before it is started")
        return f"postgresql://{role}@{LOOPBACK}:{self._port}/postgres"

    @property
    def pid(self) -> int:
        """The postmaster's process id; raises EmbeddedServerError where none runs."""
        if not (self._server and self._server.is_running):
            raise EmbeddedServerError("Postgres is not running")
        return self._server.pid

    def start(self) -> None:
        """Return once it accepts connections, recovered if need be. Nothing happens where it runs already."""
        if self._server and self._server.is_running:
            return
        binaries = find_binaries(self._account)
        if not (self.data_dir / "PG_VERSION").exists():
            self._make_cluster(binaries)
        _forget_stale_lock(self.data_dir)
        self._server, self._port = start_on_a_port(
            lambda port: self._spawn(binaries, port),
            lambda port, server: _is_ready(self.data_dir, server.pid),
            PATIENCE_S,
            wanted=self._port,
        )

    def stop(self, mode: Literal["fast", "smart", "immediate"] = "fast") -> None:
        """End it: `fast` cuts its clients off, `smart` waits for them, `immediate` leaves it to recover."""
        if self._server:
            self._server.stop(_STOP_SIGNALS[mode], _STOP_WITHIN_S)

    def kill(self) -> None:
        """End it and all its backends by SIGKILL, and return when they are gone: the next start recovers."""
        if not (self._server and self._server.is_running):
            return
        # Held still meanwhile, it can start no backend that the list would miss.
        self._server.send(signal.SIGSTOP)
        backends = _children(self._server.pid)
        self._server.stop(signal.SIGKILL)
        for pid in backends:
            _kill_and_wait(pid)

    def restart(self) -> None:
        """Stop and start on the same port."""
        self.stop()
        self.start()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _make_cluster(self, binaries: Path) -> None:
        """Make it beside its place and move it there when whole: a killed initdb leaves half a cluster."""
        if self.data_dir.exists() and any(self.data_dir.iterdir()):
            raise EmbeddedServerError(f"{self.data_dir} is neither empty nor a Postgres cluster")
        draft = self.data_dir.with_name(f"{self.data_dir.name}.new")
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True, mode=0o700)
        os.chown(draft, self._account.uid, self._account.gid)
        with _reachable(draft, self._account) as (path, pass_fds):
            command = [*_named(), str(binaries / "initdb"), "-D", path, "-U", "postgres", "-A", "trust"]
            command += ["--locale=C", "-E", "UTF8", *([] if self._durable else ["--no-sync"])]
            initdb = ServerProcess(command, self.log, signal.SIGKILL, self._account, pass_fds)
        initdb.finish(PATIENCE_S)
        draft.rename(self.data_dir)

    def _spawn(self, binaries: Path, port: int) -> ServerProcess:
        settings = {
            "unix_socket_directories": "",
            "dynamic_shared_memory_type": "mmap",  # in the cluster, so that a kill leaves nothing in /dev/shm
            "fsync": "on" if self._durable else "off",
            "full_page_writes": "on" if self._durable else "off",
        }
        with _reachable(self.data_dir, self._account) as (path, pass_fds):
            command = [str(binaries / "postgres"), "-D", path, "-h", LOOPBACK, "-p", str(port)]
            command += [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
            # SIGQUIT is `immediate`: when we are killed, it is gone at once and removes its own traces.
            return ServerProcess(command, self.log, signal.SIGQUIT, self._account, pass_fds)


def _is_ready(data_dir: Path, pid: int) -> bool:
    """As pg_ctl judges it: the eighth line of the lock file, once its first is our server's."""
    lock = _lock_file(data_dir)
    return len(lock) > 7 and lock[0] == str(pid) and lock[7].strip() == "ready"


@contextmanager
def _reachable(directory: Path, account: Account) -> Iterator[tuple[str, list[int]]]:
    """A name under which a server of `account` reaches `directory`, and the descriptors to pass it."""
    if account.uid == -1:
        yield str(directory), []
        return
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{descriptor}", [descriptor]
    finally:
        os.close(descriptor)


def _lock_file(data_dir: Path) -> list[str]:
    try:
        return (data_dir / "postmaster.pid").read_text().splitlines()
    except FileNotFoundError:
        return []


def _named() -> list[str]:
    """What to put before a program that asks for its user's name, where this user has none, as in some containers."""
    try:
        pwd.getpwuid(os.geteuid())
    except KeyError:
        return [sys.executable, "-I", "-S", str(_NAMED)]
    return []


def _forget_stale_lock(data_dir: Path) -> None:
    """Remove a killed server's lock file whose process id another process of the same user has by now.

    Postgres removes its lock itself where no such process lives, and refuses to start where one does: as
    it must, since it cannot see what we can, that the process works in another directory.
    """
    lock = _lock_file(data_dir)
    if not lock:
        return
    try:
        workplace = os.stat(f"/proc/{int(lock[0])}/cwd")
    except (OSError, ValueError):
        return  # no such process, or one that is not ours to look at: Postgres decides
    if os.path.samestat(workplace, data_dir.stat()):
        raise EmbeddedServerError(f"another Postgres runs on {data_dir} (process {lock[0]}): stop it first")
    (data_dir / "postmaster.pid").unlink()


def _children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def _kill_and_wait(pid: int, deadline_s: float = 5.0) -> None:
    """Kill a process that is not our child, and return when it is gone or nobody has buried it yet."""
    give_up = time.monotonic() + deadline_s
    try:
        os.kill(pid, signal.SIGKILL)
        while time.monotonic() < give_up:
            # The state follows the command's name, which stands in brackets.
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return
            time.sleep(0.002)
    except (ProcessLookupError, FileNotFoundError):
        return
    raise EmbeddedServerError(f"process {pid} survived SIGKILL for {deadline_s:g} s")
