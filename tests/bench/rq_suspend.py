"""RQ's own way to pause, on the same work: `rq suspend` sets a key, which workers look at between two jobs.

Its worker runs one job at a time, in a process that it forks for it, and fetches nothing ahead. Two workers stand in
the place of a Celery worker with two slots. Nothing acknowledges: what an operator has is the moment when `suspend`
returns.
"""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import redis
from rq import Queue, Worker
from rq.suspension import resume, suspend

from sluicegate.control.embedded.process import ServerProcess
from sluicegate.control.process.stack import Stack
from tests.bench import rq_work
from tests.bench.leaks import OnePause
from tests.fleet.harness import ROOT
from tests.fleet.records import Event, Reader, microseconds
from tests.fleet.waiting import until

DATABASE = 5
WORKERS = 2
AHEAD = 40
"""Jobs that lie ready, so that no pause comes to an idle worker."""


class RqWorkers:
    """Two RQ workers on a database of their own of the stack's Valkey; a context manager."""

    def __init__(self, stack: Stack) -> None:
        self.url = f"{stack.valkey.url.rpartition('/')[0]}/{DATABASE}"
        self.directory = Path(tempfile.mkdtemp(prefix="sluicegate-rq-"))
        self.redis = redis.Redis.from_url(self.url)
        self.queue = Queue("bench", connection=self.redis)
        self.records = Reader(self.directory / "records")
        self._numbers = itertools.count()
        self._lives = itertools.count()
        self._processes: dict[str, ServerProcess] = {}

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
        # Where Valkey is gone, so is what lay in it.
        with suppress(redis.RedisError):
            self.redis.flushdb()
        self.redis.close()
        shutil.rmtree(self.directory, ignore_errors=True)

    def start(self) -> bool:
        """Start both, and return once they listen. False: they ended at once, as they do where RQ is suspended."""
        environ = {**os.environ, "PYTHONPATH": str(ROOT), rq_work.RECORDS: str(self.records.path)}
        for _ in range(WORKERS):
            name = f"bench-{next(self._lives)}"
            log = self.directory / f"{name}.log"
            command = [sys.executable, "-m", "rq.cli", "worker", self.queue.name, "--url", self.url, "--name", name]
            self._processes[name] = ServerProcess(command, log, signal.SIGKILL, environ=environ)
        processes = self._processes.values()
        until("RQ's workers have started or ended", lambda: all(map(_has_started_or_ended, processes)), within_s=60)
        return self.is_running

    @property
    def is_running(self) -> bool:
        """Are both workers there?"""
        return all(process.is_running for process in self._processes.values())

    def kill(self) -> None:
        """SIGKILL to the workers and to what they have forked."""
        for process in self._processes.values():
            # The group is gone where all of it has ended.
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.stop(signal.SIGKILL)
        self._processes.clear()

    def send(self, count: int, seconds: float) -> list[int]:
        """Send naps; their numbers."""
        numbers = list(itertools.islice(self._numbers, count))
        jobs = [Queue.prepare_data(rq_work.nap, (number, seconds), result_ttl=0) for number in numbers]
        self.queue.enqueue_many(jobs)
        return numbers

    def refill(self, seconds: float) -> None:
        """Let no pause come to an idle worker."""
        if self.queue.count < AHEAD:
            self.send(2 * AHEAD, seconds)

    def starts(self) -> list[tuple[int, int]]:
        """When each task started, in microseconds, and its number."""
        return [(record.at_us, record.seq) for record in self.records.read() if record.event == "start"]

    def wait_started(self, count: int) -> None:
        """Return once so many have started."""
        until(f"{count} jobs have started", lambda: len(self.starts()) >= count, within_s=60)

    def wait_done(self) -> None:
        """Return once nothing is left to do, and both workers wait for the next job."""
        until("RQ is done", self._is_done, within_s=120)

    def _is_done(self) -> bool:
        return not self.queue.count and not self.running() and self.states() == ["idle"] * WORKERS

    def running(self) -> int:
        """How many have started and not ended."""
        events = Counter(record.event for record in self.records.read())
        return events[Event.START] - events[Event.END]

    def wait_suspended(self) -> None:
        """Return once every worker has seen it: none will begin another job. This is more than RQ tells an operator."""
        until("RQ's workers are suspended", lambda: self.states() == ["suspended"] * WORKERS, within_s=60)

    def states(self) -> Sequence[str]:
        """What they say of themselves; RQ remembers those that were killed for a while."""
        ours = self._processes
        return sorted(str(worker.get_state()) for worker in Worker.all(connection=self.redis) if worker.name in ours)

    def suspend(self) -> OnePause:
        """As `rq suspend`; when it was called, and when it returned."""
        called_us = microseconds(time.time())
        suspend(self.redis)
        return OnePause(called_us=called_us, acknowledged_us=microseconds(time.time()))

    def resume(self) -> None:
        """As `rq resume`; workers that would not start before are started."""
        resume(self.redis)
        if not self.is_running:
            self.kill()
            self.start()


def _has_started_or_ended(process: ServerProcess) -> bool:
    return "Listening on" in process.output or not process.is_running
