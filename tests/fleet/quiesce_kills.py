"""Quiesces of busy long tasks in which something is killed with SIGKILL at a random instant, over and over.

Two prefork workers with three slots each go through tasks of every kind (`long_runs.KINDS`). Each cycle sends some, is
quiesced, and resumed a moment later; somewhere between a little before the one and a little after the other a pool
child, a worker's parent (its children die with it) or Valkey is killed. What was killed is started again at once. The
judge is `long_runs.judge`, by what the tasks wrote down.

Valkey writes each command to disk before it answers (`appendfsync always`): what it has confirmed, it has. With less,
what the broker itself forgets in a crash is lost to plain Celery as well, and no promise can be checked.
"""

from __future__ import annotations

import random
import shutil
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil
import redis

from sluicegate.control.process.stack import Stack
from tests.fleet import app as fleet_app
from tests.fleet import broker
from tests.fleet.broker_log import BrokerLog
from tests.fleet.harness import Fleet
from tests.fleet.long_runs import BROKER, CHILD, KINDS, MODULE, PARENT, Findings, Kill, Story, judge
from tests.fleet.records import microseconds
from tests.fleet.waiting import NotInTime, until

WORKERS = ("w1", "w2")
SLOTS = 3
ITEMS = 12
ITEM_S = 0.05
VISIBILITY_S = 6
"""Many times what a task takes: one that runs for longer is given out again, pause or no pause."""
PAUSE_AT_S = 0.15
DONE_WITHIN_S = 60.0
LAST_COMMANDS = 30
"""Before a kill: what one of them popped may not have arrived."""


@dataclass(slots=True)
class Outcome:
    """What a number of cycles came to. `died`: workers that ended by themselves, which they may for a killed Valkey."""

    findings: Findings
    kills: int
    late_starts: int
    runs: int
    yields: int
    died: int
    victim: str
    broken: list[str] = field(init=False)

    def __post_init__(self) -> None:
        self.broken = list(self.findings.broken)
        if self.died and self.victim != BROKER:
            self.broken.append(f"{self.died} workers ended by themselves")
        if self.late_starts:
            self.broken.append(f"{self.late_starts} starts after an acknowledgement")


