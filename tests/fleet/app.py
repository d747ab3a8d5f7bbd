"""The Celery app of the fleet under test, set up by its environment, and the tasks that it runs.

Each task takes the time as its very first statement and writes it down itself: what the checker reads does
not depend on Celery's bookkeeping, on the gate's, nor on anybody's clock but the one of the host.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import signal
import time
import zlib
from pathlib import Path
from typing import Any

from celery import Celery, Task, signals
from kombu import Exchange, Queue
from kombu.common import Broadcast

from sluicegate import report_cost, resumable
from sluicegate.workers.checkpoints import Yielded
from tests.fleet.records import Event, ItemDone, Record, Writer, items_path, microseconds
from tests.fleet.waiting import until

BROKER = "FLEET_BROKER_URL"
QUEUE = "FLEET_QUEUE"
RECORDS = "FLEET_RECORDS"
PLUGIN = "FLEET_PLUGIN"
ACKS_LATE = "FLEET_ACKS_LATE"
PREFETCH = "FLEET_PREFETCH"
VISIBILITY_S = "FLEET_VISIBILITY_TIMEOUT_S"
SLOW_START_MS = "FLEET_SLOW_START_MS"
PRIORITIES = "FLEET_PRIORITIES"
QUEUE_TYPE = "FLEET_QUEUE_TYPE"
DELIVERY_LIMIT = "FLEET_DELIVERY_LIMIT"
MAX_PRIORITY = "FLEET_MAX_PRIORITY"
RESULTS = "FLEET_RESULT_BACKEND"
SOFT_SHUTDOWN_S = "FLEET_SOFT_SHUTDOWN_S"
MUTEX_S = "FLEET_MUTEX_S"
"""How long kombu's mutex over redelivery outlives a worker that is killed while it has it (kombu's default: 300 s)."""
ORPHANS = "FLEET_ORPHANS"
"""Set to 1, children outlive a worker that is killed, as they do in production; the test must see to them."""
MASTER_NAME = "FLEET_MASTER_NAME"
NO_ACK = "FLEET_NO_ACK"
"""Set to 1, the broker forgets each message as it gives it out."""
BROADCAST = "FLEET_BROADCAST"
"""The name of a broadcast that the workers may consume (`-Q`) beside their queue."""

MODULE = __name__
PR_SET_PDEATHSIG = 1


def make(environ: dict[str, str]) -> Celery:
    """The app as `environ` describes it; a sender needs the same broker and queue, and no plugin."""
    broker = environ.get(BROKER, "redis://127.0.0.1:6379/0")
    fleet = Celery("fleet", broker=broker, backend=environ.get(RESULTS), set_as_current=False)
    fleet.conf.update(
        task_acks_late=environ.get(ACKS_LATE) == "1",
        task_default_queue=environ.get(QUEUE, "celery"),
        task_ignore_result=True,
        worker_soft_shutdown_timeout=float(environ.get(SOFT_SHUTDOWN_S, "0")),
        worker_prefetch_multiplier=int(environ.get(PREFETCH, "4")),
        worker_hijack_root_logger=True,
        broker_connection_retry_on_startup=True,
        broker_transport_options={
            "visibility_timeout": int(environ.get(VISIBILITY_S, "3600")),
            # By kombu's defaults what a killed worker had is looked for every 100 s, whatever the timeout says.
            "unacked_restore_interval": 1,
            "unacked_restore_throttle": 1,
            "unacked_mutex_expire": int(environ.get(MUTEX_S, "300")),
            **({"priority_steps": [0, 3, 6, 9]} if environ.get(PRIORITIES) == "1" else {}),
            **({"master_name": environ[MASTER_NAME]} if MASTER_NAME in environ else {}),
        },
    )
    if broker.startswith("amqp"):
        # What a sender was not told to be there is not sent: the checker counts on it.
        fleet.conf.broker_transport_options = {"confirm_publish": True}
        fleet.conf.task_queues = [_rabbit_queue(environ)]
    elif environ.get(NO_ACK) == "1" or environ.get(BROADCAST):
        fleet.conf.task_queues = [_redis_queue(environ)]
    if name := environ.get(BROADCAST):
        fleet.conf.task_queues.append(Broadcast(name))
    return fleet


def _redis_queue(environ: dict[str, str]) -> Queue:
    name = environ.get(QUEUE, "celery")
    return Queue(name, Exchange(name), routing_key=name, no_ack=environ.get(NO_ACK) == "1")


def _rabbit_queue(environ: dict[str, str]) -> Queue:
    """A topic exchange: Celery's delayed delivery on quorum queues leaves direct exchanges out."""
    name = environ.get(QUEUE, "celery")
    arguments: dict[str, Any] = {"x-queue-type": environ.get(QUEUE_TYPE, "classic")}
    if limit := environ.get(DELIVERY_LIMIT):
        arguments["x-delivery-limit"] = int(limit)
    if most := environ.get(MAX_PRIORITY):
        arguments["x-max-priority"] = int(most)
    exchange = Exchange(name, type="topic")
    no_ack = environ.get(NO_ACK) == "1"
    return Queue(name, exchange, routing_key=name, queue_arguments=arguments, no_ack=no_ack)


