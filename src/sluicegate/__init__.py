"""A pause control plane for Celery fleets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sluicegate.schemas.version import VERSION as __version__

if TYPE_CHECKING:
    from sluicegate.workers.checkpoints import checkpoint, resumable, resume_cursor
    from sluicegate.workers.costs import report_cost
    from sluicegate.workers.idle_hooks import on_idle
    from sluicegate.workers.install import install
    from sluicegate.workers.own_starts import starting

__all__ = [
    "__version__",
    "checkpoint",
    "install",
    "on_idle",
    "report_cost",
    "resumable",
    "resume_cursor",
    "starting",
]

# Imported when they are asked for: a probe, and the operator's commands, load nothing of a worker.
_FROM = {
    "checkpoint": "workers.checkpoints",
    "install": "workers.install",
    "on_idle": "workers.idle_hooks",
    "report_cost": "workers.costs",
    "resumable": "workers.checkpoints",
    "resume_cursor": "workers.checkpoints",
    "starting": "workers.own_starts",
}


def __getattr__(name: str) -> Any:
    """The public name, from where it is made; from then on it is an attribute as any other."""
    if name not in _FROM:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f"{__name__}.{_FROM[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_FROM})
