"""Programs beside a worker: a beat, or Flower, in the same environment."""

from __future__ import annotations

import signal
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from tests.beside.fleet import BesideFleet
from tests.beside.flower_page import get
from tests.fleet.harness import GONE_WITHIN_S
from tests.fleet.waiting import until


@contextmanager
def running(fleet: BesideFleet, name: str, *arguments: str) -> Iterator[None]:
    """`celery -A MODULE` with these arguments, while the block lasts."""
    command: Sequence[str] = [fleet.python, "-m", "celery", "-A", fleet.library.module, *arguments]
    process = fleet.start_program(name, command)
    try:
        yield
    finally:
        process.stop(signal.SIGTERM, GONE_WITHIN_S)


@contextmanager
def flower(fleet: BesideFleet) -> Iterator[str]:
    """Flower, listening to the fleet's broker; its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    with running(fleet, "flower", "flower", "--address=127.0.0.1", f"--port={port}", "--max_tasks=1000000"):
        until("Flower answers", lambda: get(f"{address}/healthcheck") is not None, every_s=0.1)
        yield address
