"""A network of two: this machine, and a namespace that a test makes, joined by one cable whose packets can be dropped.

Workers live in the namespace, and reach Valkey at this machine's end of the cable. The rules are the namespace's own:
nothing of the machine's is changed but one more interface, which goes with the namespace.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from ipaddress import ip_address
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

_PROGRAMS = {"ip": "iproute2", "iptables": "iptables", "nsenter": "util-linux"}
_NAMESPACES = Path("/run/netns")

Direction = Literal["to workers", "from workers"]
_CHAINS: dict[Direction, str] = {"to workers": "INPUT", "from workers": "OUTPUT"}


def missing() -> str | None:
    """The programs that are not installed here; None where all are."""
    for program, package in _PROGRAMS.items():
        if shutil.which(program, path=_path()) is None:
            return f"{program} is not installed here (Debian's package {package})"
    return None


def forbidden() -> str | None:
    """Why this machine lets nobody make a network namespace with packet rules; None where it does."""
    try:
        with Network() as network:
            network.drop("to workers", "from workers", share=0.3)
    except subprocess.CalledProcessError as error:
        return f"no network namespace may be made here: {' '.join(error.cmd)}: {str(error.stderr).strip()}"
    return None


def _path() -> str:
    # Where root's programs are, which not everybody has on PATH.
    return os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])


def _run(*command: str) -> None:
    environ = {**os.environ, "PATH": _path(), "LC_ALL": "C"}
    subprocess.run(command, check=True, capture_output=True, text=True, env=environ)


class Network:
    """The namespace, its cable, and its rules. A context manager; each process has at most one at a time.

    Raises CalledProcessError where the machine does not let us.
    """

    def __init__(self) -> None:
        # Four addresses a process, of those that no real network has (RFC 2544).
        base = ip_address("198.18.0.0") + 4 * (os.getpid() % (1 << 15))
        self.host, self._inside = str(base + 1), str(base + 2)
        self.name = f"sluicegate-{os.getpid()}"
        self._near, self._far = f"sg{os.getpid()}a", f"sg{os.getpid()}b"

    @property
    def prefix(self) -> list[str]:
        """What stands before a command that is to live in the namespace; it becomes that command, in one process."""
        return [shutil.which("nsenter", path=_path()) or "nsenter", f"--net={_NAMESPACES / self.name}"]

    def __enter__(self) -> Self:
        try:
            _run("ip", "netns", "add", self.name)
            _run("ip", "link", "add", self._near, "type", "veth", "peer", "name", self._far, "netns", self.name)
            _run("ip", "addr", "add", f"{self.host}/30", "dev", self._near)
            _run("ip", "link", "set", self._near, "up")
            for command in (
                ("addr", "add", f"{self._inside}/30", "dev", self._far),
                ("link", "set", self._far, "up"),
                ("link", "set", "lo", "up"),
            ):
                _run("ip", "-n", self.name, *command)
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # The cable first: packets that are still under way would keep it, and the namespace, for a while.
        for command in (("ip", "link", "del", self._near), ("ip", "netns", "del", self.name)):
            try:
                _run(*command)
            except (OSError, subprocess.CalledProcessError):
                continue  # it was not made

    def drop(self, *directions: Direction, share: float = 1.0) -> None:
        """From now on drop packets, all or a random share of them, without a word to either side."""
        self.heal()
        chance = [] if share == 1.0 else ["-m", "statistic", "--mode", "random", "--probability", str(share)]
        for direction in directions:
            way = ["-i" if direction == "to workers" else "-o", self._far]
            self._tables("-A", _CHAINS[direction], *way, *chance, "-j", "DROP")

    def heal(self) -> None:
        """Let everything through."""
        self._tables("-F")

    def _tables(self, *rule: str) -> None:
        _run(*self.prefix, "iptables", "-w", "5", *rule)