app = make(dict(os.environ))
_writer = Writer(Path(os.environ.get(RECORDS, os.devnull)))
_items = Writer(Path(items_path(os.environ.get(RECORDS, os.devnull))))


@signals.worker_process_init.connect(weak=False)
def die_with_the_worker(**_: Any) -> None:
    """A pool child whose worker was killed must not outlive the test that killed it."""
    if os.environ.get(ORPHANS) != "1":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


@signals.task_prerun.connect(weak=False)
def dawdle(**_: Any) -> None:
    """What some apps do before each task, such as opening a connection: a child that has its task starts late."""
    if delay_ms := int(os.environ.get(SLOW_START_MS, "0")):
        time.sleep(delay_ms / 1000)


def _record(task: Task[Any, Any], event: Event, at: float, seq: int, note: str = "") -> None:
    _writer.write(
        Record(
            event=event,
            at_us=microseconds(at),
            # As it can stand in a line: some tests send ids that are no text at all.
            task_id=str(task.request.id).encode("unicode_escape").decode(),
            seq=seq,
            pid=os.getpid(),
            nodename=str(task.request.hostname),
            note=note,
        )
    )


@app.task(bind=True, name="fleet.nap")
def nap(self: Task[Any, Any], seq: int, seconds: float) -> None:
    """Take `seconds`."""
    started = time.time()
    _record(self, Event.START, started, seq)
    time.sleep(seconds)
    _record(self, Event.END, time.time(), seq)


@app.task(bind=True, name="fleet.spend")
def spend(self: Task[Any, Any], seq: int, amount: str) -> None:
    """Cost `amount`, told twice under one key."""
    _record(self, Event.START, time.time(), seq)
    for _ in range(2):
        report_cost(amount, key=f"{self.request.id}")
    _record(self, Event.END, time.time(), seq)


@app.task(bind=True, name="fleet.told")
def told(self: Task[Any, Any], seq: int, path: str) -> None:
    """Take until the test makes a file at `path`."""
    started = time.time()
    _record(self, Event.START, started, seq)
    until("the test has told it to end", Path(path).exists, within_s=120.0)
    _record(self, Event.END, time.time(), seq)


@app.task(bind=True, name="fleet.limited", rate_limit="10/s")
def limited(self: Task[Any, Any], seq: int) -> None:
    """Do nothing, but at most ten times a second on one worker."""
    started = time.time()
    _record(self, Event.START, started, seq)
    _record(self, Event.END, time.time(), seq)


