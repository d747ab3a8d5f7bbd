"""The demo: a real fleet on real work is paused, robbed of a worker and of its broker, resumed, and proved.

    python -m tests.fleet.demo [--json]

Two prefork workers compress and digest every `.py` file of the running Python's standard library, one task a
file, some with a countdown. In the middle the fleet is paused; a paused worker is killed and started again;
Valkey is restarted; the fleet is resumed. What happened is then judged by the checker, from what the tasks
wrote about themselves and what lay in the broker. Exit code 0: every promise held; 1: one was broken; 2: the
demo could not run.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import signal
import sys
import sysconfig
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType, TracebackType
from typing import Protocol, Self

from sluicegate.control.process.stack import Stack
from sluicegate.schemas.errors import SluicegateError
from tests.fleet.harness import Fleet, Worker
from tests.fleet.records import Event
from tests.fleet.waiting import NotInTime, until

SLOTS = 2
PREFETCH = 4
PAUSE_AT = 0.3
COUNTDOWN_EVERY = 25
COUNTDOWNS_S = (2, 4, 6, 8, 10, 12)
REASON = "sluicegate demo"


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What the demo has to say; `--json` prints it as it stands."""

    ok: bool
    broken: dict[str, int]
    python: str
    files: int
    with_countdown: int
    workers: int
    done: int
    starts_after_acknowledgement: int
    lost: int
    duplicated: int
    displaced: int
    wrong_digests: int
    call_to_acknowledged_ms: float | None
    call_to_last_start_ms: float | None
    handed_back_and_waiting: int
    done_before_pause: int
    started_while_paused: int
    due_while_paused: int
    seconds_paused: float
    seconds: float

    def to_json(self) -> str:
        """One JSON object with camelCase keys."""
        return json.dumps({_camel(name): value for name, value in asdict(self).items()}, indent=2)


def _camel(name: str) -> str:
    head, *tail = name.split("_")
    return head + "".join(word.capitalize() for word in tail)


# --- what is shown ---------------------------------------------------------------------------------------


class Screen(Protocol):
    """Where progress goes."""

    def say(self, text: str) -> None:
        """One step that has been taken."""
        ...

    def following(self, total: int, look: Callable[[], int]) -> AbstractContextManager[object]:
        """Show `look()` of `total` while the body runs."""
        ...


class PlainScreen:
    """Lines of text, each with the seconds since the beginning; for logs, pipes and `--json` (on stderr)."""

    def __init__(self) -> None:
        self._began = time.monotonic()

    def say(self, text: str) -> None:
        print(f"{time.monotonic() - self._began:5.1f} s  {text}", file=sys.stderr, flush=True)

    def following(self, total: int, look: Callable[[], int]) -> AbstractContextManager[object]:
        return nullcontext()


class LiveScreen:
    """A bar that moves, and the steps above it; for a terminal."""

    def __init__(self) -> None:
        from rich.console import Console

        self._began = time.monotonic()
        self._console = Console(stderr=True, highlight=False)

    def say(self, text: str) -> None:
        self._console.print(f"[dim]{time.monotonic() - self._began:5.1f} s[/]  {text}")

    def following(self, total: int, look: Callable[[], int]) -> AbstractContextManager[object]:
        return _Bar(self._console, total, look)


class _Bar:
    """A rich bar that asks `look` ten times a second."""

    def __init__(self, console: object, total: int, look: Callable[[], int]) -> None:
        import threading

        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        assert isinstance(console, Console)
        self._progress = Progress(
            TextColumn("        files"), BarColumn(), MofNCompleteColumn(), console=console, transient=True
        )
        self._task = self._progress.add_task("files", total=total)
        self._look = look
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="bar", daemon=True)

    def __enter__(self) -> Self:
        self._progress.start()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        self._progress.stop()

    def _run(self) -> None:
        while not self._stop.wait(0.1):
            self._progress.update(self._task, completed=self._look())


# --- the work --------------------------------------------------------------------------------------------


def library_files() -> list[Path]:
    """Every `.py` file of the running Python's standard library; what was installed beside it is left out."""
    root = Path(sysconfig.get_path("stdlib"))
    if not root.is_dir():
        raise NotReady(f"this Python has no standard library on disk ({root})")
    found: list[Path] = []
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if name not in ("site-packages", "dist-packages", "__pycache__"))
        found += [Path(folder, name) for name in sorted(names) if name.endswith(".py")]
    readable = [path for path in found if os.access(path, os.R_OK)]
    if not readable:
        raise NotReady(f"no .py file of the standard library can be read under {root}")
    return readable


def expected_digest(path: Path) -> str:
    """The digest that a task must come to, worked out here from the file alone."""
    compressor = zlib.compressobj(9)
    digest = hashlib.sha256(compressor.compress(path.read_bytes()))
    digest.update(compressor.flush())
    return digest.hexdigest()


class NotReady(Exception):
    """The demo cannot run here; one line says why."""


