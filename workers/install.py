"""`install(app)`: all that a user adds to a Celery app."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any


def install(app: Any, environ: Mapping[str, str] | None = None) -> None:
    """Put the gate into every worker of `app`. Call once, where the app is made.

    Settings are read from `environ` (default: the process's environment) when a worker starts, so a process that
    only sends tasks needs none. Without them `celery worker` prints one line and exits with code 2, a worker that is
    made in another way raises InvalidSetting, and the one of `celery.contrib.testing` runs as if this had not been
    called, as any worker does with SLUICEGATE_ENABLED=false. A purge of a queue takes what is set aside of it too, in
    any process that has called this.
    """
    # Imported here, so that importing the package costs nothing: `celery --help` imports it for its commands.
    from sluicegate.workers.celery_inside import purges
    from sluicegate.workers.steps import FollowHolds, GuardConsumer, HandBackAside

    environ = os.environ if environ is None else environ
    purges.take_aside_too()
    app.steps["worker"].add(_reading(FollowHolds, environ))
    app.steps["consumer"].add(GuardConsumer)
    app.steps["consumer"].add(_reading(HandBackAside, environ))


def _reading(step: Any, environ: Mapping[str, str]) -> Any:
    """The step, for an app whose settings are these."""
    return type(step.__name__, (step,), {"environ": environ, "__module__": step.__module__})
