"""ddtrace, as `ddtrace-run` sets it up; each finished trace is told to the witness before it goes to the agent."""

from __future__ import annotations

from typing import Any

import ddtrace.auto  # noqa: F401
from ddtrace.trace import TraceFilter, tracer

from tests.beside.apps.witness import tell
from tests.fleet.app import app

__all__ = ["app"]


class Witnessed(TraceFilter):  # type: ignore[misc]
    """Tells each span of a run, and whether it ended in an error."""

    def process_trace(self, trace: list[Any]) -> list[Any]:
        for span in trace:
            if span.name == "celery.run":
                tell("error" if span.error else "span", span.get_tag("celery.id"))
        return trace


tracer.configure(trace_processors=[Witnessed()])
