"""A server as a child process: born in a session of its own, dead when its parent is."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from sluicegate.control.embedded.ports import free_port, is_free
from sluicegate.schemas.errors import Unavailable

_LEASH = Path(__file__).with_name("leash.py")
_LOOK_EVERY_S = 0.005
_PORTS_TO_TRY = 5
PATIENCE_S = 300.0
"""How long a server may take to be ready: on a busy machine, and to recover. One that ends is noticed at once."""

_Child = subprocess.Popen[bytes]
_Start = Callable[[], _Child]


class EmbeddedServerError(Unavailable):
    """An embedded server is not installed, will not start, or ended by itself. One line, with the cause."""


@dataclass(frozen=True, slots=True)
class Account:
    """The user and group that a server runs as; -1 leaves them as they are."""

    uid: int = -1
    gid: int = -1


@dataclass(slots=True)
class ServerProcess:
    """One life of a server. `death_signal` is what the kernel sends it when this process dies.

    `pass_fds` stay open in the server under the same numbers. Its output is appended to `log`. Without an
    `environ` it gets nearly none: a server inherits no secrets from ours, and no PG* setting that would
    change it.
    """

    command: Sequence[str]
    log: Path
    death_signal: signal.Signals
    account: Account = Account()
    pass_fds: Sequence[int] = ()
    environ: Mapping[str, str] | None = None
    _child: _Child = field(init=False)
    _log_start: int = field(init=False)

    def __post_init__(self) -> None:
        leash = [sys.executable, "-I", "-S", str(_LEASH)]
        ties = [os.getpid(), int(self.death_signal), self.account.uid, self.account.gid]
        environ = {"PATH": os.defpath, "LC_ALL": "C"} if self.environ is None else dict(self.environ)
        if "LD_LIBRARY_PATH" in os.environ:
            environ["LD_LIBRARY_PATH"] = os.environ["LD_LIBRARY_PATH"]
        with self.log.open("ab") as log:
            self._log_start = log.tell()
            self._child = _on_the_spawner(
                lambda: subprocess.Popen(
                    [*leash, *map(str, ties), *self.command],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    cwd="/",
                    env=environ,
                    pass_fds=self.pass_fds,
                    start_new_session=True,  # Ctrl-C is for the parent, which stops its servers in order
                )
            )

    @property
    def pid(self) -> int:
        """Of the server itself: the leash becomes it."""
        return self._child.pid

    @property
    def is_running(self) -> bool:
        """False once it has ended, however it did."""
        return self._child.poll() is None

    @property
    def output(self) -> str:
        """What this life has logged so far."""
        with self.log.open("rb") as log:
            log.seek(self._log_start)
            return log.read().decode(errors="replace")

    def send(self, signum: signal.Signals) -> None:
        """Send a signal; nothing happens where the server has ended."""
        self._child.send_signal(signum)

    def finish(self, deadline_s: float) -> None:
        """Return once it has ended well. Raises `EmbeddedServerError` if it fails or takes longer."""
        try:
            status = self._child.wait(deadline_s)
        except subprocess.TimeoutExpired:
            self.stop(signal.SIGKILL)
            raise EmbeddedServerError(f"{self._name} took over {deadline_s:g} s (see {self.log})") from None
        if status != 0:
            raise EmbeddedServerError(f"{self._name} failed: {self._last_words}")

    def wait_until(self, is_ready: Callable[[], bool], deadline_s: float) -> None:
        """Return once `is_ready`. Raises `EmbeddedServerError` if the server ends first, or takes longer."""
        give_up = time.monotonic() + deadline_s
        while not is_ready():
            if not self.is_running:
                raise EmbeddedServerError(f"{self._name} ended at once: {self._last_words}")
            if time.monotonic() > give_up:
                raise EmbeddedServerError(f"{self._name} not ready in {deadline_s:g} s: {self._last_words}")
            time.sleep(_LOOK_EVERY_S)

    def stop(self, signum: signal.Signals, deadline_s: float = 10.0) -> None:
        """Ask it to end, and after `deadline_s` seconds make it. Nothing happens where it has ended."""
        self.send(signum)
        try:
            self._child.wait(deadline_s)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()

    @property
    def _name(self) -> str:
        return Path(self.command[0]).name

    @property
    def _last_words(self) -> str:
        lines = self.output.strip().splitlines() or ["it said nothing"]
        # Servers log the cause first, and then what follows from it and hints.
        cause = next(
            (line for line in lines if any(word in line for word in ("ould not", "FATAL", "rror:"))),
            lines[-1],
        )
        return f"{cause.strip()} (see {self.log})"


def start_on_a_port(
    spawn: Callable[[int], ServerProcess],
    is_ready: Callable[[int, ServerProcess], bool],
    within_s: float,
    *,
    wanted: int | None = None,
    is_fixed: bool = True,
) -> tuple[ServerProcess, int]:
    """A server that is ready, and its port: `wanted`, else a free one.

    Another process may take a port between our look and the server's bind: then the next free one is tried, and
    `wanted` is given up where it is not `is_fixed`. Whatever fails, nothing is left running. Raises
    `EmbeddedServerError`.
    """
    for tries_left in reversed(range(1 if wanted and is_fixed else _PORTS_TO_TRY)):
        port, wanted = wanted or free_port(), None
        server = spawn(port)
        try:
            server.wait_until(partial(is_ready, port, server), within_s)
        except BaseException as error:
            was_taken = not server.is_running and not is_free(port)
            server.stop(server.death_signal)
            if isinstance(error, EmbeddedServerError) and was_taken and tries_left:
                continue
            raise
        return server, port
    raise AssertionError("the last try returns or raises")


class _Spawner:
    """A thread that lives as long as this process, and starts every child.

    The kernel sends the parent-death signal when the THREAD that made the child ends: a server started
    from a worker thread of some pool would die with that thread.
    """

    def __init__(self) -> None:
        self.pid = os.getpid()
        self._orders: queue.SimpleQueue[tuple[_Start, Future[_Child]]] = queue.SimpleQueue()
        threading.Thread(target=self._serve, name="sluicegate-spawner", daemon=True).start()

    def run(self, start: _Start) -> _Child:
        child: Future[_Child] = Future()
        self._orders.put((start, child))
        return child.result()

    def _serve(self) -> None:
        while True:
            start, child = self._orders.get()
            try:
                child.set_result(start())
            except Exception as error:
                child.set_exception(error)


_spawner: _Spawner | None = None
_spawner_lock = threading.Lock()


def _on_the_spawner(start: _Start) -> _Child:
    global _spawner
    with _spawner_lock:
        # A forked child has the object but not its thread.
        if _spawner is None or _spawner.pid != os.getpid():
            _spawner = _Spawner()
    return _spawner.run(start)
