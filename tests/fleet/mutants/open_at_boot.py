"""Begins open, and follows only then: a worker that starts consumes before it knows what is ordered."""

from __future__ import annotations

from typing import Any

from sluicegate.schemas.modes import Mode
from sluicegate.schemas.snapshots import NOTHING
from sluicegate.workers.gate import Gate, Standing
from tests.fleet.app import app

make = Gate.__init__


def make_open(self: Gate[Any], *args: Any, **kwargs: Any) -> None:
    make(self, *args, **kwargs)
    self._flip(Standing(edition=NOTHING, mode=Mode.RUN, local_reason=None), has_scoped=False)


Gate.__init__ = make_open  # type: ignore[method-assign]
__all__ = ["app"]
