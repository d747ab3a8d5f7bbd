"""The soak: many pauses of a busy worker, each judged by the checker.

    python -m tests.fleet.soak --pauses 1000 [--pool threads] [--broker rabbitmq --queue-type quorum] [--durable]

One worker (two slots; a solo worker has one) is kept busy with tasks of 1 to 30 ms; the pauses are shared out over
early and late acknowledgement and prefetch 1 and 4. Reported: starts after acknowledgement, lost, duplicated,
displaced, and how long it took from a pause's call to the acknowledgement and to the last start. Exit code 0:
all within the limits; 1: not; 2: the soak could not run.

Every pause waits for its commit. With `--durable` that is one that outlives a power cut, and the times are those of
the disk and of whoever else writes to it (a commit that waits a second for its fsync is a pause that does); without
it they are sluicegate's own.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from types import FrameType
from typing import Any

from sluicegate.control.process.stack import Stack
from sluicegate.schemas.errors import SluicegateError
from tests.fleet.checker import PauseTimes, Verdict
from tests.fleet.harness import Feeder, Fleet
from tests.fleet.rabbit import Rabbit

SLOTS = {"prefork": 2, "threads": 2, "gevent": 2, "solo": 1}
SHORTEST_S, LONGEST_S = 0.001, 0.030
CHAPTER = 25
"""Pauses that are judged together; the queue is run dry between two chapters."""

ACKNOWLEDGED_P99_MS = 100.0
LAST_START_P99_MS = 50.0
MODES = tuple(product((False, True), (1, 4)))
"""Acknowledgement late or not, and prefetch."""


@dataclass(slots=True)
class Tally:
    """What has been counted, over all chapters."""

    pauses: int = 0
    starts: int = 0
    broken: Counter[str] = field(default_factory=Counter)
    acknowledged_ms: list[float] = field(default_factory=list)
    last_start_ms: list[float] = field(default_factory=list)
    examples: list[str] = field(default_factory=list)

    def add(self, verdict: Verdict) -> None:
        """Count one chapter."""
        self.pauses += len(verdict.pauses)
        self.starts += verdict.starts
        self.broken.update(verdict.broken)
        self.acknowledged_ms += [_ms(p.acknowledged_us) for p in verdict.pauses if p.acknowledged_us is not None]
        # A pause after whose call nothing started took no time at all.
        self.last_start_ms += [_last_start_ms(pause) for pause in verdict.pauses]
        for late in verdict.late_starts:
            self.examples.append(f"task {late.record.seq} started {late.after_us} µs after the acknowledgement")
        for what in ("lost", "interrupted", "duplicated", "displaced", "left_unacked"):
            if seqs := getattr(verdict, what):
                self.examples.append(f"{what}: {list(seqs)[:10]}")

    def facts(self, seconds: float) -> dict[str, Any]:
        """What `--json` prints."""
        acknowledged, last_start = _percentiles(self.acknowledged_ms), _percentiles(self.last_start_ms)
        exceeded = [
            f"{what} p99 {found['p99']} ms > {limit} ms"
            for what, found, limit in (
                ("call to acknowledged", acknowledged, ACKNOWLEDGED_P99_MS),
                ("call to last start", last_start, LAST_START_P99_MS),
            )
            if found["p99"] > limit
        ]
        return {
            "ok": not self.broken and not exceeded,
            "pauses": self.pauses,
            "starts": self.starts,
            "startsAfterAcknowledgement": self.broken["starts after acknowledgement"],
            "lost": self.broken["lost"],
            "duplicated": self.broken["duplicated"],
            "displaced": self.broken["displaced"],
            "broken": dict(self.broken),
            "examples": self.examples[:20],
            "callToAcknowledgedMs": acknowledged,
            "callToLastStartMs": last_start,
            "limits": {"acknowledgedP99Ms": ACKNOWLEDGED_P99_MS, "lastStartP99Ms": LAST_START_P99_MS},
            "exceeded": exceeded,
            "seconds": round(seconds, 1),
        }


def _last_start_ms(pause: PauseTimes) -> float:
    return 0.0 if pause.last_start_us is None else _ms(pause.last_start_us)


def _ms(microseconds: int) -> float:
    return microseconds / 1000


def _percentiles(values: Sequence[float]) -> dict[str, float]:
    """p50, p99 (nearest rank) and the greatest of `values`, in milliseconds."""
    if not values:
        return {"p50": 0.0, "p99": 0.0, "max": 0.0}
    ordered = sorted(values)

    def at(share: float) -> float:
        return round(ordered[min(len(ordered) - 1, int(share * len(ordered)))], 1)

    return {"p50": at(0.5), "p99": at(0.99), "max": round(ordered[-1], 1)}


def run(
    pauses: int,
    say: Callable[[str], None],
    *,
    pool: str = "prefork",
    queue_type: str | None = None,
    durable: bool = False,
    seed: int | None = None,
) -> dict[str, Any]:
    """Run the soak; the facts. `queue_type`: of a queue of a RabbitMQ; None for Valkey."""
    began = time.monotonic()
    tally = Tally()
    chance = random.Random(seed)
    with (
        tempfile.TemporaryDirectory(prefix="sluicegate-soak-", ignore_cleanup_errors=True) as directory,
        Stack(Path(directory) / "stack", durable=durable, actor="soak") as stack,
        Rabbit(Path(directory) / "rabbit") if queue_type else nullcontext() as rabbit,
    ):
        for number, (acks_late, prefetch) in enumerate(MODES):
            share = pauses // len(MODES) + (number < pauses % len(MODES))
            if not share:
                continue
            with Fleet(
                stack,
                pool=pool,
                acks_late=acks_late,
                prefetch=prefetch,
                host="soak",
                rabbit=rabbit,
                queue_type=queue_type or "",
            ) as fleet:
                what = f"{pool}, {queue_type} queue on RabbitMQ" if queue_type else pool
                say(f"{what}, {'late' if acks_late else 'early'} acknowledgement, prefetch {prefetch}: {share} pauses")
                fleet.watch()
                fleet.start(slots=SLOTS[pool])
                fleet.wait_open()
                for chapter in _chapters(share):
                    tally.add(_pause_often(fleet, chapter, chance))
                    say(f"  {tally.pauses} of {pauses} pauses, {tally.starts} starts; {_so_far(tally)}")
    return tally.facts(time.monotonic() - began)


def _chapters(pauses: int) -> Iterator[int]:
    while pauses > 0:
        yield min(CHAPTER, pauses)
        pauses -= CHAPTER


def _so_far(tally: Tally) -> str:
    return ", ".join(f"{count} {what}" for what, count in tally.broken.items()) or "nothing broken"


def _pause_often(fleet: Fleet, pauses: int, chance: random.Random) -> Verdict:
    """Pause `pauses` times, each time somewhere else in the work, and judge what came of it."""
    fleet.turn_page()

    def feed(count: int) -> None:
        fleet.send_naps(count, lambda: chance.uniform(SHORTEST_S, LONGEST_S))

    with Feeder(fleet, low=60, send=feed):
        for _ in range(pauses):
            fleet.wait_started(len(fleet.started()) + chance.randint(1, 12))
            # Not always right after a start: a pause can be in force before the next one.
            time.sleep(chance.uniform(0, LONGEST_S))
            fleet.pause("soak")
            fleet.wait_drained()
            fleet.resume("soak")
            fleet.wait_open()
    fleet.wait_done()
    return fleet.check()


def show(facts: dict[str, Any]) -> None:
    """The summary table on stdout."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{facts['pauses']} pauses of a busy worker, {facts['starts']} starts", title_justify="left")
    for heading in ("", "p50", "p99", "max", "limit of p99"):
        table.add_column(heading, justify="right" if heading else "left")
    for name, key, limit in (
        ("call → acknowledged", "callToAcknowledgedMs", "acknowledgedP99Ms"),
        ("call → last start", "callToLastStartMs", "lastStartP99Ms"),
    ):
        times = facts[key]
        cells = [f"{times[column]:.1f} ms" for column in ("p50", "p99", "max")]
        table.add_row(name, *cells, f"{facts['limits'][limit]:.0f} ms")
    console = Console(highlight=False)
    console.print(table)
    counts = {"starts after acknowledgement": "startsAfterAcknowledgement"}
    counts |= {word: word for word in ("lost", "duplicated", "displaced")}
    console.print(", ".join(f"{facts[key]} {words}" for words, key in counts.items()))
    for line in [*facts["exceeded"], *facts["examples"]]:
        console.print(line)
    console.print(f"{'All within the limits' if facts['ok'] else 'BROKEN'}, {facts['seconds']} s")


