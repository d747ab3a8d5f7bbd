"""The consumer of one broker connection."""

from __future__ import annotations

from typing import Any

from celery import bootsteps


def is_stopping(consumer: Any) -> bool:
    """Does the whole worker stop, and not only this broker connection?"""
    return bool(consumer.controller.blueprint.state != bootsteps.RUN)  # type: ignore[attr-defined]
