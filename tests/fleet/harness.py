"""Real workers on a real stack: started, fed, paused, killed, watched, and cleared away whatever happens.

A `Fleet` owns its worker processes, its queue and its records file; the `Stack` (Postgres, Valkey, control
plane) is the caller's and may serve many fleets, one after the other. Nothing here sleeps to let something
happen: every wait has a condition and a deadline (`waiting.until`).
"""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil
import redis
from celery import Celery

from sluicegate.control.client import Client
from sluicegate.control.embedded.process import ServerProcess
from sluicegate.control.process.stack import Stack
from sluicegate.schemas import settings
from sluicegate.schemas.api.pausing import ChangeAnswer
from tests.fleet import app as fleet_app
from tests.fleet import broker
from tests.fleet.broker import Contents, Message
from tests.fleet.checker import Call, Drained, Evidence, Sent, Verdict, check
from tests.fleet.rabbit import Rabbit
from tests.fleet.rabbit_queue import RabbitQueue
from tests.fleet.records import ItemDone, Reader, Record, microseconds, read_cursors, read_items
from tests.fleet.sentinels import client_of
from tests.fleet.waiting import WITHIN_S, NotInTime, stays, until
from tests.fleet.watch import Watch, Word, by_redis

ROOT = Path(__file__).resolve().parents[2]
READY_WITHIN_S = 90.0
GONE_WITHIN_S = 30.0
LOG_LINES_SHOWN = 60
_numbers = itertools.count(1)


@dataclass(slots=True)
class Worker:
    """One worker: its name, how it was started, and the process of its present life."""

    nodename: str
    command: Sequence[str]
    environ: Mapping[str, str]
    log: Path
    slots: int
    process: ServerProcess

    @property
    def pid(self) -> int:
        """Of the worker's parent process, which leads a process group of its own."""
        return self.process.pid

    @property
    def is_running(self) -> bool:
        """False once the parent process has ended."""
        return self.process.is_running

    def send(self, signum: signal.Signals) -> None:
        """Signal the parent process alone."""
        self.process.send(signum)

    def kill(self) -> None:
        """SIGKILL to the parent and all its children at once; return when they are gone."""
        _kill_group(self.pid)
        self.process.stop(signal.SIGKILL)
        until(f"{self.nodename} is gone", lambda: not _group(self.pid), within_s=GONE_WITHIN_S)

    def stop(self) -> None:
        """Celery's warm stop: running tasks finish, and it says goodbye. Killed where it takes too long."""
        self.process.stop(signal.SIGTERM, GONE_WITHIN_S)
        self.kill()


@dataclass(slots=True)
class Feeder:
    """Keeps a queue from running dry: sends while fewer than `low` messages lie there, until stopped."""

    fleet: Fleet
    low: int
    send: Callable[[int], None]
    batch: int = 25
    _stop: threading.Event = field(default_factory=threading.Event)
    _error: Exception | None = None
    _thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._run, name="feeder", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        if self._error is not None and error is None:
            raise self._error

    def _run(self) -> None:
        try:
            while not self._stop.wait(0.02):
                if self.fleet.depth() < self.low:
                    self.send(self.batch)
        except Exception as error:
            self._error = error


