"""Random sequences of overlapping scoped holds on real workers, judged by the pure model.

    python -m tests.fleet.scoped_holds [--sequences 100] [--seed 1] [--json]

Two workers share one queue and have one each for themselves. Holds are placed, altered and released at random, of
every kind of scope, in both modes, some with an expiry and some with a deadline; after each order a task of two names
is sent to each queue. The model is `schemas.holds`, and it gets nothing but the orders and what the audit says the
clock did. Judged:

- every change: the model's holds and version are those that the control plane answers with;
- every start, by the worker's own clock: allowed by an edition that was in force on that worker, or ordered later (S1);
- every task: started as soon as the model says that a worker may (L3), and never before.

Exit code 0: so it was; 1: not; 2: it could not run.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from itertools import product
from pathlib import Path
from typing import Any
from uuid import UUID

from sluicegate.control.process.stack import Stack
from sluicegate.schemas.api.audit import EventBody
from sluicegate.schemas.api.pausing import ChangeAnswer
from sluicegate.schemas.errors import SluicegateError
from sluicegate.schemas.holds.hold import Hold, HoldKey, Holds
from sluicegate.schemas.holds.transitions import Change, escalate, expire, place, release
from sluicegate.schemas.modes import Mode
from sluicegate.schemas.scopes import Scope, Subject
from sluicegate.schemas.settings import LABELS
from tests.fleet.harness import Fleet
from tests.fleet.records import microseconds
from tests.fleet.waiting import NotInTime, until
from tests.fleet.watch import microseconds_of

QUIET = ("--without-mingle", "--without-gossip")
TASKS = ("nap", "stubborn")
ORDERS = 5
"""In one sequence, before all is released."""
SOON_S = 20.0
"""Within which a task that may start must have: tasks that were set aside are looked for every 5 s."""
HOST, LABEL = "rack-1", "gpu=h100"


@dataclass(frozen=True, slots=True)
class Probe:
    """A task that was sent: which, and to which queue."""

    seq: int
    task: str
    queue: str


@dataclass(slots=True)
class Findings:
    """What was judged, and what was wrong."""

    sequences: int = 0
    changes: int = 0
    by_the_clock: int = 0
    probes: int = 0
    wrong: list[str] = field(default_factory=list)


class Sequences:
    """Plays sequences on one fleet."""

    def __init__(self, fleet: Fleet, chance: random.Random) -> None:
        self._fleet = fleet
        self._chance = chance
        self.findings = Findings()
        own = [f"{fleet.queue}-{letter}" for letter in "ab"]
        self._queues = (fleet.queue, *own)
        self._start("w1", own[0], {"SLUICEGATE_HOST": HOST})
        self._start("w2", own[1], {LABELS.name: LABEL})
        fleet.wait_ready()
        fleet.wait_open()
        self._subjects = {
            self._nodename("w1"): ({fleet.queue, own[0]}, Subject(host=HOST, worker=self._nodename("w1"))),
            self._nodename("w2"): (
                {fleet.queue, own[1]},
                Subject(host=fleet.host, worker=self._nodename("w2"), labels=dict([LABEL.split("=")])),
            ),
        }
        self._probes: dict[int, Probe] = {}
        self._ended: set[int] = set()
        self._model = self._now()
        self._history: list[tuple[int, Holds]] = [(0, self._model)]

    def _start(self, name: str, queue: str, environ: dict[str, str]) -> None:
        arguments = (*QUIET, "-Q", f"{self._fleet.queue},{queue}")
        self._fleet.start(name, environ=environ, arguments=arguments, wait=False)

    def _nodename(self, name: str) -> str:
        return self._fleet.workers[name].nodename

    def _now(self) -> Holds:
        system = self._fleet.client.read().raw["system"]
        return _holds_of(system)

    def play(self, *, is_patient: bool) -> None:
        """One sequence; at its end nothing holds, and all that was sent is done.

        `is_patient`: what expires does before the next order; on a fast machine orders come sooner than that.
        """
        for _ in range(ORDERS):
            self._order()
            self._send()
            self._wait_until_the_model_is_met()
            while is_patient and any(hold.expires_at for hold in self._model.active):
                self._wait_for_the_clock()
        for hold in self._model.sorted():
            self._take(self._fleet.client.resume(reason="test", scope=str(hold.scope), force=True).raw)
        self._wait_until_the_model_is_met()
        until("all is done", lambda: self._fleet.ended() >= set(self._probes), within_s=SOON_S)
        self._judge_starts()
        self.findings.sequences += 1

    # -- orders ---------------------------------------------------------------------------------------------

    def _order(self) -> None:
        held = self._model.sorted()
        client, chance = self._fleet.client, self._chance
        if held and chance.random() < 0.35:
            self._take(client.resume(reason="test", scope=str(chance.choice(held).scope), force=True).raw)
            return
        more: dict[str, Any] = {}
        if chance.random() < 0.4:
            more["expires_in_s"] = chance.uniform(0.3, 2.0)
        mode = chance.choice(["drain", "quiesce"])
        if mode == "drain" and chance.random() < 0.4:
            more |= {"deadline_in_s": chance.uniform(0.1, 0.25), "then": "quiesce"}
        self._take(client.pause(mode=mode, reason="test", scope=chance.choice(self._scopes()), **more).raw)

    def _scopes(self) -> list[str]:
        return [
            "global",
            f"host:{HOST}",
            f"label:{LABEL}",
            *(f"worker:{nodename}" for nodename in self._subjects),
            *(f"queue:{queue}" for queue in self._queues),
            *(f"task:fleet.{task}" for task in TASKS),
        ]

    def _take(self, answer: dict[str, Any]) -> None:
        """The model does what was ordered, and before that what the clock did; both must say the same."""
        told = _holds_of(answer["system"])
        self._catch_up(told)
        if self._model != told:
            self.findings.wrong.append(f"the model says {self._model}, the control plane {told}")
            self._model = told
        ChangeAnswer.model_validate(answer)

    def _catch_up(self, told: Holds | None = None) -> None:
        """By the audit's events that made versions since."""
        events = self._fleet.client.audit({"limit": "200"}).body.events
        new = [event for event in events if event.version is not None and event.version > self._model.version]
        for event in sorted(new, key=lambda event: event.version or 0):
            if told is not None and (event.version or 0) > told.version:
                return
            change = self._by_the_model(event, told)
            if change.is_noop or change.holds.version != event.version:
                self.findings.wrong.append(f"{event.action} made version {event.version}, by the model {change}")
            self._model = change.holds
            self._history.append((microseconds_of(event.created_at), self._model))
            self.findings.changes += 1

    def _by_the_model(self, event: EventBody, told: Holds | None) -> Change:
        at = event.created_at
        if event.action in ("hold_expired", "hold_escalated"):
            self.findings.by_the_clock += 1
            drained = {hold.id for hold in self._model.active if hold.id != UUID(event.hold_id)}
            return expire(self._model, now=at) if event.action == "hold_expired" else self._escalated(at, drained)
        key = HoldKey(scope=Scope.parse(event.scope))
        if event.action == "resume":
            return release(self._model, key, actor=event.actor, reason=event.reason or "", now=at)
        wish = (told or self._now()).find(key)
        assert wish is not None, event
        return place(self._model, wish)

    def _escalated(self, at: datetime, others: set[UUID]) -> Change:
        """Which of those that are due had drained before, only the control plane knows: the event names its hold."""
        return escalate(self._model, now=at, drained=others)

    # -- starts ---------------------------------------------------------------------------------------------

    def _send(self) -> None:
        for task, queue in product(TASKS, self._queues):
            args = (0.01,) if task == "nap" else (0, 0.0)
            seq = self._fleet.send(task, *args, queue=queue)
            self._probes[seq] = Probe(seq, task, queue)
            self.findings.probes += 1

    def _may_run(self, probe: Probe, holds: Holds, nodename: str) -> bool:
        queues, subject = self._subjects[nodename]
        start = Subject(
            host=subject.host,
            worker=subject.worker,
            labels=subject.labels,
            queue=probe.queue,
            task=f"fleet.{probe.task}",
        )
        return probe.queue in queues and holds.mode_for(start) is Mode.RUN

    def _wait_until_the_model_is_met(self) -> None:
        """Every task that some worker may start has started; the clock may change what holds meanwhile."""
        give_up = time.monotonic() + SOON_S
        while True:
            self._catch_up()
            started = self._fleet.started()
            missing = [
                probe
                for probe in self._probes.values()
                if probe.seq not in started and any(self._may_run(probe, self._model, name) for name in self._subjects)
            ]
            version = self._model.version
            is_applied = all(word.edition[1] >= version for word in self._fleet.words())
            if not missing and is_applied:
                return
            if time.monotonic() > give_up:
                raise NotInTime(f"version {version}, applied by all: {is_applied}; may start and did not: {missing}")
            time.sleep(0.02)

    def _wait_for_the_clock(self) -> None:
        before = self.findings.by_the_clock

        def has_changed() -> bool:
            self._catch_up()
            return self.findings.by_the_clock > before

        until("the clock has changed something", has_changed, within_s=SOON_S)
        self._wait_until_the_model_is_met()

    def _judge_starts(self) -> None:
        sightings = self._fleet.watch().sightings()
        for record in self._fleet.read_records():
            probe = self._probes.get(record.seq)
            if record.event != "start" or probe is None or record.seq in self._ended:
                continue
            self._ended.add(record.seq)
            applied = [s.edition[1] for s in sightings if s.nodename == record.nodename and s.at_us <= record.at_us]
            since = max(applied, default=0)
            known = [holds for at_us, holds in self._history if holds.version >= since and at_us <= record.at_us]
            if not any(self._may_run(probe, holds, record.nodename) for holds in known):
                self.findings.wrong.append(f"{probe} started on {record.nodename} under version {since}: {known}")


