"""sentry-sdk with tracing, initialised before the plugin is installed or after it (`BESIDE_ORDER`)."""

from __future__ import annotations

import os
from typing import Any

import sentry_sdk
from sentry_sdk.integrations.celery import CeleryIntegration

from tests.beside.apps.recorded import recorded

ORDER = "BESIDE_ORDER"


def init() -> None:
    """As its documentation says."""
    sentry_sdk.init(
        dsn=os.environ["SENTRY_DSN"],
        traces_sample_rate=1.0,
        integrations=[CeleryIntegration()],
        max_breadcrumbs=50,
        shutdown_timeout=10,
        # Of its default, 100, it drops what it cannot send at once: on plain Celery up to 781 of 2,975 were dropped.
        transport_queue_size=10_000,
    )


if os.environ.get(ORDER) == "before":
    init()

from tests.fleet.app import app  # noqa: E402

if os.environ.get(ORDER) != "before":
    init()


@app.task(bind=True, name="fleet.fails")
def fails(self: Any, seq: int) -> None:
    """Say whose report this is to be, then fail."""
    with recorded(self.request, seq):
        sentry_sdk.set_tag("seq", seq)
        sentry_sdk.add_breadcrumb(message=f"seq {seq}")
        raise ValueError(f"on purpose: {seq}")
