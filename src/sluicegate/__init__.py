"""A pause control plane for Celery fleets."""

from sluicegate.schemas.version import VERSION as __version__
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