def _holds_of(system: dict[str, Any]) -> Holds:
    return Holds(version=system["version"], active=frozenset(Hold.from_wire(hold) for hold in system["holds"]))


def run(stack: Stack, *, sequences: int, seed: int, say: Callable[[str], None] = lambda text: None) -> Findings:
    """Play them on a fleet of two workers."""
    with Fleet(stack) as fleet:
        fleet.watch()
        game = Sequences(fleet, random.Random(seed))
        for number in range(sequences):
            game.play(is_patient=number % 2 == 0)
            if number % 10 == 9:
                say(f"{number + 1} sequences, {game.findings.changes} changes, {len(game.findings.wrong)} wrong")
        return game.findings


def main(arguments: list[str] | None = None) -> int:
    """Run the command; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.fleet.scoped_holds", description="Holds beside the model.")
    parser.add_argument("--sequences", type=int, default=100)
    parser.add_argument("--seed", type=int, default=microseconds(time.time()) % 1_000_000)
    parser.add_argument("--json", action="store_true", help="print the figures as one JSON object")
    options = parser.parse_args(arguments)
    began = time.monotonic()

    def say(text: str) -> None:
        print(f"{time.monotonic() - began:6.1f} s  {text}", file=sys.stderr, flush=True)

    try:
        with (
            tempfile.TemporaryDirectory(prefix="sluicegate-scoped-", ignore_cleanup_errors=True) as directory,
            Stack(Path(directory) / "stack", actor="soak") as stack,
        ):
            found = run(stack, sequences=options.sequences, seed=options.seed, say=say)
    except (SluicegateError, OSError, AssertionError, NotInTime) as error:
        print(f"scoped_holds: seed {options.seed}: {error}", file=sys.stderr)
        return 2
    figures = {
        "seed": options.seed,
        "sequences": found.sequences,
        "changes": found.changes,
        "byTheClock": found.by_the_clock,
        "tasks": found.probes,
        "wrong": len(found.wrong),
    }
    print(json.dumps(figures) if options.json else "\n".join(f"{name}: {value}" for name, value in figures.items()))
    for line in found.wrong[:5]:
        print(line, file=sys.stderr)
    return 1 if found.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
