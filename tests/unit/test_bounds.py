"""How much one audit event may say, whoever wrote it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from sluicegate.control.audit.bounds import MAX_DETAILS_BYTES, MAX_TEXT_CHARS, bounded_details, bounded_text

SHORT = st.text(st.characters(exclude_categories=[]), max_size=20)
ANY_TEXT = st.one_of(SHORT, st.builds(lambda text, times: text * times, st.text(max_size=4), st.integers(0, 30_000)))
LEAF = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), SHORT, st.just(10**4000))
# Only leaves stand many times in a list: lists of lists of them would be gigabytes.
MANY = st.builds(lambda item, times: [item] * times, LEAF, st.integers(0, 300))
ANY_JSON = st.recursive(
    st.one_of(LEAF, ANY_TEXT, MANY),
    lambda inner: st.one_of(st.lists(inner, max_size=5), st.dictionaries(SHORT, inner, max_size=30)),
    max_leaves=12,
)


def texts_of(value: Any) -> Iterator[str]:
    """Every text in it, names too."""
    match value:
        case str():
            yield value
        case list():
            for each in value:
                yield from texts_of(each)
        case dict():
            for name, each in value.items():
                yield name
                yield from texts_of(each)


def bytes_of(value: Any) -> int:
    return len(json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode())


@given(st.dictionaries(ANY_TEXT, ANY_JSON, max_size=10))
def test_whatever_the_details_are_postgres_can_keep_them_and_they_are_small(details: dict[str, Any]) -> None:
    """No NUL, no half of a surrogate pair, no NaN, no endless number; 16 KiB at most."""
    made = bounded_details(details)
    assert bytes_of(made) <= MAX_DETAILS_BYTES
    assert not any(char == "\x00" or "\ud800" <= char <= "\udfff" for text in texts_of(made) for char in text)


@given(ANY_TEXT)
def test_a_column_is_bounded_and_what_was_cut_is_known_by_its_hash(text: str) -> None:
    made = bounded_text(text)
    assert len(made) <= MAX_TEXT_CHARS + 120
    if len(text) <= 300 and "\x00" not in text and all(not "\ud800" <= c <= "\udfff" for c in text):
        assert made == text


def test_what_is_usual_stays_as_it_is() -> None:
    """A pause, a denial, a forgotten worker with a few tasks."""
    details = {
        "method": "POST",
        "path": "/api/system/worker-pause",
        "deep": [{"a": [{"b": None}]}],
        "pi": 3.14159265358979,
        "big": 10**30,
        "running": [{"id": f"{n}", "name": "app.work"} for n in range(100)],
    }
    assert bounded_details(details) == details


def test_the_hash_is_of_what_was_cut() -> None:
    """Whoever has the original can show that it is."""
    path = "/" + "x" * 60_000
    running = [{"id": f"{n}", "name": "app.work"} for n in range(50_000)]
    made = bounded_details({"worker": "celery@a", "path": path, "running": running})
    assert made["worker"] == "celery@a"
    assert made["path"].endswith(f"… (cut: 60001 characters, SHA-256 {hashlib.sha256(path.encode()).hexdigest()})")
    canonical = json.dumps(running, sort_keys=True, separators=(",", ":"))
    assert made["running"][-1] == f"… (cut: 50000 items, SHA-256 {hashlib.sha256(canonical.encode()).hexdigest()})"
    assert made["running"][:2] == running[:2]
