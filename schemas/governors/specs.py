"""Governors as they are written: JSON of requests and rows, tables of a TOML file. One spelling, one parser. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Any, TypeVar

from sluicegate.schemas.errors import InvalidInput
from sluicegate.schemas.governors import budgets, capacity, windows
from sluicegate.schemas.governors.budgets import Budget
from sluicegate.schemas.governors.capacity import Gate
from sluicegate.schemas.governors.decisions import Kind
from sluicegate.schemas.governors.local_days import zone_of
from sluicegate.schemas.governors.windows import Window
from sluicegate.schemas.modes import Mode
from sluicegate.schemas.money import MILLION, millionths, text_of
from sluicegate.schemas.scopes import Scope, ScopeKind
from sluicegate.schemas.spans import format_span, parse_span

Governor = Window | Budget | Gate
T = TypeVar("T")

MAX_CRON_CHARS = 200
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}\Z")
_CURRENCY = re.compile(r"[A-Z]{3}\Z")
_HOURS = re.compile(r"(\d{1,2})(?:-(\d{1,2}))?\Z", re.ASCII)


def check_kind(word: object, field: str = "kind") -> Kind:
    """Raises InvalidInput naming the kinds that there are."""
    if word not in list(Kind):
        raise InvalidInput(field, f"{word!r:.40} is not one of {', '.join(Kind)}")
    return Kind(str(word))


def check_name(name: object, field: str = "name") -> str:
    """`name` if a governor may have it (letters, digits, `_.-`, at most 63); raises InvalidInput otherwise."""
    if not isinstance(name, str) or not _NAME.match(name):
        raise InvalidInput(field, f"{name!r:.80} is not a name: use letters, digits, '_', '.', '-', at most 63")
    return name


def parse(kind: Kind, said: object) -> Governor:
    """The governor that `said` spells; raises InvalidInput naming the field that is wrong.

    Whether a schedule of cron can be one is judged where there is a parser of them (control.governors.schedules).
    """
    if not isinstance(said, Mapping):
        raise InvalidInput("spec", "is no object")
    fields = _Fields(said)
    governor: Governor
    match kind:
        case Kind.WINDOW:
            governor = _window(fields)
        case Kind.BUDGET:
            governor = _budget(fields)
        case Kind.CAPACITY:
            governor = _gate(fields)
    fields.refuse_others()
    return governor


def to_wire(governor: Governor) -> dict[str, Any]:
    """The inverse of `parse`, with everything said that has a default."""
    match governor:
        case Window():
            return {
                "cron": governor.cron,
                "zone": governor.zone,
                "duration": format_span(governor.duration),
                "lead": format_span(governor.lead),
                "scope": str(governor.scope),
                "mode": governor.mode.word,
                "invert": governor.is_inverted,
                "enabled": governor.is_enabled,
            }
        case Budget():
            return _budget_to_wire(governor)
        case Gate():
            return {
                "scope": str(governor.scope),
                "resources": list(governor.resources),
                "threshold": _share_to_wire(governor.threshold),
                "release": _share_to_wire(governor.release),
                "gpuRule": governor.gpu_rule,
                "dwell": format_span(governor.dwell),
                "mode": governor.mode.word,
                "enabled": governor.is_enabled,
            }


def _budget_to_wire(budget: Budget) -> dict[str, Any]:
    return {
        "daily": text_of(budget.daily),
        "currency": budget.currency,
        "zone": budget.zone,
        "scope": str(budget.scope),
        "dayThreshold": _share_to_wire(budget.day_threshold),
        "dayHours": list(budget.day_hours),
        "nightThreshold": _share_to_wire(budget.night_threshold),
        "nightHours": list(budget.night_hours),
        "outsideWindows": budget.outside,
        "hard": _share_to_wire(budget.hard),
        "enabled": budget.is_enabled,
    }


class _Fields:
    """What was said, taken field by field; what nobody asked for is refused at the end."""

    def __init__(self, said: Mapping[str, Any]) -> None:
        self._left = dict(said)

    def needed(self, name: str) -> Any:
        if self._left.get(name) is None:
            raise InvalidInput(name, "is missing")
        return self._left.pop(name)

    def get(self, name: str, default: T) -> Any | T:
        value = self._left.pop(name, None)
        return default if value is None else value

    def flag(self, name: str, *, default: bool) -> bool:
        value = self.get(name, default)
        if not isinstance(value, bool):
            raise InvalidInput(name, f"{value!r:.40} is neither true nor false")
        return value

    def word(self, name: str, words: Iterable[str], default: str) -> str:
        value = self.get(name, default)
        if value not in (known := tuple(words)):
            raise InvalidInput(name, f"{value!r:.40} is not one of {', '.join(known)}")
        return str(value)

    def span(self, name: str, default: timedelta | None) -> timedelta:
        value = self.needed(name) if default is None else self.get(name, default)
        if isinstance(value, timedelta):
            return value
        if not isinstance(value, str):
            raise InvalidInput(name, f"{value!r:.40} is not a span of time such as 90s, 5m, 1h30m or 2d")
        return timedelta(0) if value.strip() in ("0", "0s") else parse_span(value, name)

    def scope(self, *kinds: ScopeKind) -> Scope:
        scope = Scope.parse(self.get("scope", "global"))
        if kinds and scope.kind not in kinds:
            raise InvalidInput("scope", f"{scope} cannot be held by this: use {' or '.join(kinds)}")
        return scope

    def mode(self) -> Mode:
        return Mode.of_hold(self.get("mode", "drain"))

    def share(self, name: str, default: int | None, *, most: int = MILLION) -> int | None:
        """A fraction, in millionths."""
        value = self.get(name, None)
        if value is None:
            return default
        share = millionths(value, name)
        if 1 < share / MILLION <= 100 and most <= MILLION:
            raise InvalidInput(name, f"{value!r:.40} is no fraction: did you mean {share / MILLION / 100:g}?")
        if not 0 <= share <= most:
            raise InvalidInput(name, f"{value!r:.40} is out of range: from 0 to {most / MILLION:g}")
        return share

    def refuse_others(self) -> None:
        for name in self._left:
            raise InvalidInput(str(name), "is not a field of this kind of governor")


def _window(fields: _Fields) -> Window:
    cron = fields.needed("cron")
    if not isinstance(cron, str) or len(cron) > MAX_CRON_CHARS:
        raise InvalidInput("cron", f"{cron!r:.40} is not a schedule of five fields")
    window = Window(
        cron=" ".join(cron.split()),
        zone=zone_of(fields.get("zone", "UTC")).key,
        duration=fields.span("duration", None),
        lead=fields.span("lead", timedelta(0)),
        scope=fields.scope(),
        mode=fields.mode(),
        is_inverted=fields.flag("invert", default=False),
        is_enabled=fields.flag("enabled", default=True),
    )
    for name, span in (("duration", window.duration), ("lead", window.lead)):
        if span > windows.LONGEST:
            raise InvalidInput(name, f"{format_span(span)} is too long: at most {format_span(windows.LONGEST)}")
    if window.duration <= timedelta(0):
        raise InvalidInput("duration", "must be above zero")
    if window.is_inverted and window.lead >= window.duration:
        raise InvalidInput("lead", "leaves nothing of the window: work may start in the rest of it alone")
    return window


def _budget(fields: _Fields) -> Budget:
    daily = millionths(fields.needed("daily"), "daily")
    if daily < 0:
        raise InvalidInput("daily", "must not be negative")
    currency = fields.get("currency", "USD")
    if not isinstance(currency, str) or not _CURRENCY.match(currency):
        raise InvalidInput("currency", f"{currency!r:.40} is not three capital letters such as USD")
    usual = Budget(daily=0, zone="UTC")
    budget = Budget(
        daily=daily,
        zone=zone_of(fields.get("zone", "UTC")).key,
        currency=currency,
        scope=fields.scope(),
        day_threshold=fields.share("dayThreshold", usual.day_threshold) or 0,
        day_hours=_hours(fields.get("dayHours", usual.day_hours), "dayHours"),
        night_threshold=fields.share("nightThreshold", usual.night_threshold) or 0,
        night_hours=_hours(fields.get("nightHours", usual.night_hours), "nightHours"),
        outside=fields.word("outsideWindows", (budgets.OPEN, budgets.CLOSED), usual.outside),
        hard=fields.share("hard", None, most=10 * MILLION),
        is_enabled=fields.flag("enabled", default=True),
    )
    both = sorted(set(budget.day_hours) & set(budget.night_hours))
    if both:
        raise InvalidInput("nightHours", f"{both[0]} is an hour of the day too")
    return budget


def _gate(fields: _Fields) -> Gate:
    resources = fields.get("resources", [capacity.GPU_MEMORY])
    if not isinstance(resources, list | tuple) or not resources or set(resources) - set(capacity.RESOURCES):
        raise InvalidInput("resources", f"{resources!r:.80} is no list of {', '.join(capacity.RESOURCES)}")
    gate = Gate(
        scope=fields.scope(ScopeKind.GLOBAL, ScopeKind.LABEL),
        resources=tuple(dict.fromkeys(resources)),
        threshold=fields.share("threshold", None),
        release=fields.share("release", None),
        gpu_rule=fields.word("gpuRule", (capacity.ALL, capacity.ANY), capacity.ALL),
        dwell=fields.span("dwell", Gate().dwell),
        mode=fields.mode(),
        is_enabled=fields.flag("enabled", default=True),
    )
    if gate.threshold is not None:
        take, release = gate.marks(gate.threshold)
        if release > 990_000 and gate.release is None:
            raise InvalidInput("threshold", f"{take / MILLION:g} would release at {release / MILLION:g}: say `release`")
        if release < take:
            raise InvalidInput("release", "lies below the threshold")
    return gate


def _hours(said: object, field: str) -> tuple[int, ...]:
    """`9-17`, `22-6`, `8,10-12`, or a list of hours: each is the whole hour. Raises InvalidInput."""
    wrong = InvalidInput(field, f"{said!r:.60} are no hours such as 9-17 or 22-6")
    found: list[int] = []
    if isinstance(said, str):
        for part in said.split(","):
            match = _HOURS.match(part.strip())
            if match is None:
                raise wrong
            low, high = int(match[1]), int(match[2] or match[1])
            if max(low, high) > 23:
                raise wrong
            found += [hour % 24 for hour in range(low, (high if high >= low else high + 24) + 1)]
    elif isinstance(said, list | tuple) and all(type(hour) is int and 0 <= hour <= 23 for hour in said):
        found = [int(hour) for hour in said]
    else:
        raise wrong
    if len(set(found)) != len(found):
        raise InvalidInput(field, "names an hour twice")
    return tuple(found)


def _share_to_wire(share: int | None) -> float | None:
    return None if share is None else share / MILLION
