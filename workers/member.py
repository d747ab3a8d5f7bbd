"""One worker process as a member of the fleet: everything is put together here, and only here."""

from __future__ import annotations

import atexit
import os
import time
import tomllib
from collections.abc import Mapping
from typing import Any

from celery import signals

from sluicegate.schemas import settings
from sluicegate.schemas.adapters.redis_client import connect, refuse_cluster, refuse_unusable
from sluicegate.schemas.adapters.trusted_keys import TrustedKeys
from sluicegate.schemas.beats import WorkerState
from sluicegate.schemas.errors import InvalidSetting
from sluicegate.schemas.health.config import thresholds_of
from sluicegate.schemas.health.judge import Place as HealthPlace
from sluicegate.schemas.health.local_holds import is_own
from sluicegate.schemas.health.readings import Readings
from sluicegate.schemas.health.thresholds import Thresholds
from sluicegate.schemas.names import host_of
from sluicegate.schemas.public_keys import parse_public_keys
from sluicegate.schemas.redis_urls import Place, place_of
from sluicegate.schemas.scopes import Subject
from sluicegate.workers import log as log_fields
from sluicegate.workers.celery_inside.children import note_starts_in_children
from sluicegate.workers.celery_inside.choose import refuse_other_redis, sides_of
from sluicegate.workers.celery_inside.ends import tell_ends
from sluicegate.workers.celery_inside.requests import current_task, origin_told, queue_told, subject_of
from sluicegate.workers.celery_inside.self_check import judge, read, refuse_strategies, say
from sluicegate.workers.celery_inside.yields import has_declared, prepare_tasks
from sluicegate.workers.cell import Cell
from sluicegate.workers.checkpoints import open_station
from sluicegate.workers.costs import open_purse
from sluicegate.workers.cursors import Cursors
from sluicegate.workers.follower import Follower, Pace
from sluicegate.workers.gate import Gate
from sluicegate.workers.hands import Hands
from sluicegate.workers.health import Health
from sluicegate.workers.heart import Heart
from sluicegate.workers.idling import Idling, Watch
from sluicegate.workers.memory import Memory
from sluicegate.workers.own_holds import OwnHolds
from sluicegate.workers.own_holds_file import OwnHoldsFile
from sluicegate.workers.own_keys import OwnKeys
from sluicegate.workers.own_starts import ask_here
from sluicegate.workers.ports import Sides
from sluicegate.workers.probes.probe import Probe, ProbeSettings
from sluicegate.workers.probes.told import Told
from sluicegate.workers.purse import Purse
from sluicegate.workers.report import Identity, Report
from sluicegate.workers.scoped_table import Table
from sluicegate.workers.station import Station

log = log_fields.logger(__name__)


