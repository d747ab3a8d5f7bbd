"""A real RabbitMQ on free ports of this machine: Debian's `rabbitmq-server`, in a directory of its own.

It is the Erlang virtual machine itself that is started, tied to this process: Debian's wrapper would change to the
user `rabbitmq` and to its directories, and the shell script below it would stand between us and the process. `epmd`,
the port mapper that every Erlang node needs, is ours as well and has a port of its own, so that test processes side
by side do not meet and none is left behind as a daemon.

What is asked of the running server (`ask`) goes by `erl_call` and takes some 6 ms; `rabbitmqctl` takes two seconds.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from functools import partial
from pathlib import Path
from typing import Self

from sluicegate.control.embedded.ports import LOOPBACK, free_port
from sluicegate.control.embedded.process import EmbeddedServerError, ServerProcess

START_WITHIN_S = 100.0
LEADERS_WITHIN_S = 30.0
STOP_WITHIN_S = 20.0
_PORTS_TO_TRY = 5
_LIBRARY = Path("/usr/lib/rabbitmq/lib")
_NODE = "rabbit@localhost"
_QUEUES_WITHOUT_LEADER = (
    '[amqqueue:get_pid(Q) || Q <- rabbit_amqqueue:list(<<"/">>), amqqueue:get_type(Q) =:= rabbit_quorum_queue,'
    " ra_leaderboard:lookup_leader(element(1, amqqueue:get_pid(Q))) =:= undefined]"
)


def missing() -> str | None:
    """Why no RabbitMQ can be started here; None where it can."""
    if _scripts() is None:
        return f"RabbitMQ is not installed here (no {_LIBRARY}: Debian's package rabbitmq-server)"
    for program in ("erl", "epmd", "erl_call"):
        if _erlang(program) is None:
            return f"Erlang's {program} is not installed here (Debian's package erlang-base)"
    return None


class Rabbit:
    """A RabbitMQ server whose data lie in `directory` and outlive it. Methods raise `EmbeddedServerError`.

    Its port is a free one and stays the same over restarts. It obeys `guest` with any right, on the loopback only.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory.absolute()
        self.log = self.directory / "rabbitmq.log"
        self._cookie = secrets.token_hex(10)
        self._ports: tuple[int, int] | None = None
        self._epmd: ServerProcess | None = None
        self._epmd_port = 0
        self._server: ServerProcess | None = None
        self.was_killed = False

    @property
    def port(self) -> int:
        """Where clients reach it. Known once it has been started."""
        if self._ports is None:
            raise EmbeddedServerError("RabbitMQ has no address before it is started")
        return self._ports[0]

    @property
    def url(self) -> str:
        """As Celery takes it."""
        return f"amqp://guest:guest@{LOOPBACK}:{self.port}//"

    @property
    def pid(self) -> int:
        """Of the running server."""
        if not (self._server and self._server.is_running):
            raise EmbeddedServerError("RabbitMQ is not running")
        return self._server.pid

    def start(self) -> None:
        """Return once it has recovered its queues and takes connections. Nothing happens where it runs already."""
        if self._server and self._server.is_running:
            return
        if (why := missing()) is not None:
            raise EmbeddedServerError(why)
        (self.directory / "log").mkdir(parents=True, exist_ok=True, mode=0o700)
        self._start_epmd()
        for tries_left in reversed(range(1 if self._ports else _PORTS_TO_TRY)):
            ports = self._ports or (free_port(), free_port())
            self._server = self._spawn(*ports)
            try:
                self._server.wait_until(partial(self._is_booted, ports[0]), START_WITHIN_S)
            except EmbeddedServerError:
                if tries_left and not self._server.is_running and "eaddrinuse" in self._server.output:
                    continue  # another process took a port between our look and the server's bind
                self.kill()
                raise
            self._ports = ports
            self._wait_for_leaders()
            return

    def _wait_for_leaders(self) -> None:
        """After a restart a quorum queue first elects its leader, and answers nobody until then.

        One that was declared just before the server was killed never does by itself (RabbitMQ 3.10: Celery's queues
        for delayed messages, each time): it is asked to.
        """
        give_up = time.monotonic() + LEADERS_WITHIN_S
        asks_from = time.monotonic() + 5.0
        while (without := self.ask(_QUEUES_WITHOUT_LEADER)) != "[]":
            if time.monotonic() > give_up:
                raise EmbeddedServerError(f"without a leader after {LEADERS_WITHIN_S:g} s: {without}")
            if time.monotonic() > asks_from:
                self.ask(f"[ra:trigger_election(S) || S <- {_QUEUES_WITHOUT_LEADER}]")
            time.sleep(0.05)

    def _start_epmd(self) -> None:
        epmd = _erlang("epmd")
        assert epmd is not None
        while not (self._epmd and self._epmd.is_running):
            self._epmd_port = free_port()
            self._epmd = ServerProcess(
                [epmd, "-address", LOOPBACK, "-port", str(self._epmd_port)],
                self.directory / "epmd.log",
                signal.SIGKILL,
            )
            try:
                self._epmd.wait_until(lambda: _answers(self._epmd_port), START_WITHIN_S)
            except EmbeddedServerError:
                if "in use" not in self._epmd.output:
                    raise

    def _spawn(self, port: int, distribution_port: int) -> ServerProcess:
        scripts = _scripts()
        assert scripts is not None
        (self.directory / "enabled_plugins").write_text("[].\n")
        # The guard that stops a server on a nearly full disk is for production; the ticks make figures current.
        (self.directory / "rabbitmq.conf").write_text(
            f"listeners.tcp.1 = {LOOPBACK}:{port}\n"
            "disk_free_limit.absolute = 1MB\n"
            "vm_memory_high_watermark.absolute = 2GB\n"
            "log.console = true\nlog.console.level = warning\nlog.file = false\n"
        )
        return ServerProcess(
            [str(scripts / "rabbitmq-server")],
            self.log,
            signal.SIGKILL,
            environ={
                **self._environ(),
                "RABBITMQ_NODENAME": _NODE,
                "RABBITMQ_BASE": str(self.directory),
                "RABBITMQ_MNESIA_BASE": str(self.directory / "mnesia"),
                "RABBITMQ_LOG_BASE": str(self.directory / "log"),
                "RABBITMQ_CONFIG_FILE": str(self.directory / "rabbitmq.conf"),
                "RABBITMQ_ADVANCED_CONFIG_FILE": str(self.directory / "advanced.config"),
                "RABBITMQ_CONF_ENV_FILE": str(self.directory / "rabbitmq-env.conf"),
                "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.directory / "enabled_plugins"),
                "RABBITMQ_DIST_PORT": str(distribution_port),
                # With a shell's input allowed the script becomes the virtual machine instead of waiting for it.
                "RABBITMQ_ALLOW_INPUT": "1",
                "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": f"-noinput -setcookie {self._cookie} "
                "-kernel inet_dist_use_interface {127,0,0,1} +S 2:2 +A 16",
            },
        )

    def _environ(self) -> dict[str, str]:
        return {
            "PATH": os.environ.get("PATH", os.defpath),
            "LC_ALL": "C.UTF-8",
            "HOME": str(self.directory),
            "ERL_EPMD_PORT": str(self._epmd_port),
            "ERL_EPMD_ADDRESS": LOOPBACK,
        }

    def _is_booted(self, port: int) -> bool:
        """Has our own server, and no other that took the port, booted to the end?"""
        try:
            return _answers(port) and self.ask("rabbit:is_running()") == "true"
        except EmbeddedServerError:
            return False

    def ask(self, expression: str) -> str:
        """What an Erlang expression comes to inside the server; raises EmbeddedServerError where it fails."""
        erl_call = _erlang("erl_call")
        assert erl_call is not None
        command = [erl_call, "-r", "-c", self._cookie, "-n", _NODE, "-e"]
        try:
            asked = subprocess.run(
                command,
                input=f"{expression}.\n",
                env=self._environ(),
                capture_output=True,
                text=True,
                timeout=10,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise EmbeddedServerError("RabbitMQ does not answer") from None
        answer = asked.stdout.strip()
        if asked.returncode or not answer.startswith("{ok,"):
            raise EmbeddedServerError(f"RabbitMQ did not evaluate {expression!r}: {answer or asked.stderr.strip()}")
        return answer.removeprefix("{ok,").removesuffix("}").strip()

    def close_all_connections(self) -> None:
        """Cut every client off, as an operator may; they can come back at once."""
        self.ask('[rabbit_networking:close_connection(P, "cut by the test") || P <- rabbit_networking:connections()]')

    def stop(self) -> None:
        """End it in order."""
        if self._server:
            self._server.send(signal.SIGCONT)
            self._server.stop(signal.SIGTERM, STOP_WITHIN_S)

    def kill(self) -> None:
        """End it at once, as a crash would, and return when it is gone."""
        self.was_killed = True
        if self._server:
            self._server.stop(signal.SIGKILL)

    def renew(self) -> None:
        """Stop it, and start one that has never seen a queue, on the same port."""
        self.stop()
        shutil.rmtree(self.directory / "mnesia", ignore_errors=True)
        self.was_killed = False
        self.start()

    def freeze(self) -> None:
        """Stop it in its tracks: connections stay open and nothing answers. `thaw` lets it go on."""
        os.kill(self.pid, signal.SIGSTOP)

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
        if self._epmd:
            self._epmd.stop(signal.SIGTERM)


def _scripts() -> Path | None:
    found = sorted(_LIBRARY.glob("rabbitmq_server-*/sbin/rabbitmq-server"))
    return found[-1].parent if found else None


def _erlang(program: str) -> str | None:
    """Debian puts some of Erlang's programs on PATH and the others beside them."""
    return shutil.which(program) or shutil.which(program, path="/usr/lib/erlang/bin")


def _answers(port: int) -> bool:
    try:
        socket.create_connection((LOOPBACK, port), timeout=1.0).close()
    except OSError:
        return False
    return True
