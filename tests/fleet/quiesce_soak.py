"""The soak of quiescing: kills at random instants, and how soon whole fleets stand still.

    python -m tests.fleet.quiesce_soak [--kills 50] [--victim child] [--no-matrix] [--queue classic] [--seed 7]

First `--kills` SIGKILLs each of a pool child, a worker's parent and Valkey, somewhere in a quiesce and its resume
(`quiesce_kills`). Then three workers of four slots on tasks of `--minutes` each are quiesced three times, on prefork
and threads, over Valkey and RabbitMQ's classic and quorum queues (`quiesce_matrix`): all slots must be free or wait at
a checkpoint within one step + 500 ms. Exit code 0: all promises were kept; 1: not; 2: the soak could not run.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import Any

from sluicegate.control.process.stack import Stack
from sluicegate.schemas.errors import SluicegateError
from tests.fleet.long_runs import VICTIMS
from tests.fleet.quiesce_kills import run as run_kills
from tests.fleet.quiesce_matrix import quiesce
from tests.fleet.rabbit import Rabbit

STEP_S = 0.5
SLACK_MS = 500.0
CHAPTER = 25
"""Kills of one fleet; then it is made anew."""
POOLS = ("prefork", "threads")
VALKEY = "valkey"
QUEUES = (VALKEY, "classic", "quorum")
"""Valkey's lists, and RabbitMQ's types of queue."""


def soak_kills(
    stack: Stack, victim: str, kills: int, seed: int, say: Callable[[str], None], keep: Path | None = None
) -> dict[str, Any]:
    """The facts of `kills` kills of `victim`."""
    facts: dict[str, Any] = {"kills": 0, "runs": 0, "yields": 0, "broken": []}
    while facts["kills"] < kills:
        chapter = min(CHAPTER, kills - facts["kills"])
        outcome = run_kills(stack, victim, chapter, seed + facts["kills"], say, keep)
        found = asdict(outcome.findings) | {"runs": outcome.runs, "yields": outcome.yields, "kills": outcome.kills}
        found["died"] = outcome.died
        for name, value in found.items():
            if name != "broken":
                facts[name] = facts.get(name, 0) + value
        facts["broken"] += outcome.broken
        say(f"{victim}: {facts}")
    return facts


def soak_matrix(
    stack: Stack, queues: Sequence[str], minutes: float, say: Callable[[str], None]
) -> list[dict[str, Any]]:
    """The facts of each pool on each of `queues`."""
    rows = []
    for queue in queues:
        queue_type = None if queue == VALKEY else queue
        with (
            tempfile.TemporaryDirectory(prefix="sluicegate-rabbit-", ignore_cleanup_errors=True) as directory,
            Rabbit(Path(directory)) if queue_type else nullcontext() as rabbit,
        ):
            for pool in POOLS:
                found = quiesce(
                    stack,
                    pool=pool,
                    rabbit=rabbit,
                    queue_type=queue_type or "",
                    items=round(minutes * 60 / STEP_S),
                    item_s=STEP_S,
                    quiesces=3,
                )
                is_ok = found.is_exact and found.told_ms <= STEP_S * 1000 + SLACK_MS
                rows.append({"pool": pool, "queue": queue, "ok": is_ok} | asdict(found))
                say(f"{rows[-1]}")
    return rows


def main(arguments: list[str] | None = None) -> int:
    """Run the command; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.fleet.quiesce_soak", description="Quiesce and kill.")
    parser.add_argument("--kills", type=int, default=50, help="of each victim (default: %(default)s)")
    parser.add_argument("--victim", choices=VICTIMS, help="this one alone")
    parser.add_argument("--no-matrix", action="store_true", help="kills alone")
    parser.add_argument("--queue", choices=QUEUES, help="the matrix on these queues alone; with --kills 0 nothing else")
    parser.add_argument("--minutes", type=float, default=5.0, help="of each task of the matrix (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the instants")
    parser.add_argument(
        "--keep", type=Path, help="where to keep logs and records of kills that lost or broke something"
    )
    parser.add_argument("--json", action="store_true", help="print the facts as one JSON object")
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, _interrupt)
    began = time.monotonic()

    def say(text: str) -> None:
        print(f"{time.monotonic() - began:6.1f} s  {text}", file=sys.stderr, flush=True)

    try:
        with (
            tempfile.TemporaryDirectory(prefix="sluicegate-soak-", ignore_cleanup_errors=True) as directory,
            Stack(Path(directory) / "stack", durable=False, actor="soak") as stack,
        ):
            victims = [] if not options.kills else [options.victim] if options.victim else VICTIMS
            killed = {
                victim: soak_kills(stack, victim, options.kills, options.seed, say, options.keep) for victim in victims
            }
            queues = [] if options.no_matrix else [options.queue] if options.queue else QUEUES
            matrix = soak_matrix(stack, queues, options.minutes, say)
    except KeyboardInterrupt:
        print("soak: interrupted; everything it started has been stopped", file=sys.stderr)
        return 130
    except (SluicegateError, OSError, AssertionError) as error:
        print(f"soak: {error}", file=sys.stderr)
        return 2
    is_ok = not any(facts["broken"] for facts in killed.values()) and all(row["ok"] for row in matrix)
    facts = {"ok": is_ok, "kills": killed, "matrix": matrix, "seconds": round(time.monotonic() - began, 1)}
    if options.json:
        print(json.dumps(facts, indent=2))
    else:
        _show(facts)
    return 0 if is_ok else 1


def _show(facts: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    kills = Table(
        "killed",
        "kills",
        "runs",
        "repeated items",
        "lost as in Celery",
        "on the wire",
        "broken",
        title="Kills in a quiesce",
    )
    for victim, row in facts["kills"].items():
        cells = (row["kills"], row["runs"], row["repeated"], row["lost_as_in_celery"], row["lost_on_the_wire"])
        kills.add_row(victim, *map(str, cells), str(len(row["broken"])))
    if facts["kills"]:
        console.print(kills)
    if facts["matrix"]:
        table = Table("pool", "queue", "items", "missing", "repeated", "last item", "all said so", title="12 slots")
        for row in facts["matrix"]:
            cells = (row["pool"], row["queue"], row["items"], row["missing"], row["repeated"])
            table.add_row(*map(str, cells), f"{row['last_item_ms']:.0f} ms", f"{row['told_ms']:.0f} ms")
        console.print(table)
        console.print(f"limit: one step of {STEP_S * 1000:.0f} ms + {SLACK_MS:.0f} ms")
    for row in facts["kills"].values():
        for line in row["broken"][:20]:
            console.print(line)
    console.print(f"{'All promises were kept' if facts['ok'] else 'BROKEN'}, {facts['seconds']} s")


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
