"""What the benchmarks say of a sample, and how they show it."""

from __future__ import annotations

import math
import random
import statistics
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from tests.bench import figures, intervals, page, picture
from tests.bench.figures import Figures
from tests.bench.gate_check import GateCheck
from tests.bench.hot_path import Cost, Count, cost
from tests.bench.intervals import Estimate
from tests.bench.leaks import Leak, OnePause
from tests.bench.pauses import Paused
from tests.bench.throughput import Block, Throughput


def test_the_interval_of_a_median_covers_it_as_often_as_it_says() -> None:
    chance = random.Random(7)
    hits = 0
    for _ in range(2000):
        found = intervals.median([chance.gauss(0, 1) for _ in range(25)])
        assert found.low <= found.value <= found.high
        hits += found.low <= 0 <= found.high
    # The exact cover for 25 is 95.7 %; a third of a percent is what 2,000 samples leave open, three times over.
    assert 0.943 <= hits / 2000 <= 0.971


def test_the_interval_of_a_median_is_the_textbooks() -> None:
    """Of ten values the second smallest and the second greatest; of five there is none."""
    assert intervals.median(range(10)) == Estimate(4.5, 1, 8)
    assert math.isinf(intervals.median(range(5)).high)


def test_a_p99_needs_299_values_before_it_is_at_most_anything() -> None:
    assert math.isinf(intervals.at_most(range(298), 0.99).high)
    assert intervals.at_most(range(299), 0.99) == Estimate(296, -math.inf, 298)
    assert intervals.at_most(range(1000), 0.99).high == 995


def test_a_quantile_is_at_least_what_hardly_fewer_lie_below() -> None:
    assert intervals.at_least(range(10), 0.5) == 1
    assert intervals.at_least([*[1.0] * 37, 60.0, 60.0, 60.0], 0.99) == 60


def test_none_of_three_hundred_is_less_than_one_in_a_hundred() -> None:
    assert intervals.none_of(300) == pytest.approx(0.00994, abs=1e-5)


def test_what_passing_time_explains_is_not_the_tasks() -> None:
    idle = Count(seconds=4.0, commands=Counter(GET=8, BRPOP=4), writes=8)
    busy = Count(seconds=2.0, commands=Counter(GET=4, BRPOP=102, SET=50), writes=104)
    assert cost(idle, busy, 100) == Cost(commands={"BRPOP": 1.0, "GET": 0.0, "SET": 0.5}, writes=1.0)


GET = Estimate(9e4, 8e4, 1e5)
PLAIN = Cost(commands={"BRPOP": 1.0}, writes=0.0)


def made_up(**changes: object) -> Figures:
    chance = random.Random(3)
    leak = Leak(pauses=tuple(OnePause(called_us=0, acknowledged_us=9_000, last_start_us=n) for n in range(300)))
    blocks = tuple(Block(wall_s=0.001, net_s=0.0009, cpu_s=0.0005) for _ in range(8))
    ratios = tuple(chance.gauss(1, 0.03) for _ in range(60))
    figure = Estimate(100.0, 99.0, 101.0)
    found = Figures(
        check=GateCheck(check=figure, lock=figure, redis_get=GET, checkpoint=figure, child_get=GET),
        speed=Throughput(plugin=blocks, vanilla=blocks, ratios=ratios, net_ratios=ratios, cpu_ratios=ratios),
        costs=(PLAIN, PLAIN),
        pauses={
            name: Paused(busy=leak, idle_starts=(0, 0), restart_starts=(0,))
            for name in ("gate", "cancel_consumer", "suspend")
        },
    )
    return replace(found, **changes)  # type: ignore[arg-type]


TOO_SLOW = Estimate(302.0, 301.0, 303.0)
SLOW = GateCheck(check=TOO_SLOW, lock=TOO_SLOW, redis_get=GET, checkpoint=TOO_SLOW, child_get=GET)


def test_figures_that_reach_all_targets_miss_none() -> None:
    assert figures.missed(made_up()) == figures.untold(made_up()) == []


def test_a_target_within_the_interval_is_neither_reached_nor_missed() -> None:
    wide = Throughput(plugin=(), vanilla=(), ratios=(0.96, 1.0) * 20, net_ratios=(), cpu_ratios=())
    few = Leak(pauses=(OnePause(called_us=0, acknowledged_us=1, last_start_us=1),))
    found = made_up(speed=wide, pauses={"gate": Paused(busy=few, idle_starts=(0,), restart_starts=(0,))})
    assert figures.missed(found) == []
    assert [line.split()[0] for line in figures.untold(found)] == ["throughput", "call"]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"costs": (Cost(commands={"BRPOP": 0.9, "SET": 0.01}, writes=0.0), PLAIN)}, "{'SET': 0.01}"),
        ({"costs": (Cost(commands={"BRPOP": 1.0}, writes=0.02), PLAIN)}, "Postgres"),
        ({"speed": Throughput(plugin=(), vanilla=(), ratios=(0.97,) * 40, net_ratios=(), cpu_ratios=())}, "throughput"),
        ({"check": SLOW}, "gate check"),
        ({"check": SLOW}, "checkpoint()"),
        (
            {
                "pauses": {
                    "gate": Paused(
                        busy=Leak(pauses=(OnePause(called_us=0, acknowledged_us=1, last_start_us=60_000),)),
                        idle_starts=(0,),
                        restart_starts=(1,),
                    )
                }
            },
            "starts after",
        ),
    ],
)
def test_a_target_that_is_missed_is_named(changes: dict[str, object], says: str) -> None:
    assert any(says in target for target in figures.missed(made_up(**changes)))


def test_the_table_has_as_many_cells_in_each_row_and_names_its_references() -> None:
    rows = [line for line in figures.table(made_up()).splitlines() if line.startswith("|")]
    assert {row.count("|") for row in rows} == {6}
    for reference in ("Redis GET", "plain Celery", "cancel_consumer", "RQ `suspend`", "make bench-scale"):
        assert any(reference in row for row in rows), reference


# On the oldest versions matplotlib calls its parser by names that are old by now.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_same_figures_draw_the_same_picture(tmp_path: Path) -> None:
    first, second = tmp_path / "a.svg", tmp_path / "b.svg"
    picture.draw(made_up(), first)
    picture.draw(made_up(), second)
    assert first.read_bytes() == second.read_bytes()
    assert f"median {statistics.median(made_up().speed.ratios):.3f}" in first.read_text()


def test_what_started_after_the_acknowledgement_is_late() -> None:
    pause = OnePause(called_us=100, acknowledged_us=200).with_starts([50, 150, 201, 300])
    assert (pause.last_start_us, pause.late_starts) == (300, 2)


def test_a_table_takes_its_place_on_the_page_and_nothing_else(tmp_path: Path) -> None:
    there = tmp_path / "page.md"
    there.write_text("a\n<!-- one: begin -->\nold\n<!-- one: end -->\nb\n")
    page.put("one", "| new |", there)
    assert there.read_text() == "a\n<!-- one: begin -->\n| new |\n<!-- one: end -->\nb\n"
    with pytest.raises(ValueError, match="no place for two"):
        page.put("two", "| new |", there)


def test_the_page_has_a_place_for_both_tables() -> None:
    for name in ("measured", "scale"):
        assert page.PAGE.read_text().count(f"<!-- {name}: ") == 2
