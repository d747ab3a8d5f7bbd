"""A fleet in which somebody has a worker's credential in Redis: what that one says of others is not believed (L4)."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import redis
from sqlalchemy import NullPool, create_engine, text

from sluicegate.control.process.stack import Stack
from sluicegate.control.store.connection import parse_url
from sluicegate.schemas.beats import Beat, WorkerState
from sluicegate.schemas.names import beat_key, beats_key, lives_key
from sluicegate.schemas.settings import DATABASE_URL, NAMESPACE, REDIS_URL
from sluicegate.schemas.snapshots import Edition
from sluicegate.workers.own_keys import OwnKeys
from tests.fleet.harness import Fleet
from tests.fleet.test_drain_receipt import counts_of, hold, receipt_of
from tests.fleet.waiting import stays, until


class Attacker:
    """Writes hundreds of times a second in the place of one worker's heartbeat, and lets nothing of its own stand."""

    def __init__(self, stack: Stack, nodename: str, state_dir: Path) -> None:
        self._redis = redis.Redis.from_url(stack.environ[REDIS_URL.name])
        self._namespace = stack.environ[NAMESPACE.name]
        self._nodename = nodename
        self._keys = OwnKeys(state_dir, self._namespace, nodename)
        self._true = Beat.decode(bytes(self._redis.execute_command("GET", beat_key(self._namespace, nodename))))
        self._seq = 10_000
        self.edition = Edition(0, 0)

    @property
    def life(self) -> str:
        """The incarnation of its own life."""
        return self._keys.incarnation

    def idle(self) -> Beat:
        """What would let a drain end: its own life, which has put in force what is ordered, and runs nothing."""
        self._seq += 1
        word = replace(self._true, seq=self._seq, running=(), ended=(), reserved=0, state=WorkerState.PAUSED)
        return replace(word, applied=self.edition, fence=self.edition, fingerprint=None)

    def as_if_signed(self) -> bytes:
        """(a) Of the true life, by another key."""
        return self._keys.spell(self.idle())

    def goodbye(self) -> bytes:
        """(d)"""
        return self._keys.spell(replace(self.idle(), is_goodbye=True))

    def new_life(self) -> bytes:
        """(c) One that is truly signed, under the worker's name."""
        return self._keys.spell(replace(self.idle(), incarnation=self._keys.incarnation))

    @contextmanager
    def writes(self, spell: Callable[[], bytes]) -> Iterator[None]:
        """Until the block ends."""
        ends = threading.Event()

        def run() -> None:
            while not ends.wait(0.002):
                seconds, microseconds = self._redis.time()
                pipe = self._redis.pipeline(transaction=True)
                pipe.delete(lives_key(self._namespace, self._nodename))
                pipe.set(beat_key(self._namespace, self._nodename), spell())
                pipe.zadd(beats_key(self._namespace), {self._nodename: seconds + microseconds / 1e6})
                pipe.execute()

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ends.set()
            thread.join()


def test_l4_no_forged_heartbeat_ends_the_drain_of_a_worker_whose_task_runs(stack: Stack, tmp_path: Path) -> None:
    """Each lie for longer than the lease (10 s), over one task; when that has ended, the receipt is of its own word."""
    go = tmp_path / "go"
    with Fleet(stack) as fleet:
        fleet.watch()
        worker = fleet.start(slots=1)
        fleet.wait_open()
        fleet.send("ending", str(go), "finish")
        fleet.wait_started(1)
        until("its heartbeat tells of the task", lambda: fleet.words("w1")[0].running == 1)
        until("that is remembered", partial(_is_remembered, stack, worker.nodename))
        attacker = Attacker(stack, worker.nodename, tmp_path / "attacker")
        scope, version = hold(fleet, "drain")
        attacker.edition = Edition(fleet.client.read(scope).body.system.epoch, version)
        try:
            for lie in (attacker.as_if_signed, attacker.goodbye, attacker.new_life):
                with attacker.writes(lie):
                    stays("it is not drained", partial(_is_running, fleet, scope, version), for_s=14)
                    told = fleet.client.workers().body.workers
                    shown = fleet.run([sys.executable, "-m", "sluicegate.control.cli", "status"]).stdout
                assert any(one.nodename == worker.nodename and (one.forged or one.displaced) for one in told), told
                assert worker.nodename in shown
            until("the stranger's life is silent", partial(_is_silent, fleet, attacker.life), within_s=20)
            fleet.client.forget(worker.nodename, reason="a stranger's life")
            go.touch()
            made = until("the receipt is on record", partial(receipt_of, fleet, version))
            (story,) = [one for one in fleet.client.read(scope).body.system.holds if one.scope == scope]
            (drain,) = fleet.client.hold(story.id).body.drains
            events = fleet.client.audit({"action": "heartbeats_forged"}).body.events
        finally:
            go.touch()
            fleet.client.resume(reason="test", scope=scope, force=True)
    assert counts_of(made) == {"finished": 1}
    assert (made["signed"], made["unsigned"]) == (1, 0)
    assert drain.receipt is not None
    assert (drain.receipt.signed, drain.receipt.unsigned) == (1, 0)
    assert [event.details["worker"] for event in events if worker.nodename in event.details["workers"]], events


def _is_running(fleet: Fleet, scope: str, version: int) -> bool:
    metrics = fleet.client.read(scope).body.metrics
    return metrics.running == 1 and not metrics.is_drained and not receipt_of(fleet, version)


def _is_silent(fleet: Fleet, incarnation: str) -> bool:
    states = {one.incarnation: one.state for one in fleet.client.workers().body.workers}
    return states[incarnation] == WorkerState.UNKNOWN and set(states.values()) > {WorkerState.UNKNOWN}


def _is_remembered(stack: Stack, nodename: str) -> bool:
    """Does the control plane know what runs there, whatever becomes of Redis?"""
    engine = create_engine(parse_url(stack.control_environ[DATABASE_URL.name]), poolclass=NullPool)
    try:
        with engine.connect() as connection:
            found = connection.execute(
                text("select 1 from workers where nodename = :name and jsonb_array_length(beat->'running') = 1"),
                {"name": nodename},
            )
            return found.first() is not None
    finally:
        engine.dispose()
