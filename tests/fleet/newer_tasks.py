"""The fleet's app in its next version: it has a task that the workers of the present one have never heard of."""

from __future__ import annotations

from tests.fleet.app import Stepping, app

MODULE = __name__
UNKNOWN = "future"


class Future(Stepping):
    """As its base."""

    name = f"fleet.{UNKNOWN}"


app.register_task(Future())
