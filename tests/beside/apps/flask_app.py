"""Flask's documented pattern: each task runs within the context of the application."""

from __future__ import annotations

import time
from typing import Any

from celery import Task
from flask import Flask, current_app

from tests.beside.apps.recorded import recorded
from tests.beside.apps.witness import tell
from tests.fleet.app import app

web = Flask("beside")
web.config["WORD"] = "in its context"


class FlaskTask(Task):  # type: ignore[type-arg]
    """As Flask's documentation has it."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with web.app_context():
            return self.run(*args, **kwargs)


@app.task(bind=True, name="fleet.flask", base=FlaskTask)
def in_flask(self: Any, seq: int, seconds: float) -> None:
    """Take `seconds`, and say what the application's context has."""
    with recorded(self.request, seq):
        time.sleep(seconds)
        tell("context", current_app.config["WORD"])
