"""What the worker's rules are set to: by the environment, by a file, and what is refused."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from sluicegate.schemas.errors import InvalidSetting
from sluicegate.schemas.health.config import thresholds_of
from sluicegate.schemas.health.rules.table import RULES
from sluicegate.schemas.health.thresholds import Action, Mark
from sluicegate.schemas.health.xids import TABLE, XidVerdict, verdict_of

PAGE = (Path(__file__).parents[2] / "docs" / "gpu-rules.md").read_text()


def test_what_is_set_when_nothing_is() -> None:
    made = thresholds_of({})
    assert made.gpu_memory == Mark(threshold=2000, release=2500)
    assert {name for name, rule in made.rules.items() if rule.action is Action.OFF} == {
        "capacity.memory",
        "capacity.cpu",
    }
    assert made.rules["gpu.heat"].readings == 3


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        (
            {"PAUSE_CAPACITY_THRESHOLD_PERCENT": "20"},
            "PAUSE_CAPACITY_THRESHOLD_PERCENT: 20 is out of range.*did you mean 0.2?",
        ),
        ({"PAUSE_CAPACITY_THRESHOLD_PERCENT": "-1"}, "PAUSE_CAPACITY_THRESHOLD_PERCENT: -1 is out of range"),
        ({"PAUSE_CAPACITY_THRESHOLD_PERCENT": "NaN"}, "PAUSE_CAPACITY_THRESHOLD_PERCENT"),
        ({"PAUSE_CAPACITY_THRESHOLD_PERCENT": "1e99"}, "PAUSE_CAPACITY_THRESHOLD_PERCENT"),
        (
            {"PAUSE_CAPACITY_THRESHOLD_PERCENT": "a fifth"},
            "PAUSE_CAPACITY_THRESHOLD_PERCENT: 'a fifth' is not a number",
        ),
        (
            {"PAUSE_CAPACITY_THRESHOLD_PERCENT": "0.20001"},
            "PAUSE_CAPACITY_THRESHOLD_PERCENT: 0.20001 has more than four",
        ),
        (
            {"PAUSE_CAPACITY_THRESHOLD_PERCENT": "0.95"},
            "PAUSE_CAPACITY_THRESHOLD_PERCENT: .*set SLUICEGATE_CAPACITY_RELEASE",
        ),
        ({"SLUICEGATE_CAPACITY_RELEASE": "0.1"}, "SLUICEGATE_CAPACITY_RELEASE: 0.1 is below the threshold of 0.2"),
        ({"SLUICEGATE_CAPACITY_RESOURCES": "gpu,disk"}, "SLUICEGATE_CAPACITY_RESOURCES: 'disk', 'gpu': known are"),
        ({"SLUICEGATE_HEALTH": "on"}, "SLUICEGATE_HEALTH: 'on' is not one of hold, warn, off"),
        ({"SLUICEGATE_HEALTH_RULES": "gpu.warm=off"}, "SLUICEGATE_HEALTH_RULES: 'gpu.warm=off' is not RULE="),
        ({"SLUICEGATE_HEALTH_RULES": "gpu.heat=maybe"}, "SLUICEGATE_HEALTH_RULES: gpu.heat: 'maybe' is not one of"),
        ({"SLUICEGATE_HEALTH_RULES": "gpu.links=hold"}, "SLUICEGATE_HEALTH_RULES: gpu.links can only warn"),
    ],
)
def test_what_is_wrong_is_refused_by_the_name_of_its_setting(environ: dict[str, str], said: str) -> None:
    with pytest.raises(InvalidSetting, match=said):
        thresholds_of(environ)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("heat = 1", "heat: known are rules, xids"),
        ("[rules.'gpu.warm']", "rules.gpu.warm: known are"),
        ("[rules]\n'gpu.heat' = 1", "rules.gpu.heat is no table"),
        ("[rules.'gpu.heat']\nfro = 3", "rules.gpu.heat.fro: known are action, for, release_after_s"),
        ("[rules.'gpu.heat']\nfor = 0", "rules.gpu.heat.for: 0 is not a whole number from 1"),
        ("[rules.'gpu.heat']\nfor = true", "rules.gpu.heat.for"),
        ("[rules.'gpu.heat']\nrelease_after_s = 1e9", "rules.gpu.heat.release_after_s"),
        ("[rules.'gpu.heat']\nthreshold = 0.2", "rules.gpu.heat.threshold"),
        ("[rules.'gpu.links']\naction = 'hold'", "gpu.links can only warn"),
        ("[rules.'capacity.gpu_memory']\nthreshold = 20", "rules.capacity.gpu_memory.threshold: .*did you mean 0.2?"),
        ("[rules.'capacity.gpu_memory']\nthreshold = nan", "rules.capacity.gpu_memory.threshold"),
        ("[rules.'capacity.gpu_memory']\nthreshold = 0.95", "rules.capacity.gpu_memory.threshold"),
        ("[rules.'capacity.gpu_memory']\nuse = 'mine'", "rules.capacity.gpu_memory.use"),
        ("[xids]\nhold = ['13']", "xids.hold"),
        ("[xids]\nhold = [13]\nwarn = [13]", "xids.warn: 13 is in another list too"),
        ("[xids]\nfatal = [13]", "xids.fatal: known are hold, ignore, warn"),
    ],
)
def test_what_is_wrong_in_the_file_is_refused_with_its_place(text: str, said: str) -> None:
    with pytest.raises(InvalidSetting, match=f"SLUICEGATE_HEALTH_FILE: .*{said}|SLUICEGATE_HEALTH_FILE: {said}"):
        thresholds_of({}, tomllib.loads(text))


def test_nought_is_off_and_a_release_mark_that_is_given_is_taken() -> None:
    assert thresholds_of({"PAUSE_CAPACITY_THRESHOLD_PERCENT": "0"}).rules["capacity.gpu_memory"].action is Action.OFF
    made = thresholds_of({"PAUSE_CAPACITY_THRESHOLD_PERCENT": "0.95", "SLUICEGATE_CAPACITY_RELEASE": "0.96"})
    assert made.gpu_memory == Mark(threshold=9500, release=9600)


def test_the_file_goes_before_the_default_and_single_settings_before_the_file() -> None:
    file: dict[str, Any] = {
        "rules": {
            "gpu.heat": {"action": "warn", "for": 5, "release_after_s": 90},
            "gpu.lost": {"action": "off"},
            "capacity.gpu_memory": {"threshold": 0.1, "use": "total", "gpus": "any"},
            "capacity.memory": {"action": "hold", "threshold": 0.05},
        },
        "xids": {"hold": [13]},
    }
    made = thresholds_of({"SLUICEGATE_HEALTH_RULES": "gpu.lost=hold"}, file)
    assert (made.rules["gpu.heat"].action, made.rules["gpu.heat"].readings) == (Action.WARN, 5)
    assert made.rules["gpu.lost"].action is Action.HOLD
    assert made.gpu_memory == Mark(threshold=1000, release=1500)
    assert (made.counts_total, made.is_any_gpu) == (True, True)
    assert made.rules["capacity.memory"].action is Action.HOLD
    assert made.memory == Mark(threshold=500, release=1000)
    assert verdict_of(13, made.xids) is XidVerdict.HOLD


@pytest.mark.parametrize("most", ["hold", "warn", "off"])
def test_one_setting_is_the_most_that_any_rule_may_do(most: str) -> None:
    actions = {rule.action for rule in thresholds_of({"SLUICEGATE_HEALTH": most}).rules.values()}
    assert actions <= {"off": {Action.OFF}, "warn": {Action.OFF, Action.WARN}, "hold": set(Action)}[most]


# --- Xids ---

NAMED = {
    XidVerdict.HOLD: {
        *(46, 48, 62, 64, 74, 79, 95, 109, 110, 119, 120, 136, 140, 143, 151, 155, 156, 158, 54, 142, 167, 168, 169),
    },
    XidVerdict.FATAL: set(range(144, 151)),
    XidVerdict.REPEATED: {13, 31},
    XidVerdict.IGNORE: {
        *(
            8,
            11,
            25,
            32,
            39,
            40,
            41,
            43,
            44,
            45,
            60,
            63,
            *range(66, 73),
            75,
            76,
            77,
            80,
            *range(82, 87),
            88,
            89,
            92,
            93,
            94,
        ),
        *(*range(96, 108), 121, *range(126, 136), 137, 139, 141, 152, 153, 154, 157, 159, 160, 161),
    },
}


@pytest.mark.parametrize("code", sorted({*TABLE, *range(1, 200)}))
def test_every_code_means_what_was_decided_and_one_that_was_not_warns(code: int) -> None:
    expected = next((verdict for verdict, codes in NAMED.items() if code in codes), XidVerdict.WARN)
    assert verdict_of(code, {}) is expected


def test_every_row_of_the_table_has_its_name_and_its_source_and_stands_once() -> None:
    assert all(code == row.code and row.name and row.source for code, row in TABLE.items())
    assert set().union(*NAMED.values()) <= set(TABLE)


# --- the page ---


def test_the_page_has_every_rule_with_what_it_does_and_for_how_long() -> None:
    rows = re.findall(r"^\| `([\w.]+)` \|.*\| (hold|warn|off) \| (\d+) \| (\d+) s \|", PAGE, re.MULTILINE)
    assert sorted(rows) == sorted(
        (name, str(rule.default.action), str(rule.default.readings), str(rule.default.release_after_s))
        for name, rule in RULES.items()
    )


def test_the_file_that_the_page_shows_is_taken() -> None:
    (text,) = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    assert thresholds_of({}, tomllib.loads(text)).rules["gpu.heat"].action is Action.WARN
