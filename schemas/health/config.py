"""Thresholds out of settings and a TOML file's tables. What is wrong is refused, by the name of its setting."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sluicegate.schemas import settings
from sluicegate.schemas.errors import InvalidSetting
from sluicegate.schemas.health.rules.table import RULES
from sluicegate.schemas.health.thresholds import WHOLE, Action, Mark, RuleSetting, Thresholds
from sluicegate.schemas.health.xids import XidVerdict

ABOVE = 500
"""How far above its threshold a release mark is, where none is given: 0.05."""
HIGHEST_UNASKED = 9_900
MOST_READINGS = 1_000
LONGEST_RELEASE_S = 900

_FILE = settings.HEALTH_FILE.name
_CAPACITY = {"capacity.gpu_memory": "gpu_memory", "capacity.memory": "memory", "capacity.cpu": "cpu"}
_ORDER = (Action.OFF, Action.WARN, Action.HOLD)


def thresholds_of(environ: Mapping[str, str], file: Mapping[str, Any] | None = None) -> Thresholds:
    """What a worker's rules are set to; `file` is SLUICEGATE_HEALTH_FILE's, as tomllib reads it.

    A rule's own action goes before what the file says of it, and that before the default; SLUICEGATE_HEALTH is the
    most that any rule may do. Raises InvalidSetting.
    """
    file = file or {}
    _refuse_unknown(file, {"rules", "xids"}, "")
    tables = _table(file, "rules", "")
    _refuse_unknown(tables, set(RULES), "rules.")
    own = _own_actions(settings.HEALTH_RULES.read_or_none(environ) or "")
    most = Action(settings.HEALTH.read(environ))
    resources = settings.CAPACITY_RESOURCES.read(environ)
    marks: dict[str, Mark] = {}
    rules: dict[str, RuleSetting] = {}
    for name, rule in RULES.items():
        table = _table(tables, name, "rules.")
        default = rule.default
        if name in _CAPACITY:
            marks[name] = _mark_of(environ, table, name)
            is_metered = _CAPACITY[name] in resources and marks[name].threshold > 0
            default = RuleSetting(
                action=Action.HOLD if is_metered else Action.OFF,
                readings=default.readings,
                release_after_s=default.release_after_s,
            )
        setting = _setting_of(name, default, table, own.get(name))
        if name in _CAPACITY and marks[name].threshold == 0:
            setting = RuleSetting(action=Action.OFF, readings=setting.readings, release_after_s=setting.release_after_s)
        rules[name] = _at_most(setting, most if rule.can_hold or most is Action.OFF else Action.WARN)
    gpu = _table(tables, "capacity.gpu_memory", "rules.")
    return Thresholds(
        rules=rules,
        gpu_memory=marks["capacity.gpu_memory"],
        memory=marks["capacity.memory"],
        cpu=marks["capacity.cpu"],
        counts_total=_word(gpu, "use", ("foreign", "total"), settings.CAPACITY_USE.read(environ)) == "total",
        is_any_gpu=_word(gpu, "gpus", ("all", "any"), settings.CAPACITY_GPUS.read(environ)) == "any",
        xids=_xids_of(_table(file, "xids", "")),
    )


def _own_actions(text: str) -> dict[str, Action]:
    name = settings.HEALTH_RULES.name
    actions = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        rule, equals, word = (each.strip() for each in part.partition("="))
        if not equals or rule not in RULES:
            raise InvalidSetting(name, f"{part!r} is not RULE=hold|warn|off; rules are {', '.join(RULES)}")
        actions[rule] = _action(word, rule, name)
    return actions


def _action(word: object, rule: str, setting: str) -> Action:
    if word not in tuple(Action):
        raise InvalidSetting(setting, f"{rule}: {word!r} is not one of {', '.join(Action)}")
    action = Action(str(word))
    if action is Action.HOLD and not RULES[rule].can_hold:
        raise InvalidSetting(setting, f"{rule} can only warn")
    return action


def _setting_of(name: str, default: RuleSetting, table: Mapping[str, Any], own: Action | None) -> RuleSetting:
    known = {"action", "for", "release_after_s"} | ({"threshold", "release"} if name in _CAPACITY else set())
    known |= {"use", "gpus"} if name == "capacity.gpu_memory" else set()
    _refuse_unknown(table, known, f"rules.{name}.")
    action = default.action
    if "action" in table:
        action = _action(table["action"], name, _FILE)
    return RuleSetting(
        action=own if own is not None else action,
        readings=_count(table, "for", name, 1, MOST_READINGS, default.readings),
        release_after_s=_count(table, "release_after_s", name, 1, LONGEST_RELEASE_S, default.release_after_s),
    )


def _at_most(setting: RuleSetting, most: Action) -> RuleSetting:
    action = min(setting.action, most, key=_ORDER.index)
    return RuleSetting(action=action, readings=setting.readings, release_after_s=setting.release_after_s)


def _mark_of(environ: Mapping[str, str], table: Mapping[str, Any], name: str) -> Mark:
    """Of one resource: what the file says of it, or else what is said of all. 0 is off."""
    threshold, where = settings.CAPACITY_THRESHOLD.read(environ), settings.CAPACITY_THRESHOLD.name
    release, release_where = settings.CAPACITY_RELEASE.read_or_none(environ), settings.CAPACITY_RELEASE.name
    if "threshold" in table:
        threshold, where = _fraction(table["threshold"], f"rules.{name}.threshold"), f"{_FILE}: rules.{name}.threshold"
        release = None
    if "release" in table:
        release, release_where = _fraction(table["release"], f"rules.{name}.release"), f"{_FILE}: rules.{name}.release"
    if release is None:
        release = threshold + ABOVE
        if release > HIGHEST_UNASKED:
            said = f"{threshold / WHOLE:g} would resume only above {release / WHOLE:g}, which may never come"
            raise InvalidSetting(where, f"{said} (at most {HIGHEST_UNASKED / WHOLE:g}): set {release_where} too")
    elif release < threshold:
        raise InvalidSetting(release_where, f"{release / WHOLE:g} is below the threshold of {threshold / WHOLE:g}")
    return Mark(threshold=threshold, release=release)


def _fraction(value: object, where: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidSetting(_FILE, f"{where}: {value!r} is not a number")
    try:
        return settings.CAPACITY_THRESHOLD.parse(repr(value), _FILE)
    except InvalidSetting as error:
        raise InvalidSetting(_FILE, f"{where}: {error.message}") from None


def _count(table: Mapping[str, Any], key: str, rule: str, least: int, most: int, default: int) -> int:
    value = table.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise InvalidSetting(_FILE, f"rules.{rule}.{key}: {value!r} is not a whole number from {least} to {most}")
    return value


def _word(table: Mapping[str, Any], key: str, words: tuple[str, ...], default: str) -> str:
    value = table.get(key, default)
    if value not in words:
        raise InvalidSetting(_FILE, f"rules.capacity.gpu_memory.{key}: {value!r} is not one of {', '.join(words)}")
    return str(value)


def _xids_of(table: Mapping[str, Any]) -> dict[int, XidVerdict]:
    """`hold = [13]`, `warn = […]`, `ignore = […]`."""
    verdicts: dict[int, XidVerdict] = {}
    _refuse_unknown(table, {"hold", "warn", "ignore"}, "xids.")
    for word, codes in table.items():
        if not isinstance(codes, list) or not all(type(code) is int and 0 < code < 100_000 for code in codes):
            raise InvalidSetting(_FILE, f"xids.{word}: {codes!r} is not a list of codes")
        for code in codes:
            if code in verdicts:
                raise InvalidSetting(_FILE, f"xids.{word}: {code} is in another list too")
            verdicts[code] = XidVerdict(word)
    return verdicts


def _table(tables: Mapping[str, Any], key: str, where: str) -> Mapping[str, Any]:
    table = tables.get(key, {})
    if not isinstance(table, Mapping):
        raise InvalidSetting(_FILE, f"{where}{key} is no table")
    return table


def _refuse_unknown(table: Mapping[str, Any], known: set[str], where: str) -> None:
    if wrong := sorted(set(table) - known):
        raise InvalidSetting(_FILE, f"{where}{wrong[0]}: known are {', '.join(sorted(known))}")
