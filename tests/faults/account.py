"""What the control plane says of one fleet, and not of those that earlier tests killed on the same stack."""

from __future__ import annotations

from sluicegate.schemas.api.workers import WorkerBody
from tests.fleet.harness import Fleet


def seen(fleet: Fleet) -> list[WorkerBody]:
    """Its workers."""
    return [worker for worker in fleet.client.workers().body.workers if worker.host == fleet.host]


def is_drained(fleet: Fleet) -> bool:
    """Does it count as drained?"""
    return fleet.client.read(f"host:{fleet.host}").body.metrics.is_drained