class Killing:
    """One fleet and what is done to it; a context manager that leaves nothing behind."""

    def __init__(self, stack: Stack, victim: str, seed: int) -> None:
        self.victim = victim
        self.stack = stack
        self.chance = random.Random(f"{seed} {victim}")
        self.fleet = Fleet(stack, visibility_s=VISIBILITY_S, prefetch=1, environ={fleet_app.MUTEX_S: "5"})
        self.kinds: dict[int, str] = {}
        self.kills: list[Kill] = []
        self.log = BrokerLog(stack.valkey.data_dir)
        self.restarts = 0
        self._failure: Exception | None = None

    def __enter__(self) -> Self:
        self.fleet.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(redis.RedisError):
            self.log.release(self.fleet.redis)
            self.fleet.redis.execute_command("CONFIG", "SET", "appendfsync", "everysec")
        self.fleet.__exit__(kind, error, trace)

    def start(self) -> None:
        """Workers up and open."""
        self._make_durable()
        self.fleet.watch()
        for name in WORKERS:
            self.fleet.start(name, slots=SLOTS, module=MODULE, wait=False)
        self.fleet.wait_ready()
        self.fleet.wait_open()

    def _make_durable(self) -> None:
        self.fleet.redis.execute_command("CONFIG", "SET", "appendfsync", "always")
        self.log.configure(self.fleet.redis)

    def cycle(self) -> None:
        """One quiesce and resume, with one kill."""
        fleet, chance = self.fleet, self.chance
        done = len(fleet.items())
        for kind in chance.sample(KINDS, len(KINDS)):
            self.kinds[fleet.send(f"steps_{kind}", ITEMS, ITEM_S)] = kind
        wanted = done + chance.randint(1, 2 * SLOTS * ITEMS // 2)
        until("the fleet is at work", lambda: self._has_done(wanted), within_s=DONE_WITHIN_S)

        begun = time.monotonic()
        resume_at_s = PAUSE_AT_S + chance.uniform(0.2, 0.7)
        kill_at_s = chance.uniform(0, resume_at_s + 0.3)
        worker = chance.choice(WORKERS)
        killer = threading.Thread(target=self._kill, args=(begun + kill_at_s, worker), name="killer")
        killer.start()
        # A schedule, not a wait for something: what happens meanwhile, happens.
        _sleep_until(begun + PAUSE_AT_S)
        fleet.pause(mode="quiesce")
        _sleep_until(begun + resume_at_s)
        fleet.resume()
        killer.join()
        if self._failure is not None:
            raise self._failure
        self._repair()
        fleet.wait_ready()
        try:
            until("all workers are open again", self._is_open, within_s=DONE_WITHIN_S, every_s=0.05)
        except NotInTime:
            self._ask_for_stacks()
            raise
        # What a worker or a broker took with it comes back after the visibility timeout, beside the next cycles.
        if self.victim == CHILD:
            self.wait_done()

    def _ask_for_stacks(self) -> None:
        """Into the logs: Celery's parents answer SIGUSR1 with the stack of each thread."""
        workers = [worker for worker in self.fleet.workers.values() if worker.is_running]
        for worker in workers:
            worker.send(signal.SIGUSR1)
        with suppress(NotInTime):
            until("they have answered", lambda: all("MainThread" in worker.process.output for worker in workers))

    def _has_done(self, items: int) -> bool:
        # A worker may end long after the broker was killed: when it closes the connection that it lost.
        self._repair()
        return len(self.fleet.items()) >= items

    def _is_open(self) -> bool:
        self._repair()
        newest = self.fleet.calls[-1].edition
        return sum(word.state == "running" and word.edition >= newest for word in self.fleet.words()) == len(WORKERS)

    def _kill(self, at: float, name: str) -> None:
        try:
            _sleep_until(at)
            getattr(self, f"_kill_{self.victim}")(name)
        except Exception as error:
            self._failure = error

    def _kill_broker(self, name: str) -> None:
        self._note(frozenset())
        self.stack.valkey.kill()
        self.log.note_kill()
        self.stack.valkey.start()
        self._make_durable()

    def _kill_parent(self, name: str) -> None:
        worker = self.fleet.workers[name]
        self._note(self._children(name))
        worker.send(signal.SIGKILL)
        worker.kill()
        self.log.note_kill()

    def _kill_child(self, name: str) -> None:
        pid = self.chance.choice(sorted(self._children(name)))
        self._note(frozenset({pid}))
        psutil.Process(pid).kill()

    def _children(self, name: str) -> frozenset[int]:
        return frozenset(child.pid for child in psutil.Process(self.fleet.workers[name].pid).children())

    def _note(self, pids: frozenset[int]) -> None:
        self.kills.append(Kill(victim=self.victim, at_us=microseconds(time.time()), pids=pids))

    def _repair(self) -> None:
        """Start again what is gone, as whoever looks after workers would."""
        for name, worker in self.fleet.workers.items():
            if not worker.is_running:
                self.restarts += 1
                worker.kill()
                self.fleet.restart(name, wait=False)

    def save_logs(self, directory: Path) -> None:
        """Logs, records and the broker's own log, for whoever looks for the reason."""
        shutil.copytree(self.fleet.directory, directory, ignore=shutil.ignore_patterns("tmp"), dirs_exist_ok=True)
        shutil.copytree(self.stack.valkey.data_dir, directory / "valkey", dirs_exist_ok=True)
        names = [f"{seq} {self.kinds[seq]} {self.fleet.ids[seq]}" for seq in sorted(self.kinds)]
        kills = [f"killed {kill.victim} {kill.at_us} {sorted(kill.pids)}" for kill in self.kills]
        (directory / "story").write_text("\n".join([*names, *kills, ""]))

    def wait_done(self) -> None:
        """Return once nothing runs and nothing lies in the broker: what has not ended then, is lost."""
        try:
            until("all is done", self._is_done, within_s=DONE_WITHIN_S, every_s=0.1)
        except NotInTime as error:
            missing = sorted(set(self.kinds) - self.fleet.ended())
            taken = {
                tag.decode(): self._taken_s_ago(tag)
                for tag in self.fleet.redis.execute_command("HKEYS", broker.UNACKED)
            }
            raise NotInTime(
                f"{error}; not ended: {missing}, running: {self.fleet.running()}, broker: {self.fleet.contents()}, "
                f"unacked since: {taken} s, workers: {self.fleet.words()}"
            ) from None

    def _taken_s_ago(self, tag: bytes) -> float | None:
        """None where kombu's index by time does not have it: then nobody gives it out again."""
        at = self.fleet.redis.execute_command("ZSCORE", f"{broker.UNACKED}_index", tag)
        return None if at is None else round(time.time() - float(at), 1)

    def _is_done(self) -> bool:
        self._repair()
        fleet = self.fleet
        if set(self.kinds) <= fleet.ended() and not fleet.running():
            return True
        contents = fleet.contents()
        if contents.queued or contents.unacked or fleet.running():
            return False
        # One message may be under way between the two places, and a task between its fetch and its start.
        before = fleet.count_starts()
        try:
            fleet.stays_still(for_s=1.5)
        except NotInTime:
            return False
        contents = fleet.contents()
        return not (contents.queued or contents.unacked or fleet.running()) and fleet.count_starts() == before

    def _on_the_wire(self, missing: set[int]) -> set[int]:
        """Those of which the broker's last word is that it popped them, right before it or a worker was killed.

        A worker has one BRPOP out: no kill costs more than one for each worker that it cut off.
        """
        popped = self.log.popped_last()
        left = dict.fromkeys(range(len(self.kills)), len(WORKERS) if self.victim == BROKER else 1)
        found = set()
        for seq in sorted(missing):
            number, commands = popped.get(self.fleet.ids[seq]) or (-1, LAST_COMMANDS)
            if commands < LAST_COMMANDS and left[number]:
                left[number] -= 1
                found.add(seq)
        return found

    def outcome(self) -> Outcome:
        """The judgement of all cycles so far."""
        self.wait_done()
        fleet = self.fleet
        ended = fleet.ended()
        records = fleet.read_records()
        story = Story(
            kinds=self.kinds,
            count=ITEMS,
            records=records,
            items=fleet.items(),
            cursors=fleet.cursors(),
            kills=self.kills,
            on_the_wire=self._on_the_wire(set(self.kinds) - ended),
        )
        return Outcome(
            findings=judge(story),
            kills=len(self.kills),
            late_starts=len(fleet.check().late_starts),
            runs=fleet.count_starts(),
            yields=sum(record.event == "yield" for record in records),
            died=self.restarts - (len(self.kills) if self.victim == PARENT else 0),
            victim=self.victim,
        )


def run(
    stack: Stack,
    victim: str,
    cycles: int,
    seed: int,
    say: Callable[[str], None] = lambda text: None,
    keep: Path | None = None,
) -> Outcome:
    """`cycles` kills of `victim`, judged together. `keep`: a place for the logs of what lost or broke something."""
    with Killing(stack, victim, seed) as killing:
        is_well = False
        try:
            killing.start()
            for number in range(cycles):
                killing.cycle()
                say(f"{victim}: {number + 1} of {cycles} killed")
            outcome = killing.outcome()
            is_well = not (outcome.broken or outcome.findings.lost_on_the_wire)
            return outcome
        finally:
            if keep is not None and not is_well:
                killing.save_logs(keep / f"{victim}-{seed}")


def _sleep_until(moment: float) -> None:
    if (left := moment - time.monotonic()) > 0:
        time.sleep(left)