class Fleet:
    """Workers on `stack` that share a queue; a context manager that leaves nothing behind.

    `plugin=False` is plain Celery. `pool` is what `celery worker -P` takes. `prefetch` is Celery's multiplier.
    `environ` is added to what each worker gets; `host` is what stands behind the `@` of nodenames, for those who
    read them. `python` is the interpreter of the workers. Where the body of the `with` fails, the ends of all logs go
    to stderr.

    The broker is the stack's Valkey, or `rabbit`, with a queue of `queue_type`. The state of the fleet is in the
    stack's Valkey either way.
    """

    def __init__(
        self,
        stack: Stack,
        *,
        plugin: bool = True,
        pool: str = "prefork",
        acks_late: bool = False,
        prefetch: int = 4,
        visibility_s: int = 3600,
        host: str | None = None,
        environ: Mapping[str, str] | None = None,
        rabbit: Rabbit | None = None,
        queue_type: str = "classic",
        python: str = sys.executable,
    ) -> None:
        number = next(_numbers)
        self.stack = stack
        self.python = python
        self.plugin = plugin
        self.pool = pool
        self.prefetch = prefetch
        self.queue = f"fleet-{os.getpid()}-{number}"
        self.host = host or self.queue
        self.directory = Path(tempfile.mkdtemp(prefix="sluicegate-fleet-"))
        self.records = Reader(self.directory / "records")
        self.workers: dict[str, Worker] = {}
        self.sent: list[Sent] = []
        self.ids: dict[int, str] = {}
        self.calls: list[Call] = []
        self.drained: list[Drained] = []
        self._slots: dict[str, int] = {}
        self._next_seq = itertools.count()
        self._watch: Watch | None = None
        self._client = Client(stack.url, stack.environ[settings.TOKEN.name])
        broker_url = stack.environ[settings.BROKER_URL.name]
        self.redis = client_of(broker_url)
        self.rabbit_queue = RabbitQueue(rabbit, self.queue, queue_type) if rabbit else None
        self._acks_late = acks_late
        self._extra = dict(environ or {})
        self._ours = {
            fleet_app.BROKER: rabbit.url if rabbit else broker_url,
            fleet_app.QUEUE_TYPE: queue_type,
            fleet_app.QUEUE: self.queue,
            fleet_app.RECORDS: str(self.records.path),
            fleet_app.PLUGIN: "1" if plugin else "0",
            fleet_app.ACKS_LATE: "1" if acks_late else "0",
            fleet_app.PREFETCH: str(prefetch),
            fleet_app.VISIBILITY_S: str(visibility_s),
        }
        if master_name := stack.environ.get(settings.REDIS_MASTER_NAME.name):
            self._ours[fleet_app.MASTER_NAME] = master_name
            self._extra[settings.REDIS_MASTER_NAME.name] = master_name
        # A worker that is killed leaves billiard's temporary directories behind: they go with ours.
        (self.directory / "tmp").mkdir()
        self._settings = {
            "TMPDIR": str(self.directory / "tmp"),
            **{name: stack.environ[name] for name in _WORKER_SETTINGS},
            settings.STATE_DIR.name: str(self.directory / "state"),
            # A process more for each worker: only where a test is about it.
            settings.PROBE.name: "off",
        }
        self.sender: Celery = fleet_app.make({**self._ours, **self._extra})

    # --- life ---

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self.show_logs()
        self.close()

    def close(self) -> None:
        """Kill every process and remove every file and message. A test that wants a goodbye stops its worker."""
        try:
            if self._watch is not None:
                self._watch.__exit__(None, None, None)
            for worker in self.workers.values():
                worker.kill()
        finally:
            self._client.close()
            self.sender.close()
            self._clear_broker()
            self.redis.close()
            shutil.rmtree(self.directory, ignore_errors=True)

    def _clear_broker(self) -> None:
        # Where the broker is gone, so are its messages.
        with suppress(redis.RedisError):
            self.redis.flushdb()
        if self.rabbit_queue is not None:
            with suppress(OSError):
                self.rabbit_queue.delete()

    def show_logs(self) -> None:
        """The end of every log, to stderr, where pytest keeps it for a failed test."""
        logs = [*sorted(self.directory.glob("*.log")), self.stack.control_log]
        for log in (log for log in logs if log.exists()):
            lines = log.read_text(errors="replace").splitlines()
            print(f"--- {log.name} ({len(lines)} lines)", *lines[-LOG_LINES_SHOWN:], sep="\n", file=sys.stderr)

    # --- workers ---

    def start(
        self,
        name: str = "w1",
        *,
        slots: int = 2,
        module: str = fleet_app.MODULE,
        environ: Mapping[str, str] | None = None,
        arguments: Sequence[str] = ("--without-mingle", "--without-gossip"),
        prefix: Sequence[str] = (),
        wait: bool = True,
        as_name: str | None = None,
    ) -> Worker:
        """Start worker `name` (or again, after it ended); `wait`: return once Celery says that it is ready.

        `prefix` stands before the command, and must become it (as `nsenter` does). `as_name`: what it calls itself,
        where that is another's name.
        """
        nodename = f"{as_name or name}@{self.host}"
        command = [*prefix, self.python, "-m", "celery", "-A", module, "worker"]
        command += ["-P", self.pool, "-c", str(slots), "-n", nodename, "-Q", self.queue, "-l", "INFO", *arguments]
        full = {**_inherited(), **self._settings, **self._ours, **self._extra, **(environ or {})}
        log = self.directory / f"{name}.log"
        worker = Worker(nodename, command, full, log, slots, self._spawn(command, log, full))
        self.workers[name] = worker
        self._slots[nodename] = slots
        if wait:
            self.wait_ready(name)
        return worker

    def restart(self, name: str = "w1", *, wait: bool = True) -> Worker:
        """Start a worker that has ended as it was started before: a new incarnation of the same name."""
        worker = self.workers[name]
        worker.process = self._spawn(worker.command, worker.log, worker.environ)
        if wait:
            self.wait_ready(name)
        return worker

    def wait_ready(self, *names: str) -> None:
        """Return once Celery says of each worker's present life that it is ready."""
        for name in names or self.workers:
            worker = self.workers[name]

            def is_ready(worker: Worker = worker) -> bool:
                if not worker.is_running:
                    raise AssertionError(f"{worker.nodename} ended: {worker.process.output[-2000:]}")
                return f"{worker.nodename} ready." in worker.process.output

            until(f"{worker.nodename} is ready", is_ready, within_s=READY_WITHIN_S, every_s=0.05)

    def _spawn(self, command: Sequence[str], log: Path, environ: Mapping[str, str]) -> ServerProcess:
        # Tied to this process: a test run that is killed takes its workers along.
        return ServerProcess(command, log, signal.SIGKILL, environ=environ)

    def ping(self, name: str = "w1") -> bool:
        """Does the worker answer Celery's own ping? Over a new connection: a pooled one may have been cut."""
        with self.sender.connection_for_write() as connection:
            return bool(self.sender.control.ping([self.workers[name].nodename], timeout=0.5, connection=connection))

    def run(self, command: Sequence[str], *, within_s: float = 90.0) -> subprocess.CompletedProcess[str]:
        """Run a command with the workers' environment, and return when it has ended."""
        started = self.popen(command)
        try:
            out, err = started.communicate(timeout=within_s)
        finally:
            started.kill()
        return subprocess.CompletedProcess(command, started.returncode, out, err)

    def popen(self, command: Sequence[str]) -> subprocess.Popen[str]:
        """Start a command with the workers' environment; the caller sees to its end."""
        environ = {**_inherited(), **self._settings, **self._ours, **self._extra}
        pipe = subprocess.PIPE
        return subprocess.Popen(command, env=environ, stdout=pipe, stderr=pipe, text=True, cwd=self.directory)

    # --- work ---

    def send(
        self,
        task: str,
        *args: object,
        countdown_s: float | None = None,
        waits: bool = False,
        queue: str | None = None,
    ) -> int:
        """Send one task, its number first among its arguments; the number."""
        seq = next(self._next_seq)
        where: dict[str, Any] = {} if queue is None else {"queue": queue}
        with self.sender.producer_pool.acquire(block=True) as producer:
            sent = self.sender.send_task(
                f"fleet.{task}", args=(seq, *args), countdown=countdown_s, producer=producer, **where
            )
        self.ids[seq] = str(sent.id)
        is_waiting = waits or countdown_s is not None
        self.sent.append(Sent(seq=seq, at_us=microseconds(time.time()), waits=is_waiting))
        return seq

    def note_sent(self, send: Callable[[int], object]) -> int:
        """Have `send` send what is no task of the app's, with the number that it is given; the number."""
        seq = next(self._next_seq)
        send(seq)
        self.sent.append(Sent(seq=seq, at_us=microseconds(time.time()), waits=True))
        return seq

    def send_naps(self, count: int, seconds: float | Callable[[], float]) -> list[int]:
        """Send `count` naps of `seconds` each (or as long as `seconds()` says); their numbers."""
        numbers = list(itertools.islice(self._next_seq, count))
        with self.sender.producer_pool.acquire(block=True) as producer:
            for seq in numbers:
                length = seconds() if callable(seconds) else seconds
                self.sender.send_task("fleet.nap", args=(seq, length), producer=producer)
                self.sent.append(Sent(seq=seq, at_us=microseconds(time.time())))
        return numbers

    def fed(self, seconds: float, *, low: int = 80) -> Feeder:
        """Naps of `seconds`, never fewer than `low` of them waiting while the block lasts: no pause comes too late."""

        def send(count: int) -> None:
            self.send_naps(count, seconds)

        return Feeder(self, low=low, send=send)

    def turn_page(self) -> None:
        """Forget all evidence so far, with nothing left to run: a long run is judged chapter by chapter."""
        self.sent.clear()
        self.calls.clear()
        self.drained.clear()
        self.records.forget()
        self.watch().forget()

    def depth(self) -> int:
        """How many messages wait in the queue."""
        if self.rabbit_queue is not None:
            return self.rabbit_queue.counts()[0]
        return broker.depth(self.redis, self.queue)

    def contents(self) -> Contents:
        """What lies in the broker."""
        if self.rabbit_queue is not None:
            return self._contents_of(self.rabbit_queue)
        return broker.read(self.redis, self.queue)

    def _contents_of(self, queue: RabbitQueue) -> Contents:
        """RabbitMQ says how many messages are unacknowledged; which, is found by elimination.

        They are of those that were sent, do not lie in the queue and are not done: where one of these was lost, too
        few are left, and the checker is told of a message that it never heard of. What a paused worker keeps in hand
        of a quorum queue, and does not run, comes first when the gate opens or the worker dies: it is shown at the
        head of the queue.
        """
        messages, unacked = queue.read()
        running = self.running()
        gone = {message.seq for message in messages} | self.ended()
        if not self._acks_late:
            gone |= running
        missing = [sent.seq for sent in list(self.sent) if sent.seq not in gone]
        found = sorted(missing, key=lambda seq: (seq not in running, seq))[:unacked]
        found += [-1 - number for number in range(unacked - len(found))]
        held = [seq for seq in found if seq >= 0 and seq not in running] if queue.kind == "quorum" else []
        return Contents(
            queued=(*(Message("", seq) for seq in held), *(Message("", message.seq) for message in messages)),
            unacked=tuple(Message("", seq) for seq in found if seq not in held),
        )

    def count_unacked(self) -> int:
        """How many messages were delivered and are not acknowledged."""
        if self.rabbit_queue is not None:
            return self.rabbit_queue.counts()[1]
        return len(self.contents().unacked)

    def started(self) -> set[int]:
        """The numbers of the tasks that have started."""
        return {record.seq for record in self.read_records() if record.event == "start"}

    def ended(self) -> set[int]:
        """The numbers of the tasks that are done."""
        return {record.seq for record in self.read_records() if record.event == "end"}

    def running(self) -> set[int]:
        """The numbers of the tasks that have started and neither ended nor died with their process."""
        begun = {}
        for record in self.read_records():
            if record.event == "start":
                begun[record.seq, record.pid] = record.pid
            else:
                begun.pop((record.seq, record.pid), None)
        return {seq for (seq, pid) in begun if psutil.pid_exists(pid)}

    def read_records(self) -> list[Record]:
        """Everything that tasks have written so far."""
        return self.records.read()

    def items(self) -> list[ItemDone]:
        """Every item that tasks of many items have done, in the order in which they were."""
        return read_items(self.records.path)

    def cursors(self) -> list[ItemDone]:
        """Every cursor that tasks of `tests.fleet.long_tasks` have stored safely."""
        return read_cursors(self.records.path)

    def wait_started(self, count: int, *, within_s: float = WITHIN_S) -> None:
        """Return once `count` tasks have started."""
        until(f"{count} tasks have started", lambda: len(self.started()) >= count, within_s=within_s)

    def wait_more_started(self, count: int, *, within_s: float = WITHIN_S) -> None:
        """Return once `count` more tasks have started than have by now."""
        self.wait_started(len(self.started()) + count, within_s=within_s)

    def count_starts(self) -> int:
        """How often a task has started, retries included."""
        return sum(record.event == "start" for record in self.read_records())

    def wait_more_starts_after(self, act: Callable[[], object], *, within_s: float = WITHIN_S) -> None:
        """Do `act`, and return once something has started since."""
        before = self.count_starts()
        act()
        until("something starts", lambda: self.count_starts() > before, within_s=within_s)

    def stays_still(self, *, for_s: float) -> None:
        """Return once nothing has started for `for_s` seconds; raises NotInTime if something does."""
        before = self.count_starts()
        stays("nothing starts", lambda: self.count_starts() == before, for_s=for_s)

    def wait_done(self, *, within_s: float = 60.0) -> None:
        """Return once every task that was sent is done, and the broker knows it."""
        until(
            "every task is done",
            lambda: {sent.seq for sent in self.sent} <= self.ended() and not self.count_unacked(),
            within_s=within_s,
            every_s=0.02,
        )

    # --- orders ---

    @property
    def client(self) -> Client:
        """The control plane, as the owner."""
        return self._client

    def pause(self, reason: str = "test", *, mode: str = "drain") -> Call:
        """Order a pause; its call, with the time taken just before it."""
        at_us = microseconds(time.time())
        return self._noted(at_us, self._client.pause(mode=mode, reason=reason).body)

    def resume(self, reason: str = "test", *, force: bool = True) -> Call:
        """Order the resume."""
        at_us = microseconds(time.time())
        return self._noted(at_us, self._client.resume(reason=reason, force=force).body)

    def _noted(self, at_us: int, answer: ChangeAnswer) -> Call:
        system = answer.system
        call = Call(at_us=at_us, edition=(system.epoch, system.version), is_paused=system.workers_paused)
        self.calls.append(call)
        return call

    def watch(self) -> Watch:
        """The thread that collects acknowledgements; it starts when first asked for."""
        if self._watch is None:
            environ = self.stack.environ
            nodenames = [f"{name}@{self.host}" for name in ("w1", "w2", "w3", "w4")]
            look = by_redis(environ[settings.REDIS_URL.name], environ[settings.NAMESPACE.name], nodenames)
            self._watch = Watch(look).__enter__()
        return self._watch

    def _word_of(self, nodename: str) -> Word | None:
        return self.watch().words().get(nodename)

    def words(self, *names: str) -> list[Word]:
        """The last word of each named worker (all: no names) that has said something."""
        seen = self.watch().words()
        nodenames = [self.workers[name].nodename for name in names or self.workers]
        return [seen[nodename] for nodename in nodenames if nodename in seen]

    def wait_open(self, *names: str, within_s: float = WITHIN_S) -> None:
        """Return once every worker says that it runs, by the newest order."""
        self.wait_state("running", *names, within_s=within_s)

    def wait_acknowledged(self, *names: str, within_s: float = WITHIN_S) -> None:
        """Return once every worker says that nothing more can start there, by the newest order."""
        self.wait_state("paused", *names, within_s=within_s)

    def wait_state(self, state: str, *names: str, within_s: float = WITHIN_S) -> None:
        """Return once every named worker (all: no names) says `state`, with the newest order applied."""
        wanted = list(names or self.workers)
        newest = self.calls[-1].edition if self.calls else (1, 1)

        def has_come() -> bool:
            words = self.words(*wanted)
            fine = [word for word in words if word.state == state and word.edition >= newest]
            return len(fine) == len(wanted)

        try:
            until(f"{', '.join(wanted)} {state} with {newest}", has_come, within_s=within_s, every_s=0.002)
        except AssertionError as error:
            raise AssertionError(f"{error}; they say: {self.words(*wanted)}") from None

    def wait_drained(self, *, within_s: float = WITHIN_S, back_within_s: float = 5.0) -> Drained:
        """Return once every worker has acknowledged and runs nothing; what the broker held then.

        `back_within_s`: how long a message that is under way then may take until it shows.
        """
        self.wait_acknowledged(within_s=within_s)
        until("nothing runs", lambda: not self.running(), within_s=within_s, every_s=0.002)
        # A task acknowledged late leaves the broker a moment after it is counted as done, and a message that
        # was under way when a worker stopped consuming comes back a moment after: both are given time to show.
        deadline = time.monotonic() + back_within_s
        while not self._is_accounted(drained := self._look()) and time.monotonic() < deadline:
            time.sleep(0.005)
        self.drained.append(drained)
        return drained

    def _look(self) -> Drained:
        # The time is taken first: what was sent before it must be there, what is sent after it may be.
        at_us = microseconds(time.time())
        return Drained(at_us=at_us, contents=self.contents())

    def _is_accounted(self, drained: Drained) -> bool:
        queued = {message.seq for message in drained.contents.queued}
        sent = {sent.seq for sent in list(self.sent) if sent.at_us <= drained.at_us}
        return not drained.contents.unacked and sent <= queued | self.ended()

    # --- judgement ---

    def evidence(self) -> Evidence:
        """All that is known so far, for the checker; every living worker has had time to speak of the last order."""
        if self.plugin and self.calls:
            newest = self.calls[-1].edition
            alive = [worker.nodename for worker in self.workers.values() if worker.is_running]
            # Its word follows what it does: it remembers the order on disk before it reports it.
            with suppress(NotInTime):
                until(
                    "every worker has spoken",
                    lambda: all((word := self._word_of(name)) and word.edition >= newest for name in alive),
                    within_s=15,
                )
        return Evidence(
            sent=list(self.sent),
            records=list(self.read_records()),
            final=self.contents(),
            slots=dict(self._slots),
            prefetch=self.prefetch,
            calls=list(self.calls),
            sightings=self.watch().sightings() if self.plugin else (),
            drained=list(self.drained),
        )

    def check(self) -> Verdict:
        """The checker's verdict on everything so far."""
        return check(self.evidence())


