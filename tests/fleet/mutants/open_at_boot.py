"""Begins open, and follows only then: a worker that starts consumes before it knows what is ordered."""

from __future__ import annotations

import time
from typing import Any

from sluicegate.schemas.modes import Mode
from sluicegate.schemas.snapshots import NOTHING
from sluicegate.workers.follower import Follower
from sluicegate.workers.gate import Gate, Standing
from tests.fleet.app import app

# The follower often knows what is ordered before the consumer is there: here it takes its time.
LATE_S = 4.0

make = Gate.__init__
follow = Follower._run


def make_open(self: Gate[Any], *args: Any, **kwargs: Any) -> None:
    make(self, *args, **kwargs)
    self._flip(Standing(edition=NOTHING, mode=Mode.RUN, local_reason=None))


def follow_late(self: Follower) -> None:
    time.sleep(LATE_S)
    follow(self)


Gate.__init__ = make_open  # type: ignore[method-assign]
Follower._run = follow_late  # type: ignore[method-assign]
__all__ = ["app"]
