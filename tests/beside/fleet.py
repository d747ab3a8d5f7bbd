"""A fleet whose workers run in the environment of a library, with the library in force."""

from __future__ import annotations

import signal
import time
from collections import Counter
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Self

from sluicegate.control.embedded.process import ServerProcess
from sluicegate.control.process.stack import Stack
from sluicegate.schemas import settings
from tests.beside.collector import Collector
from tests.beside.libraries import Library
from tests.fleet import broker
from tests.fleet.broker import Contents
from tests.fleet.checker import Sent
from tests.fleet.harness import ROOT, Fleet, Worker, _inherited
from tests.fleet.records import microseconds
from tests.fleet.waiting import WITHIN_S, until

ENVIRONMENTS = ROOT / ".venv" / "beside"


def python_of(group: str) -> str:
    """The interpreter of a lock's environment; raises AssertionError where it was not made."""
    python = ENVIRONMENTS / group / "bin" / "python"
    assert (ENVIRONMENTS / group / ".lock").exists(), f"{python} is not there: run `make beside`, or .ci/beside {group}"
    return str(python)


class BesideFleet(Fleet):
    """A `Fleet` with `library` in its workers, and what the library sends home or tells the witness."""

    def __init__(
        self,
        stack: Stack,
        library: Library,
        *,
        plugin: bool = True,
        pool: str = "prefork",
        acks_late: bool = False,
        environ: dict[str, str] | None = None,
    ) -> None:
        super().__init__(stack, plugin=plugin, pool=pool, acks_late=acks_late, python=python_of(library.group))
        self.library = library
        self.collector = Collector().__enter__()
        self.watched_at = ""
        self.witness = self.directory / "witness"
        self._extra |= {
            "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}",
            "BESIDE_WITNESS": str(self.witness),
            "BESIDE_COLLECTOR": f"http://{self.collector.address}",
            "BESIDE_DATABASE": str(self.directory / "database"),
            **{name: value.replace("COLLECTOR", self.collector.address) for name, value in library.environ.items()},
            **{name: self._place(value) for name, value in library.places.items()},
            **(environ or {}),
        }

    def _place(self, text: str) -> str:
        broker_url = self.stack.environ[settings.BROKER_URL.name]
        return text.replace("DIRECTORY", str(self.directory)).replace("BROKER", broker_url)

    def close(self) -> None:
        """As a fleet's, and the collector's end."""
        try:
            super().close()
        finally:
            self.collector.__exit__(None, None, None)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)

    def begin(self, *, slots: int = 2, arguments: Sequence[str] = ()) -> Worker:
        """Start the one worker, and return once it may start tasks."""
        for steps in self.library.before:
            self.program(*steps)
        quiet = ("--without-mingle", *(() if self.library.events else ("--without-gossip",)), *arguments)
        if self.plugin:
            self.watch()
        worker = self.start(slots=slots, module=self.library.module, arguments=quiet)
        if self.plugin:
            self.wait_open()
        return worker

    def start_program(self, name: str, command: Sequence[str]) -> ServerProcess:
        """Start a program beside the worker, with the worker's environment; whoever starts it stops it."""
        environ = {**_inherited(), **self._settings, **self._ours, **self._extra}
        return ServerProcess(command, self.directory / f"{name}.log", signal.SIGKILL, environ=environ)

    def program(self, *arguments: str) -> list[str]:
        """Run the library's module as a program, in its environment; the lines that it printed."""
        done = self.run([self.python, "-m", self.library.module, *arguments], within_s=120)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.splitlines()

    def numbers(self, count: int) -> list[int]:
        """Numbers for `count` tasks that somebody else sends; they count as sent from now on."""
        numbers = list(islice(self._next_seq, count))
        self.sent += [Sent(seq=seq, at_us=microseconds(time.time())) for seq in numbers]
        return numbers

    def send_work(self, count: int, task: str | None = None) -> list[int]:
        """Send `count` tasks of the library's kind, or of another; their numbers."""
        numbers = list(islice(self._next_seq, count))
        name = task or self.library.task
        with self.sender.producer_pool.acquire(block=True) as producer:
            for seq in numbers:
                self.sender.send_task(name, args=self.library.arguments_of(name, seq), producer=producer)
                self.sent.append(Sent(seq=seq, at_us=microseconds(time.time())))
        return numbers

    def contents(self) -> Contents:
        """What lies in the broker, by the numbers of the library's tasks."""
        return broker.read(self.redis, self.queue, self.library.number_of)

    def witnessed(self) -> list[tuple[str, str]]:
        """What the library was seen to do: kind and note, in the order in which it was told."""
        lines = self.witness.read_text().splitlines() if self.witness.exists() else []
        return [(kind, note) for kind, _, note in (line.partition("\t") for line in lines)]

    def own_work(self) -> Counter[str]:
        """What the library has done so far, by its own kinds."""
        return self.library.count(self)

    def wait_own_work(self, wanted: Counter[str], *, within_s: float = WITHIN_S) -> None:
        """Return once the library has done what is `wanted`; it may do so a moment after its task has ended.

        Where it never does, the comparison that follows says what it did.
        """
        try:
            until("the library has done its work", lambda: self.own_work() == wanted, within_s=within_s, every_s=0.1)
        except AssertionError:
            return

    def database(self) -> Path:
        """The file of the library's database."""
        return self.directory / "database"
