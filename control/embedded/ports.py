"""Free TCP ports on the loopback address."""

from __future__ import annotations

import random
import socket
from pathlib import Path

LOOPBACK = "127.0.0.1"
_LOWEST = 15_000


def free_port() -> int:
    """A port that nobody listens on now, below those that the kernel gives to outgoing connections.

    A port of the kernel's range would not stay ours over a restart: a client that keeps connecting to
    it while nobody listens is in the end given that very port, and talks to itself. Another process may
    still take the port before its server does, so a caller tries again with another one.
    """
    end = _first_outgoing_port()
    for _ in range(200):
        port = random.randrange(min(_LOWEST, end - 1_000), end)
        if is_free(port):
            return port
    with socket.socket() as any_port:
        any_port.bind((LOOPBACK, 0))
        return int(any_port.getsockname()[1])


def _first_outgoing_port() -> int:
    try:
        return int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    except (OSError, ValueError):
        return 32_768


def is_free(port: int) -> bool:
    """Does nobody listen on `port` now?"""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True
