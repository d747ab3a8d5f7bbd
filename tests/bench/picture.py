"""The picture of docs/benchmarks.md: what stands in the table, drawn. The same figures give the same bytes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.bench.figures import LAST_START_MS, RATIO, Figures

OURS, CELERY, RQ, REFERENCE = "#1b6ca8", "#d9822b", "#7a7a7a", "#444444"


def draw(figures: Figures, path: Path) -> None:
    """Write an SVG."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    # Ids come from a salt and not from chance, text stays text, and no date is written.
    with mpl.rc_context({"svg.hashsalt": "sluicegate", "svg.fonttype": "none", "font.size": 9}):
        figure = Figure(figsize=(11, 3.6), layout="constrained")
        pairs, starts, costs = figure.subplots(1, 3)
        _pairs(pairs, figures)
        _last_starts(starts, figures)
        _costs(costs, figures)
        figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})
    # matplotlib ends lines of path data with blanks.
    path.write_text("".join(f"{line.rstrip()}\n" for line in path.read_text().splitlines()))


def _pairs(axes: Any, figures: Figures) -> None:
    ratios, found = figures.speed.ratios, figures.speed.ratio
    axes.plot(range(1, len(ratios) + 1), ratios, ".", color=OURS, alpha=0.5)
    axes.axhspan(found.low, found.high, color=OURS, alpha=0.25, label=f"median {found.value:.3f}, 95 % interval")
    axes.axhline(RATIO, color=REFERENCE, linestyle=":", label=f"to reach: {RATIO}")
    axes.set(title="Throughput, plugin : plain Celery", xlabel="pair of workers", ylabel="ratio")
    axes.legend(loc="lower right")


def _last_starts(axes: Any, figures: Figures) -> None:
    ways = (("gate", "sluicegate", OURS), ("cancel_consumer", "cancel_consumer", CELERY), ("suspend", "RQ suspend", RQ))
    for name, label, color in ways:
        times = sorted(figures.pauses[name].busy.last_start_ms)
        shares = [(number + 1) / len(times) for number in range(len(times))]
        axes.step([0.0, *times], [0.0, *shares], where="post", label=f"{label}, {len(times)} pauses", color=color)
    axes.axvline(LAST_START_MS, color=REFERENCE, linestyle=":", label=f"to reach: {LAST_START_MS} ms")
    axes.set(
        title="Last start after a pause was called", xlabel="milliseconds", ylabel="share of pauses", ylim=(0, 1.02)
    )
    axes.legend(loc="lower right")


def _costs(axes: Any, figures: Figures) -> None:
    check = figures.check
    bars = {
        "its lock": check.lock.value,
        "checkpoint()": check.checkpoint.value,
        "gate check": check.check.value,
        "Redis GET": check.redis_get.value,
    }
    drawn = axes.barh(list(bars), list(bars.values()), color=[OURS, OURS, OURS, REFERENCE])
    axes.bar_label(drawn, labels=[f" {value:,.0f} ns" for value in bars.values()])
    axes.set_xscale("log")
    axes.set(title="One look, while running", xlabel="nanoseconds (median)", xlim=(10, 3e6))
