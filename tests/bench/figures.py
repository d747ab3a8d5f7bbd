"""All that one run of `make bench` found, and the table that shows it."""

from __future__ import annotations

import math
import os
import platform
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version

from tests.bench.gate_check import GateCheck
from tests.bench.hot_path import PER_TASK, Cost, excess
from tests.bench.intervals import CONFIDENCE, Estimate, at_least, at_most, median, none_of
from tests.bench.leaks import Leak
from tests.bench.pauses import IDLE_TASKS, Paused
from tests.bench.throughput import SLOTS, Throughput, cpu_us, net_us, rate

P99 = 0.99
CHECK_NS = 300
RATIO = 0.98
LAST_START_MS = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """One run. `pauses`: by `gate`, `cancel_consumer` and `suspend`."""

    check: GateCheck
    speed: Throughput
    costs: tuple[Cost, Cost]
    pauses: dict[str, Paused]


Row = tuple[str, str, str, str, str]


def table(figures: Figures) -> str:
    """The table, as Markdown, with the line that says what it was measured on."""
    head: list[Row] = [("what", "here", "reference, same run", "ratio", "to reach"), ("---",) * 5]
    rows = [*head, *_checks(figures.check), *_speed(figures.speed), *_hot_path(*figures.costs)]
    rows += _pauses(figures.pauses)
    rows.append(("pause call → in force on 10 to 10,000 followers", "`make bench-scale`", "a bare PUBLISH", "", ""))
    return "\n".join([*("| " + " | ".join(row) + " |" for row in rows), "", _machine()])


def missed(figures: Figures) -> list[str]:
    """The targets that this run shows to be missed, whatever chance did: the whole interval lies beyond."""
    found = []
    if figures.check.check.low > CHECK_NS:
        found.append(f"gate check above {CHECK_NS} ns")
    if figures.check.checkpoint.low > CHECK_NS:
        found.append(f"checkpoint() above {CHECK_NS} ns")
    if figures.speed.ratio.high < RATIO:
        found.append(f"throughput below {RATIO} of plain Celery")
    if more := excess(*figures.costs):
        found.append(f"more than plain Celery sends or writes for each task: {more}")
    gate = figures.pauses["gate"]
    if gate.busy.late_starts or any(gate.idle_starts) or any(gate.restart_starts):
        found.append("starts after an acknowledgement")
    if at_least(gate.busy.last_start_ms, P99) > LAST_START_MS:
        found.append(f"call to last start p99 above {LAST_START_MS} ms")
    return found


def untold(figures: Figures) -> list[str]:
    """The targets of which this run cannot tell whether they are reached: they lie within the interval."""
    ratio = figures.speed.ratio
    found = []
    if ratio.low < RATIO <= ratio.high:
        found.append(f"throughput {_span(ratio, digits=3)} of plain Celery, to reach {RATIO}")
    last_starts = figures.pauses["gate"].busy.last_start_ms
    if at_least(last_starts, P99) <= LAST_START_MS < at_most(last_starts, P99).high:
        found.append(f"call to last start p99 {_p99(figures.pauses['gate'].busy)}, to reach {LAST_START_MS} ms")
    return found


def _checks(check: GateCheck) -> list[Row]:
    return [
        (
            "gate check and critical section, running (median)",
            f"{_span(check.check)} ns",
            _get(check.redis_get),
            f"1 : {check.redis_get.value / check.check.value:,.0f}",
            f"≤ {CHECK_NS} ns",
        ),
        ("of that, the lock alone (median)", f"{_span(check.lock)} ns", "", "", ""),
        (
            "`checkpoint()` in a task in a prefork child, running (median)",
            f"{_span(check.checkpoint)} ns",
            f"{_get(check.child_get)}, in the same task",
            f"1 : {check.child_get.value / check.checkpoint.value:,.0f}",
            f"≤ {CHECK_NS} ns",
        ),
    ]


def _get(get: Estimate) -> str:
    return f"Redis GET {_span(get, 1e-3)} µs"


def _speed(speed: Throughput) -> list[Row]:
    return [
        (
            f"no-op tasks a second, prefork, {SLOTS} slots ({len(speed.ratios)} pairs of workers)",
            f"{rate(speed.plugin):,.0f}",
            f"plain Celery {rate(speed.vanilla):,.0f}",
            _span(speed.ratio, digits=3),
            f"≥ {RATIO}",
        ),
        (
            "time of a no-op task, less what the worker's main thread waited for a processor",
            f"{net_us(speed.plugin):,.0f} µs",
            f"plain Celery {net_us(speed.vanilla):,.0f} µs",
            f"throughput {_span(speed.net_ratio, digits=3)}",
            "",
        ),
        (
            "processor time of a no-op task, all of the worker's processes",
            f"{cpu_us(speed.plugin):,.0f} µs",
            f"plain Celery {cpu_us(speed.vanilla):,.0f} µs",
            _span(speed.cpu_ratio, digits=3),
            "",
        ),
    ]


