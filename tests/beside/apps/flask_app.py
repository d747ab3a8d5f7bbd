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
    """As Flask's documentation has it; its own code begins before the context is entered."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with recorded(self.request, args[0]), web.app_context():
            return self.run(*args, **kwargs)


@app.task(name="fleet.flask", base=FlaskTask)
def in_flask(seq: int, seconds: float) -> None:
    """Take `seconds`, and say what the application's context has."""
    time.sleep(seconds)
    tell("context", current_app.config["WORD"])
