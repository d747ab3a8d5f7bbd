"""The control command that a broadcast calls in a worker."""

from __future__ import annotations

from typing import Any

from celery.worker.control import inspect_command

from sluicegate.workers.celery_inside.marks import MEMBER


def sluicegate_hint(state: Any, **_: Any) -> dict[str, str]:
    """The second way of a hint: read the signed state again. Arguments are ignored on purpose; nothing here resumes."""
    member = getattr(state.consumer.controller, MEMBER, None)
    if member is None:
        return {"ok": "sluicegate is not installed"}
    member.follower.poke()
    return {"ok": "reading the state again"}


def register() -> None:
    """Have every worker of this process answer to it; again does nothing more."""
    inspect_command()(sluicegate_hint)
