"""A control plane in a process of its own, which a test may kill."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from tests.integration.world import World

SERVE = (
    "import os; from sluicegate.control.process.plane import serve; "
    "serve(os.environ, ready=lambda u: print(u, flush=True))"
)


@contextmanager
def serving(world: World) -> Iterator[subprocess.Popen[str]]:
    """It answers when the block begins, and is gone when it ends."""
    environ = os.environ | world.environ()
    with subprocess.Popen([sys.executable, "-c", SERVE], env=environ, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline().startswith("http://")
            yield process
        finally:
            process.kill()
