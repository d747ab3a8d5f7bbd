"""The REST API as a FastAPI application."""

from __future__ import annotations

from fastapi import FastAPI

from sluicegate.control.http import problems
from sluicegate.control.http.headers import SecureHeaders
from sluicegate.control.http.problems import errors
from sluicegate.control.http.routes import audit, epoch, governors, health, pausing, workers
from sluicegate.control.parts import Parts
from sluicegate.schemas.version import VERSION


def build(parts: Parts) -> FastAPI:
    """The application over `parts`."""
    app = FastAPI(
        title="sluicegate",
        summary="A pause control plane for Celery fleets.",
        version=VERSION,
        # Both are pages that load their scripts from a foreign host. The description itself is at /openapi.json.
        docs_url=None,
        redoc_url=None,
        # A redirect would go to whatever host the request named.
        redirect_slashes=False,
        openapi_tags=[{"name": name} for name in ("pause", "workers", "epoch", "governors", "audit", "health")],
    )
    app.state.parts = parts
    for guarded in (pausing.router, workers.router, epoch.router, governors.router, audit.router):
        app.include_router(guarded, prefix="/api", responses=errors(401, 403, 422, 429, 503))
    app.include_router(health.router)
    problems.install(app)
    app.add_middleware(SecureHeaders)
    return app
