"""opentelemetry-instrumentation-celery; each finished span is told to the witness by an exporter."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from celery import signals
from opentelemetry import trace
from opentelemetry.instrumentation.celery import CeleryInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult

from tests.beside.apps.witness import tell
from tests.fleet.app import app

__all__ = ["app"]


class Witnessed(SpanExporter):  # type: ignore[misc]
    """Tells each span, and whether it ended in an error."""

    def export(self, spans: Sequence[Any]) -> SpanExportResult:
        for span in spans:
            tell(
                "span" if span.status.is_ok or span.status.is_unset else "error",
                span.attributes["messaging.message.id"],
            )
        return SpanExportResult.SUCCESS


def init(**_: Any) -> None:
    """As its documentation says: in each process that runs tasks, once it has been forked."""
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(Witnessed()))
    trace.set_tracer_provider(provider)
    CeleryInstrumentor().instrument()


signals.worker_process_init.connect(init, weak=False)


@signals.celeryd_init.connect(weak=False)
def init_here(options: Any = None, **_: Any) -> None:
    """A pool of threads has no process of its own."""
    if str((options or {}).get("pool")) != "prefork" and "prefork" not in str((options or {}).get("pool")):
        init()