def main(arguments: list[str] | None = None) -> int:
    """Run the command; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.fleet.soak", description="Pause a busy worker often.")
    parser.add_argument("--pauses", type=_at_least_one, default=1000, help="how many (default: %(default)s)")
    parser.add_argument("--pool", choices=sorted(SLOTS), default="prefork", help="of the worker (default: %(default)s)")
    parser.add_argument("--broker", choices=("valkey", "rabbitmq"), default="valkey", help="(default: %(default)s)")
    parser.add_argument(
        "--queue-type",
        choices=("classic", "quorum"),
        default="classic",
        help="of the queue on RabbitMQ (default: %(default)s)",
    )
    parser.add_argument("--beside", metavar="LIBRARY", help="with this library in force (tests/beside/soak.py)")
    parser.add_argument("--durable", action="store_true", help="with Postgres as safe as in production")
    parser.add_argument("--seed", type=int, help="of the tasks' lengths and the moments of the pauses")
    parser.add_argument("--json", action="store_true", help="print the facts as one JSON object")
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, _interrupt)
    began = time.monotonic()

    def say(text: str) -> None:
        print(f"{time.monotonic() - began:6.1f} s  {text}", file=sys.stderr, flush=True)

    try:
        if options.beside:
            return _beside(options, say)
        queue_type = options.queue_type if options.broker == "rabbitmq" else None
        facts = run(
            options.pauses, say, pool=options.pool, queue_type=queue_type, durable=options.durable, seed=options.seed
        )
    except KeyboardInterrupt:
        print("soak: interrupted; everything it started has been stopped", file=sys.stderr)
        return 130
    except (SluicegateError, OSError, AssertionError) as error:
        print(f"soak: {error}", file=sys.stderr)
        return 2
    if options.json:
        print(json.dumps(facts, indent=2))
    else:
        show(facts)
    return 0 if facts["ok"] else 1


def _beside(options: argparse.Namespace, say: Callable[[str], None]) -> int:
    """The soak with a library in force; the exit code."""
    # It stands on the fleet's harness, as this does.
    from tests.beside import soak as beside

    if options.beside not in beside.LIBRARIES:
        print(f"soak: no library {options.beside!r}: {', '.join(beside.LIBRARIES)}", file=sys.stderr)
        return 2
    began, tally = time.monotonic(), Tally()
    counts = beside.run(options.beside, options.pauses, say, tally.add, pool=options.pool, seed=options.seed)
    facts = tally.facts(time.monotonic() - began)
    # The library takes time of its own: how soon is told, and not judged.
    facts |= {"beside": counts, "exceeded": [], "ok": not tally.broken and counts["counted"] == counts["onPlainCelery"]}
    if options.json:
        print(json.dumps(facts, indent=2))
    else:
        print(f"{tally.pauses} pauses, {tally.starts} starts: {_so_far(tally)}", *facts["examples"], sep="\n")
        print(f"{options.beside}: {counts['counted']}; on plain Celery: {counts['onPlainCelery']}")
        print("Every promise held" if facts["ok"] else "BROKEN")
    return 0 if facts["ok"] else 1


def _at_least_one(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is not at least 1")
    return number


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
