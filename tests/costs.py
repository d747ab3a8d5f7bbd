"""A plugin that tells waiting from computing: `make test ARGS="-p tests.costs"`.

For each file: the time that its tests took by the clock, and the processor time of the test process and of everything
that it started. What killed workers' children had used when they were killed is not seen.
"""

from __future__ import annotations

import resource
import time
from collections import defaultdict
from collections.abc import Generator
from dataclasses import astuple, dataclass

import psutil
import pytest

PROPERTY = "costs"
_began = pytest.StashKey["Spent"]()
_by_file: dict[str, Spent] = defaultdict(lambda: Spent())


@dataclass(frozen=True, slots=True)
class Spent:
    """Seconds: by the clock, of processors here, and of processors in child processes."""

    clock: float = 0.0
    here: float = 0.0
    children: float = 0.0

    def plus(self, other: Spent) -> Spent:
        """The sum of two."""
        return Spent(self.clock + other.clock, self.here + other.here, self.children + other.children)

    def since(self, other: Spent) -> Spent:
        """What has been spent since `other`."""
        return Spent(self.clock - other.clock, self.here - other.here, self.children - other.children)

    @staticmethod
    def so_far() -> Spent:
        """By this process and its descendants, those that have ended included."""
        here = resource.getrusage(resource.RUSAGE_SELF)
        ended = resource.getrusage(resource.RUSAGE_CHILDREN)
        children = ended.ru_utime + ended.ru_stime
        for process in psutil.Process().children(recursive=True):
            try:
                children += sum(process.cpu_times()[:4])
            except psutil.Error:  # it has just ended
                continue
        return Spent(time.monotonic(), here.ru_utime + here.ru_stime, children)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None]:
    """Note what had been spent before."""
    item.stash[_began] = Spent.so_far()
    return (yield)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None]:
    """Send what was spent along with the report of the last phase."""
    try:
        return (yield)
    finally:
        item.user_properties.append((PROPERTY, astuple(Spent.so_far().since(item.stash[_began]))))


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Add it up, where all reports come together."""
    if report.when == "teardown":
        for name, value in report.user_properties:
            if name == PROPERTY and isinstance(value, (list, tuple)):
                file = report.nodeid.partition("::")[0]
                _by_file[file] = _by_file[file].plus(Spent(*value))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The files, the longest first."""
    if not _by_file:
        return
    terminalreporter.section("seconds: by the clock, of processors here, in child processes")
    total = Spent()
    for file, spent in sorted(_by_file.items(), key=lambda entry: -entry[1].clock):
        terminalreporter.line(f"{spent.clock:8.1f} {spent.here:8.1f} {spent.children:8.1f}  {file}")
        total = total.plus(spent)
    terminalreporter.line(f"{total.clock:8.1f} {total.here:8.1f} {total.children:8.1f}  all")