def run(screen: Screen) -> Facts:
    """Run the demo and judge it. Raises NotReady, SluicegateError, NotInTime or AssertionError."""
    began = time.monotonic()
    files = library_files()
    screen.say(f"Python {platform.python_version()}: {len(files):,} .py files in its standard library")
    with (
        tempfile.TemporaryDirectory(prefix="sluicegate-demo-", ignore_cleanup_errors=True) as directory,
        Stack(Path(directory) / "stack", actor="demo") as stack,
    ):
        screen.say("Postgres, Valkey and the control plane are up")
        with Fleet(stack, prefetch=PREFETCH, host="demo") as fleet, ThreadPoolExecutor(2) as pool:
            play = _Play(stack, fleet, files, screen, pool)
            play.act()
            facts = play.judge(began)
    return facts


class _Play:
    """The demo's acts, in order."""

    def __init__(self, stack: Stack, fleet: Fleet, files: list[Path], screen: Screen, pool: ThreadPoolExecutor) -> None:
        self.stack = stack
        self.fleet = fleet
        self.files = files
        self.screen = screen
        self.pool = pool
        self.paused_s = 0.0
        self.done_before_pause = 0
        self.due_while_paused = 0
        self.waiting = 0
        self.expected: list[Future[str]] = []

    def act(self) -> None:
        """Everything that happens."""
        fleet, say = self.fleet, self.screen.say
        fleet.watch()
        for name in ("w1", "w2"):
            fleet.start(name, slots=SLOTS, arguments=(), wait=False)
        fleet.wait_ready()
        fleet.wait_open()
        say(f"two prefork workers with {SLOTS} slots each, prefetch {PREFETCH}, are open")
        with self.screen.following(len(self.files), lambda: len(fleet.ended())):
            dues = self._send()
            until(
                "work is under way",
                lambda: len(fleet.ended()) >= len(self.files) * PAUSE_AT,
                within_s=60,
            )
            self._pause()
            paused_at = time.time()
            self._kill_a_worker()
            self._restart_valkey()
            self._wait_for_countdowns(dues, paused_at)
            self._resume(paused_at)
            fleet.wait_done(within_s=60)
        say(f"all {len(self.files):,} files are done")

    def _send(self) -> list[float]:
        dues: list[float] = []
        for number, path in enumerate(self.files):
            countdown_s = None
            if number % COUNTDOWN_EVERY == 0:
                countdown_s = float(COUNTDOWNS_S[len(dues) % len(COUNTDOWNS_S)])
                dues.append(time.time() + countdown_s)
            self.fleet.send("digest", str(path), countdown_s=countdown_s)
        self.screen.say(f"{len(self.files):,} tasks sent, {len(dues)} of them with a countdown")
        return dues

    def _pause(self) -> None:
        fleet, say = self.fleet, self.screen.say
        call = fleet.pause(REASON)
        say(f"PAUSE ordered: version {call.edition[1]}, mode drain")
        fleet.wait_acknowledged()
        said = {word.nodename: word.applied_at_us for word in fleet.words()}
        for nodename, at_us in sorted(said.items()):
            say(f"  {nodename} acknowledged after {((at_us or 0) - call.at_us) / 1000:.1f} ms")
        drained = fleet.wait_drained()
        until("the control plane says drained", lambda: fleet.client.read().body.metrics.is_drained)
        self.done_before_pause = len(fleet.ended())
        self.waiting = len(drained.contents.queued)
        say(
            f"DRAINED: {self.done_before_pause:,} done, {self.waiting:,} wait in the queue, "
            f"{len(drained.contents.unacked)} left with a worker"
        )
        # The workers rest, so this takes nothing from them.
        self.expected = [self.pool.submit(expected_digest, path) for path in self.files]

    def _kill_a_worker(self) -> None:
        worker = self.fleet.workers["w1"]
        before = _incarnation(self.fleet, worker)
        worker.kill()
        self.screen.say(f"killed {worker.nodename} (SIGKILL, children too)")
        self.fleet.restart("w1")
        until("the new life is seen", lambda: _incarnation(self.fleet, worker) != before)
        self.fleet.wait_acknowledged("w1")
        self.screen.say(f"  started again: {worker.nodename} says paused before it consumed anything")

    def _restart_valkey(self) -> None:
        self.stack.valkey.restart()
        back_at = time.time()
        self.screen.say("restarted Valkey: the broker, and the state that workers follow")

        def are_back() -> bool:
            workers = self.fleet.client.workers().body.workers
            ours = {worker.nodename for worker in self.fleet.workers.values()}
            fresh = [w for w in workers if w.nodename in ours and w.last_seen_at.timestamp() > back_at]
            return len(fresh) == len(ours) and all(w.state == "paused" for w in fresh)

        until("both workers are heard again, paused", are_back, within_s=30, every_s=0.1)
        self.screen.say("  both workers are back, and still paused")

    def _wait_for_countdowns(self, dues: list[float], paused_at: float) -> None:
        def overdue() -> int:
            return sum(paused_at < due < time.time() for due in dues)

        until("countdowns have fallen due in the pause", overdue, within_s=15, every_s=0.1)
        self.due_while_paused = overdue()
        self.screen.say(f"{self.due_while_paused} countdowns fell due in the pause, and wait")

    def _resume(self, paused_at: float) -> None:
        until("the control plane says drained", lambda: self.fleet.client.read().body.metrics.is_drained)
        call = self.fleet.resume(REASON, force=False)
        self.paused_s = time.time() - paused_at
        self.screen.say(f"RESUMED after {self.paused_s:.1f} s: version {call.edition[1]}")

    def judge(self, began: float) -> Facts:
        """The checker's verdict, and the digests compared with those worked out here."""
        verdict = self.fleet.check()
        found = {r.seq: r.note for r in self.fleet.read_records() if r.event is Event.END}
        wrong = sum(found.get(seq) != future.result() for seq, future in enumerate(self.expected))
        broken = verdict.broken | ({"wrong digests": wrong} if wrong else {})
        (pause,) = verdict.pauses
        resumed = next(call.at_us for call in self.fleet.calls if not call.is_paused)
        drained_at = self.fleet.drained[0].at_us
        return Facts(
            ok=not broken and len(found) == len(self.files),
            broken=broken,
            python=platform.python_version(),
            files=len(self.files),
            with_countdown=sum(sent.waits for sent in self.fleet.sent),
            workers=len(self.fleet.workers),
            done=len(found),
            starts_after_acknowledgement=len(verdict.late_starts),
            lost=len(verdict.lost) + len(verdict.interrupted),
            duplicated=len(verdict.duplicated),
            displaced=len(verdict.displaced),
            wrong_digests=wrong,
            call_to_acknowledged_ms=_ms(pause.acknowledged_us),
            call_to_last_start_ms=_ms(pause.last_start_us),
            handed_back_and_waiting=self.waiting,
            done_before_pause=self.done_before_pause,
            started_while_paused=sum(drained_at < at < resumed for at in _starts(self.fleet)),
            due_while_paused=self.due_while_paused,
            seconds_paused=round(self.paused_s, 1),
            seconds=round(time.monotonic() - began, 1),
        )