class Member:
    """One worker process as a member of the fleet: its gate, and the threads that keep it current."""

    def __init__(self, worker: Any, environ: Mapping[str, str]) -> None:
        """Raises InvalidSetting: what is missing, out of range, or not supported; of settings all that are wrong."""
        _refuse_wrong(environ)
        namespace = settings.NAMESPACE.read(environ)
        state = _state_place(environ)
        keys = TrustedKeys(parse_public_keys(settings.PUBLIC_KEYS.read(environ)))
        state_dir = settings.STATE_DIR.read(environ)
        own_keys = OwnKeys(state_dir, namespace, worker.hostname)
        pace, identity = _pace_of(environ), _identity_of(worker, environ, own_keys.incarnation)
        memory = Memory(state_dir, namespace, worker.hostname)
        cell = Cell()
        sides = sides_of(worker, cell, in_hand_s=settings.IN_HAND_S.read(environ))
        say(judge(read(worker)))
        refuse_other_redis(worker)
        log_fields.describe(namespace=namespace, worker=worker.hostname, version=lambda: cell.edition)
        self.worker = worker
        self._pid = os.getpid()
        self._words: object = None
        self._cell = cell
        self._pool = sides.pool
        table = Table(cell)
        self.gate = self._make_gate(identity, cell, sides, table)
        self.own_holds = OwnHolds(
            self.gate,
            OwnHoldsFile(state_dir, namespace, worker.hostname),
            on_change=lambda: self.heart.beat_now(),
        )
        self.hands = Hands(self.gate, sides)
        ask_here(self.hands.own_starts)
        self._serve_tasks(_cursors_of(namespace, state, environ), cell, table)
        open_purse(_purse_of(namespace, state, identity))
        self.follower = Follower(
            namespace=namespace,
            keys=keys,
            pace=pace,
            connect=lambda: connect(state),
            fence=memory.load(),
            on_state=self.own_holds.see,
            on_stale=self.gate.hold_locally,
        )
        told = ProbeSettings.read(environ)
        self.probe = Probe(on_readings=self._take_readings, told=told, environ={**os.environ, **environ})
        self.report = self._make_report(identity, sides, Told(lambda: self.probe.latest, told.interval_s))
        self._look_after_itself(identity, sides, environ)
        self.heart = self._make_heart(namespace, state, memory, own_keys, environ)
        self._listen()

    def _make_heart(
        self, namespace: str, state: Place, memory: Memory, own_keys: OwnKeys, environ: Mapping[str, str]
    ) -> Heart:
        return Heart(
            namespace=namespace,
            nodename=self.worker.hostname,
            interval_s=settings.HEARTBEAT_INTERVAL_MS.read(environ) / 1000,
            connect=lambda: connect(state),
            compose=self.report.beat,
            memory=memory,
            spell=own_keys.spell,
            pulse=self.report.pulse,
        )

    def _make_gate(self, identity: Identity, cell: Cell, sides: Sides, table: Table) -> Gate[Any]:
        subject = Subject(host=identity.host, worker=identity.nodename, labels=dict(identity.labels))
        return Gate(
            cell,
            subject,
            wake=sides.loop.wake,
            on_applied=lambda: self.heart.beat_now(),
            subject_of=lambda request: subject_of(request, subject),
            on_scoped=table.write,
            is_own=lambda hold: is_own(hold, subject),
        )

    def _make_report(self, identity: Identity, sides: Sides, told: Told) -> Report:
        return Report(
            identity,
            gate=self.gate,
            follower=self.follower,
            hands=self.hands,
            sides=sides,
            resources=told.resources,
            own_holds=self.own_holds.told,
        )

    def _look_after_itself(self, identity: Identity, sides: Sides, environ: Mapping[str, str]) -> None:
        """What it reads of its host and GPUs, and what it does about that and while it is idle."""
        self.idling = self._make_idling(sides, settings.IDLE_RECYCLE_S.read(environ))
        self.health = self._make_health(identity, environ)
        self._watch = Watch(*[part.look for part in (self.health, self.idling) if part is not None])

    def _make_idling(self, sides: Sides, recycle_after_s: int) -> Idling:
        idling = Idling(
            sides.pool,
            is_drained=lambda: self.gate.state is WorkerState.PAUSED and not self.report.running(),
            is_busy=lambda: bool(self.report.running()),
            count_begun=sides.books.count_begun,
            wake=self.hands.wake,
            recycle_after_s=recycle_after_s,
        )
        self.hands.tend_too(idling.tend)
        return idling

    def _make_health(self, identity: Identity, environ: Mapping[str, str]) -> Health | None:
        """None where nothing is read, or no rule may do anything: then nothing of an earlier life's stands either."""
        if settings.PROBE.read(environ) == "off" or settings.HEALTH.read(environ) == "off":
            return None
        self.own_holds.inherit()
        return Health(
            thresholds=_thresholds_of(environ),
            place=HealthPlace(identity.nodename, identity.host),
            own_holds=self.own_holds,
            probe=self.probe,
            idling=self.idling,
            hold_boot=lambda reason: self.gate.hold_locally(reason, source="probe"),
            has_opened=lambda: self.gate.has_opened,
        )

    def _take_readings(self, readings: Readings) -> None:
        """On the probe's reader thread. A fault, and what changes the driver's or a device's word, is told at once."""
        if self.health is not None:
            self.health.take(readings)
        words = (readings.driver, tuple((gpu.uuid, gpu.state, gpu.xids) for gpu in readings.gpus))
        if words != self._words:
            self._words = words
            self.heart.beat_now()

    def _serve_tasks(self, cursors: Cursors, cell: Cell, table: Table) -> None:
        """Offer the tasks of this process, and of its pool children, their checkpoints."""
        station = Station(
            cell,
            table,
            cursors,
            current_task=current_task,
            note_waiting=self._pool.note_waiting,
            rest=self._rest,
            queue_of=queue_told,
            origin_of=origin_told,
        )
        tell_ends(self.worker.app, self.hands.run_ends)
        prepare_tasks(self.worker.app, station, self.hands.hand_back.take_yielded)
        open_station(station, cell.flags)
        if not cursors.is_sealing and has_declared(self.worker.app):
            log.warning(
                "sluicegate: %s is not set: whoever can write to the Redis of the state can say where tasks go on",
                settings.CURSOR_KEYS.name,
            )

    def _listen(self) -> None:
        """For what Celery and Python say of the life of this process and of its children."""
        note_starts = note_starts_in_children(self.worker.app, self.worker.hostname, self._cell)
        signals.worker_process_init.connect(note_starts, weak=False)
        signals.worker_shutting_down.connect(self._on_shutting_down, weak=False)
        signals.worker_shutdown.connect(self._on_shutdown, weak=False)
        # A cold shutdown sends no such signal. Pool children leave by `os._exit` and never come here.
        atexit.register(self._on_exit)

    def look_at_tasks(self) -> None:
        """Before Celery builds their strategies; raises InvalidSetting for one that no pause could hold."""
        refuse_strategies(self.worker.app)
        self._pool.take_in_tasks()

    def start(self) -> None:
        """Start following and beating; the pool has forked by now."""
        self._pool.watch()
        self.follower.start()
        self.heart.start()
        self.probe.start()
        self._watch.start()

    def _rest(self, seconds: float) -> None:
        """What a waiting task does: on the solo pool it stands on the consumer's thread, and does that one's work.

        Raises SystemExit in a pool child whose worker was killed: nobody changes its cell any more, so that it would
        wait for ever, and its message, where it was not acknowledged, goes to another worker.
        """
        if self._pool.name == "solo":
            self.hands.tend()
        if os.getpid() != self._pid and os.getppid() != self._pid:
            log.error("sluicegate: the worker of this pool child is gone: its waiting task ends here")
            raise SystemExit(1)
        time.sleep(seconds)

    def _on_shutting_down(self, **_: Any) -> None:
        """In Celery's signal handler: its sender is a name, and nothing here may take a lock."""
        self._cell.leave()

    def _on_shutdown(self, sender: Any = None, **_: Any) -> None:
        """Celery sends this after the pool has stopped, so the goodbye is true: nothing runs here any more."""
        if sender is self.worker:
            self._say_goodbye()

    def _on_exit(self) -> None:
        """A process that leaves work behind has no right to say that nothing runs here."""
        if not self._pool.is_busy():
            self._say_goodbye()

    def _say_goodbye(self) -> None:
        atexit.unregister(self._on_exit)
        self._watch.stop()
        self.follower.stop()
        self.heart.say_goodbye()
        # Last: a child that hangs in a driver is waited for.
        self.probe.stop()


