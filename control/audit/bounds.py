"""How much one event may say: what is longer is cut, and told by its length and its hash. Pure.

Rows of the audit are never removed, and some of what they say was written by strangers: a path, a task's name, the
answers of a worker. So no event is larger than this, whatever was asked, and nothing is left out unseen.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from sluicegate.schemas import telling

MAX_TEXT_CHARS: Final = 2000
"""Of a column. A reason has at most half of it."""
MAX_DETAILS_BYTES: Final = 16 * 1024
"""Of the details, as JSON in UTF-8."""
MAX_DEPTH: Final = 6
MAX_DIGITS: Final = 40


@dataclass(frozen=True, slots=True)
class _Measure:
    """How long a text, and how many items of a list or an object, may be."""

    chars: int
    items: int


_MEASURES: Final = (_Measure(1000, 100), _Measure(200, 20))
_LEAST: Final = _Measure(40, 20)


def storable(text: str) -> str:
    r"""`text` as Postgres can keep it: NUL as `\x00`, a half of a surrogate pair as `\ud800`."""
    if telling.is_storable(text):
        return text
    return "".join(
        char.encode("unicode_escape").decode() if char == "\x00" or "\ud800" <= char <= "\udfff" else char
        for char in text
    )


def bounded_text(text: str, most: int = MAX_TEXT_CHARS) -> str:
    """`text`, or its beginning with its length and the SHA-256 of the whole."""
    text = storable(text)
    return text if len(text) <= most else f"{text[:most]}{_cut(text, f'{len(text)} characters')}"


def bounded_details(details: Mapping[str, Any]) -> dict[str, Any]:
    """`details` (a JSON object) in at most MAX_DETAILS_BYTES; its names stay, as far as there are few of them.

    In the place of what is cut stands how much it was, and the SHA-256 of its canonical JSON.
    """
    for measure in _MEASURES:
        fitted: dict[str, Any] = _fitted(details, measure, 0)
        if len(_spelled(fitted)) <= MAX_DETAILS_BYTES:
            return fitted
    # One level, and in it texts alone: 21 of each, of at most 700 bytes with its name.
    least: dict[str, Any] = _fitted(details, _LEAST, MAX_DEPTH - 1)
    return least


def _fitted(value: Any, measure: _Measure, depth: int) -> Any:
    match value:
        case None | bool():
            return value
        case int():
            return value if abs(value) < 10**MAX_DIGITS else bounded_text(hex(value), measure.chars)
        case float():
            # JSON has no word for these.
            return value if math.isfinite(value) else str(value)
        case Mapping() | list() | tuple() if depth >= MAX_DEPTH:
            return _cut(value, f"{len(value)} items").strip()
        case Mapping():
            kept = list(value.items())[: measure.items]
            made = {bounded_text(str(k), measure.chars): _fitted(v, measure, depth + 1) for k, v in kept}
            return made if len(value) <= measure.items else made | {"…": _cut(value, f"{len(value)} items").strip()}
        case list() | tuple():
            items = [_fitted(each, measure, depth + 1) for each in value[: measure.items]]
            return items if len(value) <= measure.items else [*items, _cut(value, f"{len(value)} items").strip()]
        case _:
            return bounded_text(str(value), measure.chars)


def _cut(value: Any, amount: str) -> str:
    digest = hashlib.sha256(value.encode() if isinstance(value, str) else _spelled(value)).hexdigest()
    return f"… (cut: {amount}, SHA-256 {digest})"


def _spelled(value: Any) -> bytes:
    """The canonical JSON of `value`, which may be anything: what JSON has no word for is spelled as Python does."""
    spelled = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=str)
    return spelled.encode(errors="backslashreplace")
