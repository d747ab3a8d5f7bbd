"""pybrake's own patch of Celery, initialised before the plugin is installed or after it (`BESIDE_ORDER`)."""

from __future__ import annotations

import os
from typing import Any

from pybrake.middleware.celery import patch_celery
from pybrake.notifier import Notifier

from tests.beside.apps.recorded import recorded

ORDER = "BESIDE_ORDER"


def init() -> None:
    """As its documentation says."""
    patch_celery(
        Notifier(project_id=1, project_key="beside", host=os.environ["BESIDE_COLLECTOR"], performance_stats=True)
    )


if os.environ.get(ORDER) == "before":
    init()

from tests.fleet.app import app  # noqa: E402

if os.environ.get(ORDER) != "before":
    init()


@app.task(bind=True, name="fleet.fails")
def fails(self: Any, seq: int) -> None:
    """Fail on purpose."""
    with recorded(self.request, seq):
        raise ValueError(f"on purpose: {seq}")
