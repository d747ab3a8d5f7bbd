"""`install(app)`: all that a user adds to a Celery app."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any


def install(app: Any, environ: Mapping[str, str] | None = None) -> None:
    """Put the gate into every worker of `app`. Call once, where the app is made.

    Settings are read from `environ` (default: the process's environment) when a worker starts, so a process that
    only sends tasks needs none; a worker without them prints one line and exits with code 2. With
    SLUICEGATE_ENABLED=false a worker runs as if this had not been called.
    """
    # Imported here, so that importing the package costs nothing: `celery --help` imports it for its commands.
    from sluicegate.workers.celery_inside import commands
    from sluicegate.workers.steps import FollowHolds, GuardConsumer

    environ = os.environ if environ is None else environ
    follow = type("FollowHolds", (FollowHolds,), {"environ": environ, "__module__": FollowHolds.__module__})
    commands.register()
    app.steps["worker"].add(follow)
    app.steps["consumer"].add(GuardConsumer)
