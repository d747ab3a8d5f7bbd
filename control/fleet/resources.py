"""What the probes of a fleet read: heartbeats name it, and it is fetched where it is not known already."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from dataclasses import replace

from sluicegate.control.links.state_redis import Bus
from sluicegate.schemas.errors import Unavailable
from sluicegate.schemas.health.readings import Readings
from sluicegate.schemas.progress import WorkerView
from sluicegate.schemas.telling import is_storable


class FleetResources:
    """Remembers each worker's readings until its heartbeat names others. Thread-safe."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._lock = threading.Lock()
        self._known: dict[str, tuple[str, Readings]] = {}

    def filled(self, workers: Iterable[WorkerView]) -> list[WorkerView]:
        """The same workers, with the readings that their heartbeats name; without, where those cannot be had."""
        workers = list(workers)
        unknown = [
            worker for worker in workers if worker.beat.resources is not None and self._remembered(worker) is None
        ]
        self._fetch(unknown)
        self._forget(workers)
        return [self._filled(worker) for worker in workers]

    def _fetch(self, workers: Sequence[WorkerView]) -> None:
        # A name that was cut short to be stored is no key; its readings stay unknown.
        asked = [worker for worker in workers if is_storable(worker.beat.nodename)]
        try:
            raws = self._bus.resources([worker.beat.nodename for worker in asked]) if asked else []
        except Unavailable:
            # Heartbeats that were remembered tell of workers; what their GPUs do now is not known.
            return
        for worker, raw in zip(asked, raws, strict=True):
            beat = worker.beat
            if beat.resources is None:
                continue
            found = beat.resources.found_in(raw)
            if found.readings is not None:
                with self._lock:
                    self._known[beat.nodename] = (found.digest, found.readings)

    def _forget(self, workers: Sequence[WorkerView]) -> None:
        names = {worker.beat.nodename for worker in workers}
        with self._lock:
            for name in self._known.keys() - names:
                del self._known[name]

    def _filled(self, worker: WorkerView) -> WorkerView:
        resources, readings = worker.beat.resources, self._remembered(worker)
        if resources is None or readings is None:
            return worker
        beat = replace(worker.beat, resources=replace(resources, readings=readings))
        return replace(worker, sighting=replace(worker.sighting, beat=beat))

    def _remembered(self, worker: WorkerView) -> Readings | None:
        resources = worker.beat.resources
        with self._lock:
            known = self._known.get(worker.beat.nodename)
        if resources is None or known is None or known[0] != resources.digest:
            return None
        return known[1]
