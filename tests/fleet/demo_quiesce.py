"""The second demo: a fleet at work on long tasks is quiesced, robbed of a worker, resumed, and proved.

    python -m tests.fleet.demo_quiesce [--json]

Three prefork workers with four slots each go through tasks of many items; half of the tasks wait in place when they are
quiesced, half give their slot back. A worker is killed while all stand still. In the end every item of every task must
have been done exactly once, by what the tasks wrote down themselves. Exit code 0: so it was; 1: not; 2: it could not
run.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from sluicegate.control.process.stack import Stack
from sluicegate.schemas.errors import SluicegateError
from tests.fleet.harness import Fleet
from tests.fleet.records import microseconds
from tests.fleet.waiting import NotInTime, until

WORKERS = ("w1", "w2", "w3")
SLOTS = 4
TASKS = 24
ITEMS = 40
ITEM_S = 0.1
VISIBILITY_S = 5
"""How soon the broker gives out again what the killed worker had; those that wait are kept from it."""


def run(say: Callable[[str], None]) -> dict[str, Any]:
    """Play the scene; the facts."""
    with (
        tempfile.TemporaryDirectory(prefix="sluicegate-demo-", ignore_cleanup_errors=True) as directory,
        Stack(Path(directory) / "stack", actor="demo") as stack,
    ):
        say("Postgres, Valkey and the control plane are up")
        with Fleet(stack, acks_late=True, visibility_s=VISIBILITY_S, prefetch=1, host="demo") as fleet:
            return _play(fleet, say)


def _play(fleet: Fleet, say: Callable[[str], None]) -> dict[str, Any]:
    fleet.watch()
    for name in WORKERS:
        fleet.start(name, slots=SLOTS, wait=False)
    fleet.wait_ready()
    fleet.wait_open()
    say(f"{len(WORKERS)} prefork workers with {SLOTS} slots each are open")
    tasks = [fleet.send(f"steps_{'wait' if number % 2 else 'yield'}", ITEMS, ITEM_S) for number in range(TASKS)]
    say(f"{TASKS} tasks of {ITEMS} items sent; half of them wait when quiesced, half give their slot back")
    until("the fleet is at work", lambda: len(fleet.items()) >= TASKS * ITEMS // 8, within_s=60)

    called_us = microseconds(time.time())
    version = fleet.pause("sluicegate demo", mode="quiesce").edition[1]
    say(f"QUIESCE ordered: version {version}")
    fleet.wait_acknowledged()
    until("all running tasks have stopped", lambda: all(w.running == w.waiting for w in fleet.words()), within_s=30)
    last_us = max(item.at_us for item in fleet.items())
    stopped_ms = max(0.0, (last_us - called_us) / 1000)
    waiting = sum(word.waiting for word in fleet.words())
    done = len(fleet.items())
    say(f"all stand still, the last item ended {stopped_ms:,.0f} ms after the call")
    say(f"  {waiting} tasks wait at a checkpoint, the others gave their slots back; {done} items are done")

    fleet.workers["w1"].kill()
    fleet.restart("w1")
    say("killed w1@demo (SIGKILL, children too) and started it again: it waits behind the gate")
    fleet.stays_still(for_s=2.0)
    moved = len(fleet.items()) - done
    say(f"2 s later {moved} further items were done")
    fleet.resume("sluicegate demo")
    say("RESUMED")
    until("all tasks are done", lambda: fleet.ended() == set(tasks), within_s=120, every_s=0.1)
    times = Counter((item.seq, item.item) for item in fleet.items())
    facts = {
        "tasks": TASKS,
        "items": TASKS * ITEMS,
        "done": sum(times.values()),
        "missing": TASKS * ITEMS - len(times),
        "repeated": sum(count - 1 for count in times.values()),
        "doneWhileQuiesced": moved,
        "waited": waiting,
        "callToLastItemMs": round(stopped_ms, 1),
        "stoppedInTime": stopped_ms <= ITEM_S * 1000 + 500,
    }
    facts["ok"] = not (facts["missing"] or facts["repeated"] or facts["doneWhileQuiesced"]) and facts["stoppedInTime"]
    return facts


def main(arguments: list[str] | None = None) -> int:
    """Run the command; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.fleet.demo_quiesce", description="Stop long tasks politely.")
    parser.add_argument("--json", action="store_true", help="print the facts as one JSON object")
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, _interrupt)
    began = time.monotonic()

    def say(text: str) -> None:
        to = sys.stderr if options.json else sys.stdout
        print(f"{time.monotonic() - began:5.1f} s  {text}", file=to, flush=True)

    try:
        facts = run(say)
    except KeyboardInterrupt:
        print("demo: interrupted; everything it started has been stopped", file=sys.stderr)
        return 130
    except (SluicegateError, OSError, AssertionError, NotInTime) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 2
    if options.json:
        print(json.dumps(facts, indent=2))
    else:
        say(f"{facts['items']} items: {facts['missing']} missing, {facts['repeated']} repeated")
        print("Every item was done exactly once." if facts["ok"] else f"BROKEN: {facts}")
    return 0 if facts["ok"] else 1


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
