"""A pause control plane for Celery fleets."""

from sluicegate.workers.checkpoints import checkpoint, resumable, resume_cursor
from sluicegate.workers.install import install

__version__ = "0.1.0.dev0"
__all__ = ["__version__", "checkpoint", "install", "resumable", "resume_cursor"]
