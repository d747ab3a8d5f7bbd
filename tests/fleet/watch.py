"""Watching workers: a thread that collects every acknowledgement that can be seen from outside."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from types import TracebackType
from typing import Any, Self

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from sluicegate.control.client import Client
from sluicegate.schemas.beats import Beat
from sluicegate.schemas.errors import SluicegateError
from sluicegate.schemas.names import beat_key
from tests.fleet.checker import Edition, Sighting
from tests.fleet.sentinels import client_of

EVERY_S = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class Word:
    """What one worker says of itself at one moment. `applied_at_us` is None before it applied anything."""

    nodename: str
    incarnation: str
    state: str
    edition: Edition
    applied_at_us: int | None
    running: int
    reserved: int
    refused: dict[str, int]
    waiting: int = 0
    """Of those that run, how many wait at a checkpoint."""


def microseconds_of(moment: datetime) -> int:
    """Whole microseconds since 1970, exactly."""
    return int(moment.timestamp()) * 1_000_000 + moment.microsecond


def by_rest(client: Client) -> list[Word]:
    """What `GET /api/workers` says of every worker that is there; nothing where it cannot say."""
    try:
        workers = client.workers().body.workers
    except SluicegateError:
        return []
    return [
        Word(
            nodename=worker.nodename,
            incarnation=worker.incarnation,
            state=worker.state,
            edition=(worker.applied_epoch, worker.applied_version),
            applied_at_us=None if worker.applied_at is None else microseconds_of(worker.applied_at),
            running=len(worker.running),
            reserved=worker.reserved,
            refused=dict(worker.refused),
        )
        for worker in workers
    ]


def by_redis(url: str, namespace: str, nodenames: Iterable[str]) -> Callable[[], list[Word]]:
    """The same from the heartbeats themselves: it costs the control plane nothing, and outlives it."""
    client = client_of(url, socket_timeout=1.0, socket_connect_timeout=1.0, retry=Retry(NoBackoff(), 0))
    names = list(nodenames)

    def look() -> list[Word]:
        try:
            raws: list[Any] = client.mget([beat_key(namespace, name) for name in names]) if names else []
        except redis.RedisError:
            return []
        beats = [Beat.decode(raw) for raw in raws if raw is not None]
        return [
            Word(
                nodename=beat.nodename,
                incarnation=beat.incarnation,
                state="gone" if beat.is_goodbye else str(beat.state),
                edition=(beat.applied.epoch, beat.applied.version),
                applied_at_us=None if beat.applied_at is None else microseconds_of(beat.applied_at),
                running=len(beat.running),
                reserved=beat.reserved,
                refused=dict(beat.refused),
                waiting=sum(task.is_waiting for task in beat.running),
            )
            for beat in beats
        ]

    return look


class Watch:
    """Looks every few milliseconds, and keeps each different sighting. A context manager."""

    def __init__(self, look: Callable[[], list[Word]], *, every_s: float = EVERY_S) -> None:
        self._look = look
        self._every_s = every_s
        self._words: dict[str, Word] = {}
        self._sightings: dict[Sighting, None] = {}
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def sightings(self) -> list[Sighting]:
        """Everything seen so far, each once; looks once more first."""
        self._take()
        with self._lock:
            return list(self._sightings)

    def forget(self) -> None:
        """Keep only what is in force now."""
        with self._lock:
            self._sightings.clear()
        self._take()

    def words(self) -> dict[str, Word]:
        """The last word of each worker that was ever seen."""
        if self._error is not None:
            raise self._error
        with self._lock:
            return dict(self._words)

    def _run(self) -> None:
        try:
            while not self._stop.wait(self._every_s):
                self._take()
        except Exception as error:
            self._error = error

    def _take(self) -> None:
        words = self._look()
        with self._lock:
            for word in words:
                self._words[word.nodename] = word
                if word.applied_at_us is not None and word.edition > (0, 0):
                    sighting = Sighting(nodename=word.nodename, at_us=word.applied_at_us, edition=word.edition)
                    self._sightings[sighting] = None