@app.task(bind=True, name="fleet.stubborn", max_retries=None)
def stubborn(self: Task[Any, Any], seq: int, retries: int, countdown_s: float) -> None:
    """Ask for `retries` more runs, each after `countdown_s`, then be done."""
    started = time.time()
    _record(self, Event.START, started, seq)
    if self.request.retries < retries:
        _record(self, Event.RETRY, time.time(), seq)
        raise self.retry(countdown=countdown_s)
    _record(self, Event.END, time.time(), seq, note=str(self.request.retries))


@app.task(bind=True, name="fleet.digest")
def digest(self: Task[Any, Any], seq: int, path: str) -> None:
    """Compress a file and write down the SHA-256 of what comes out."""
    started = time.time()
    _record(self, Event.START, started, seq)
    _record(self, Event.END, time.time(), seq, note=digest_of(path))


@app.task(bind=True, name="fleet.gather", ignore_result=False)
def gather(self: Task[Any, Any], found: list[Any], seq: int, seconds: float) -> list[int]:
    """What came before, made flat, and `seq` at its end: a canvas shows by its result what ran, and in which order."""
    started = time.time()
    _record(self, Event.START, started, seq)
    time.sleep(seconds)
    before = [number for part in found for number in (part if isinstance(part, list) else [part])]
    _record(self, Event.END, time.time(), seq)
    return [*before, seq]


@app.task(bind=True, name="fleet.ending", max_retries=None, reject_on_worker_lost=True)
def ending(self: Task[Any, Any], seq: int, go: str, how: str) -> None:
    """Runs until the file `go` is there, and then ends as `how` says: `finish`, `fail`, `retry` or `kill`."""
    started = time.time()
    _record(self, Event.START, started, seq)
    while not os.path.exists(go):
        time.sleep(0.02)
    match how:
        case "fail":
            raise ValueError("as it was told")
        case "retry":
            raise self.retry(countdown=3600)
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
    _record(self, Event.END, time.time(), seq)


@app.task(bind=True, name="fleet.overrun_hard", time_limit=8)
def overrun_hard(self: Task[Any, Any], seq: int) -> None:
    """Takes longer than it may; its child is killed for that."""
    _record(self, Event.START, time.time(), seq)
    time.sleep(600)


@app.task(bind=True, name="fleet.overrun_soft", soft_time_limit=8)
def overrun_soft(self: Task[Any, Any], seq: int) -> None:
    """Takes longer than it should, and lets the exception that says so pass."""
    _record(self, Event.START, time.time(), seq)
    time.sleep(600)


class Stepping(Task):  # type: ignore[type-arg]
    """Goes through `count` items of `seconds` each, writing down every one that it has done."""

    def run(self, seq: int, count: int, seconds: float) -> None:
        started = time.time()
        _record(self, Event.START, started, seq)
        try:
            for item in resumable(range(count)):
                time.sleep(seconds)
                _items.write(ItemDone(seq=seq, item=item, at_us=microseconds(time.time()), pid=os.getpid()))
        except Yielded:
            _record(self, Event.YIELD, time.time(), seq)
            raise
        _record(self, Event.END, time.time(), seq)


class StepsWait(Stepping):
    """Waits in place when it is quiesced."""

    name = "fleet.steps_wait"
    on_quiesce = "wait"


class StepsYield(Stepping):
    """Gives its slot back when it is quiesced."""

    name = "fleet.steps_yield"
    on_quiesce = "yield"


app.register_task(StepsWait())
app.register_task(StepsYield())


@app.task(name="fleet.noop")
def noop() -> None:
    """Nothing at all: what is left is Celery's own cost."""


def digest_of(path: str) -> str:
    """The SHA-256, in hex, of the file at `path` as zlib compresses it at its highest level."""
    return hashlib.sha256(zlib.compress(Path(path).read_bytes(), 9)).hexdigest()


if os.environ.get(PLUGIN) == "1":
    import sluicegate

    sluicegate.install(app)