def _pace_of(environ: Mapping[str, str]) -> Pace:
    return Pace(
        poll_s=settings.POLL_INTERVAL_MS.read(environ) / 1000,
        republish_s=settings.REPUBLISH_INTERVAL_MS.read(environ) / 1000,
        stale_after_s=settings.STALE_AFTER_S.read(environ),
        is_stale_closed=settings.STALE_POLICY.read(environ) == "closed",
        needs_fresh_boot=settings.BOOT_POLICY.read(environ) != "signed",
        asks=settings.BOOT_POLICY.read(environ) == "fresh",
    )


def _identity_of(worker: Any, environ: Mapping[str, str], incarnation: str) -> Identity:
    return Identity(
        nodename=worker.hostname,
        incarnation=incarnation,
        host=settings.HOST.read_or_none(environ) or host_of(worker.hostname),
        labels=settings.LABELS.read(environ),
    )


def _cursors_of(namespace: str, state: Place, environ: Mapping[str, str]) -> Cursors:
    return Cursors(
        namespace,
        lambda: connect(state),
        most_bytes=settings.CURSOR_MAX_BYTES.read(environ),
        kept_s=settings.CURSOR_KEPT_S.read(environ),
        keys=settings.CURSOR_KEYS.read_or_none(environ),
    )


def _thresholds_of(environ: Mapping[str, str]) -> Thresholds:
    """What the rules are set to; raises InvalidSetting, also for a file that cannot be read."""
    file = settings.HEALTH_FILE.read_or_none(environ)
    if file is None:
        return thresholds_of(environ)
    try:
        with file.open("rb") as opened:
            tables = tomllib.load(opened)
    except (OSError, ValueError) as error:
        raise InvalidSetting(settings.HEALTH_FILE.name, f"{file} cannot be read ({error})") from None
    return thresholds_of(environ, tables)


def _purse_of(namespace: str, state: Place, identity: Identity) -> Purse:
    about = {"host": identity.host, "worker": identity.nodename, "labels": dict(identity.labels)}
    return Purse(namespace, lambda: connect(state), about=about, queue_of=queue_told)


def _state_place(environ: Mapping[str, str]) -> Place:
    """Where the state is; raises InvalidSetting, also where a Redis Cluster answers there."""
    place = _usable_place(environ)
    refuse_cluster(place, settings.REDIS_URL.name)
    return place


def _usable_place(environ: Mapping[str, str]) -> Place:
    url, name = settings.REDIS_URL, settings.REDIS_MASTER_NAME
    place = place_of(url.read(environ), url, name.read_or_none(environ), name)
    refuse_unusable(place, url.name)
    return place


def _refuse_wrong(environ: Mapping[str, str]) -> None:
    """Before anything is made, so that whoever sets one after the other is not told of them one after the other."""
    keys = settings.PUBLIC_KEYS
    reads = settings.reads_of(settings.WORKER, (settings.REDIS_URL, keys), environ)
    others = (
        lambda: _usable_place(environ),
        lambda: parse_public_keys(keys.read(environ)),
        lambda: _thresholds_of(environ),
    )
    settings.refuse_wrong([*reads, *others])
