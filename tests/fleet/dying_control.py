"""A control plane that dies right after an order was committed, and before anybody was told.

`python -m tests.fleet.dying_control`, with a control plane's settings. Publishing by itself is left to the loop,
whose first turn comes before the server answers; the one that follows an order is where it dies.
"""

from __future__ import annotations

import os
import signal
from typing import NoReturn

from sluicegate.control.process import plane
from sluicegate.control.publishing import publisher
from sluicegate.schemas.snapshots import Edition


def die(self: publisher.Publisher, edition: Edition) -> NoReturn:
    """In the place of `publish_now`: the transaction is committed, and here the power goes."""
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("unreachable")


if __name__ == "__main__":
    publisher.Publisher.publish_now = die  # type: ignore[method-assign]
    plane.serve(os.environ)