_WORKER_SETTINGS = [
    settings.REDIS_URL.name,
    settings.BROKER_URL.name,
    settings.PUBLIC_KEYS.name,
    settings.CURSOR_KEYS.name,
    settings.NAMESPACE.name,
    settings.URL.name,
    settings.TOKEN.name,
]


def _inherited() -> dict[str, str]:
    """Our environment for a child that works elsewhere: our modules can be found, nobody's settings leak in."""
    ours = {n: v for n, v in os.environ.items() if not n.startswith(("SLUICEGATE_", "FLEET_", "CELERY_"))}
    path = [str(ROOT), *(os.path.abspath(entry) for entry in ours.get("PYTHONPATH", "").split(os.pathsep) if entry)]
    return {**ours, "PYTHONPATH": os.pathsep.join(dict.fromkeys(path)), "PYTHONUNBUFFERED": "1"}


def _group(leader: int) -> list[psutil.Process]:
    """The living processes of the group that `leader` leads; one that nobody has buried yet is not living."""
    found = []
    for process in psutil.process_iter():
        try:
            if os.getpgid(process.pid) == leader and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (ProcessLookupError, psutil.NoSuchProcess):
            continue
    return found


def _kill_group(leader: int) -> None:
    # All may be gone already.
    with suppress(ProcessLookupError):
        os.killpg(leader, signal.SIGKILL)