def _hot_path(ours: Cost, plain: Cost) -> list[Row]:
    return [
        (
            "Redis commands a no-op task",
            f"{ours.command_count:.3f}",
            f"plain Celery {plain.command_count:.3f}",
            f"{ours.command_count - plain.command_count:+.3f}",
            f"none more often by {PER_TASK}",
        ),
        (
            "Postgres transactions that write, a no-op task",
            f"{_no_minus_zero(ours.writes)}",
            f"plain Celery {_no_minus_zero(plain.writes)}",
            f"{ours.writes - plain.writes:+.3f}",
            f"< {PER_TASK} more",
        ),
    ]


def _pauses(pauses: dict[str, Paused]) -> list[Row]:
    gate, cancel, suspend = (pauses[name] for name in ("gate", "cancel_consumer", "suspend"))
    bound = f" (at most {none_of(len(gate.busy.pauses)):.1%} of pauses)" if not gate.busy.late_starts else ""
    return [
        (
            f"starts after acknowledgement, {len(gate.busy.pauses)} pauses",
            f"{gate.busy.late_starts}{bound}",
            f"`cancel_consumer` {_leaks(cancel.busy)}; RQ `suspend` {_leaks(suspend.busy)}",
            "",
            "0",
        ),
        (
            "pause call → acknowledged (median)",
            f"{_span(median(gate.busy.acknowledged_ms))} ms",
            f"`cancel_consumer` {_span(median(cancel.busy.acknowledged_ms))} ms; RQ acknowledges nothing",
            "",
            "",
        ),
        (
            "pause call → last start (median)",
            f"{_span(median(gate.busy.last_start_ms))} ms",
            f"`cancel_consumer` {_span(median(cancel.busy.last_start_ms))} ms; "
            f"RQ `suspend` {_span(median(suspend.busy.last_start_ms))} ms",
            "",
            "",
        ),
        (
            "pause call → last start (p99)",
            _p99(gate.busy),
            f"`cancel_consumer` {max(cancel.busy.last_start_ms):.0f} ms, RQ `suspend` "
            f"{max(suspend.busy.last_start_ms):.0f} ms at worst",
            "",
            f"≤ {LAST_START_MS} ms",
        ),
        (
            f"starts of {IDLE_TASKS} tasks sent to idle workers after the acknowledgement (mean of "
            f"{len(gate.idle_starts)})",
            f"{statistics.mean(gate.idle_starts):.1f}",
            f"`cancel_consumer` {statistics.mean(cancel.idle_starts):.1f}; RQ `suspend` "
            f"{statistics.mean(suspend.idle_starts):.1f}",
            "",
            "0",
        ),
        (
            f"starts of {2 * IDLE_TASKS} waiting tasks after kill -9 and a new start while paused (mean of "
            f"{len(gate.restart_starts)})",
            _restarted(gate),
            f"`cancel_consumer` {_restarted(cancel)}; RQ `suspend` {_restarted(suspend)}",
            "",
            "0",
        ),
    ]


def _leaks(leak: Leak) -> str:
    return f"{leak.late_starts}, in {leak.leaky_pauses} of {len(leak.pauses)} pauses"


def _restarted(paused: Paused) -> str:
    return f"{statistics.mean(paused.restart_starts):.1f}" + ("" if paused.restarts else " (its workers end at once)")


def _p99(leak: Leak) -> str:
    found = at_most(leak.last_start_ms, P99)
    beyond = "" if math.isinf(found.high) else f" ({CONFIDENCE:.0%}: at most {found.high:.0f} ms)"
    return f"{found.value:.0f} ms{beyond}"


def _no_minus_zero(value: float) -> str:
    return f"{round(value, 3) + 0.0:.3f}"


def _span(estimate: Estimate, scale: float = 1.0, digits: int = 0) -> str:
    """The estimate and its interval, where the sample is large enough for one."""
    value = f"{estimate.value * scale:.{digits}f}"
    if math.isinf(estimate.high):
        return value
    return f"{value} ({estimate.low * scale:.{digits}f}-{estimate.high * scale:.{digits}f})"


def _machine() -> str:
    packages: Sequence[tuple[str, str]] = (
        ("Celery", "celery"),
        ("kombu", "kombu"),
        ("redis-py", "redis"),
        ("RQ", "rq"),
    )
    versions = ", ".join(f"{name} {version(package)}" for name, package in packages)
    return (
        f"Measured on {os.cpu_count()} processors ({platform.machine()}), Python {platform.python_version()}, "
        f"{versions}. In parentheses: {CONFIDENCE:.0%} intervals."
    )
