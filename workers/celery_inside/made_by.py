"""How a worker came to be: by the `celery worker` command, by Celery's own test tools, or by hand."""

from __future__ import annotations

import sys
from typing import Any

import click


def is_test_worker(worker: Any) -> bool:
    """Is it the worker of `celery.contrib.testing`, which lives in the process of a test?

    By its class alone: no name, no argument and no setting makes another worker one.
    """
    testing = sys.modules.get("celery.contrib.testing.worker")
    return testing is not None and issubclass(type(worker), testing.TestWorkController)


def is_made_by_command() -> bool:
    """Does `celery worker` run on this thread? `app.worker_main()` runs it too."""
    command = sys.modules.get("celery.bin.worker")
    context = click.get_current_context(silent=True)
    return command is not None and context is not None and context.command is command.worker