def _incarnation(fleet: Fleet, worker: Worker) -> str:
    return next((word.incarnation for word in fleet.words() if word.nodename == worker.nodename), "")


def _starts(fleet: Fleet) -> Iterator[int]:
    return (record.at_us for record in fleet.read_records() if record.event is Event.START)


def _ms(microseconds: int | None) -> float | None:
    return None if microseconds is None else round(microseconds / 1000, 1)


# --- the command -----------------------------------------------------------------------------------------


def show(facts: Facts) -> None:
    """The summary table on stdout."""
    from rich.console import Console
    from rich.table import Table

    rows = [
        ("files digested", f"{facts.done:,} of {facts.files:,}, each exactly once"),
        ("pause called → last start", f"{facts.call_to_last_start_ms} ms"),
        ("pause called → both workers acknowledged", f"{facts.call_to_acknowledged_ms} ms"),
        ("starts after acknowledgement", str(facts.starts_after_acknowledgement)),
        (f"starts in {facts.seconds_paused} s of pause", str(facts.started_while_paused)),
        ("countdowns that fell due in the pause", f"{facts.due_while_paused}, none started"),
        ("lost", str(facts.lost)),
        ("duplicated", str(facts.duplicated)),
        ("out of order", str(facts.displaced)),
        ("wrong digests", str(facts.wrong_digests)),
        ("took", f"{facts.seconds} s"),
    ]
    if facts.done != facts.files:
        rows[0] = ("files digested", f"{facts.done:,} of {facts.files:,}")
    if facts.started_while_paused:
        rows[5] = ("countdowns that fell due in the pause", str(facts.due_while_paused))
    table = Table(title="Proof, from what the tasks themselves wrote down", title_justify="left", show_header=False)
    for name, value in rows:
        table.add_row(name, value)
    console = Console(highlight=False)
    console.print(table)
    console.print("Every promise held." if facts.ok else f"BROKEN: {facts.broken}")


def main(arguments: list[str] | None = None) -> int:
    """Run the command; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.fleet.demo", description="See a fleet pause and prove it.")
    parser.add_argument("--json", action="store_true", help="print the facts as one JSON object")
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, _interrupt)
    screen: Screen = PlainScreen() if options.json or not sys.stderr.isatty() else LiveScreen()
    try:
        facts = run(screen)
    except KeyboardInterrupt:
        print("demo: interrupted; everything it started has been stopped", file=sys.stderr)
        return 130
    except NotInTime as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    except (NotReady, SluicegateError, OSError, AssertionError) as error:
        print(f"demo: cannot run here: {error}", file=sys.stderr)
        return 2
    if options.json:
        print(facts.to_json())
    else:
        show(facts)
    return 0 if facts.ok else 1


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
