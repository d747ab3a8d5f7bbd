"""What is taken of what others tell: texts of a length that can be stored, counts, lists. Pure.

Heartbeats are written by whoever has a worker's credential, and a task's id and name by whoever sends it. So each
value is judged here, once, where it is read: what is of the wrong type or too much is refused, what is only too long or
cannot be stored (NUL and lone surrogates: Postgres has no place for them) is changed and kept.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from hashlib import sha256
from typing import Any

from sluicegate.schemas.errors import InvalidInput

MAX_CHARS = 255
"""Of one name or id: such a text fits into an index of Postgres, whatever its characters."""
MAX_COUNT = (1 << 53) - 1
"""What every reader of JSON knows exactly."""
MAX_LISTED = 10_000
"""Entries of one list."""

_NOT_STORABLE = re.compile("[\x00\ud800-\udfff]")
_DIGEST_CHARS = 16


def storable(said: str) -> str:
    """`said` as it can be stored anywhere: of one that is too long the beginning, and what tells it from others."""
    if said.isascii() and len(said) <= MAX_CHARS and "\0" not in said:
        return said
    kept = _NOT_STORABLE.sub("\N{REPLACEMENT CHARACTER}", said)
    if len(kept) <= MAX_CHARS:
        return kept
    return f"{kept[: MAX_CHARS - _DIGEST_CHARS - 1]}~{sha256(kept.encode()).hexdigest()[:_DIGEST_CHARS]}"


def is_storable(said: str) -> bool:
    """Can all its characters be stored?"""
    return _NOT_STORABLE.search(said) is None


def text(said: object, field: str) -> str:
    """A name or an id, storable. Celery takes whole numbers as ids too. Raises InvalidInput."""
    if type(said) is int and abs(said) <= MAX_COUNT:
        return str(said)
    if not isinstance(said, str):
        raise InvalidInput(field, "is no text")
    return storable(said)


def text_or_none(said: object, field: str) -> str | None:
    """As `text`, for what may be left out: None stays None. Raises InvalidInput."""
    return None if said is None else text(said, field)


def count(said: object, field: str, most: int = MAX_COUNT) -> int:
    """A whole number from 0 to `most`; raises InvalidInput."""
    if type(said) is not int or not 0 <= said <= most:
        raise InvalidInput(field, "is no count")
    return said


def flag(said: object, field: str) -> bool:
    """True or false; raises InvalidInput."""
    if not isinstance(said, bool):
        raise InvalidInput(field, "is neither true nor false")
    return said


def listed(said: object, field: str) -> list[Any]:
    """A list, or what stands for one in Python, of at most MAX_LISTED entries; raises InvalidInput."""
    if not isinstance(said, list | tuple) or len(said) > MAX_LISTED:
        raise InvalidInput(field, f"is no list of at most {MAX_LISTED}")
    return list(said)


def mapping(said: object, field: str) -> Mapping[str, Any]:
    """An object of JSON, of at most MAX_LISTED entries; raises InvalidInput."""
    if not isinstance(said, dict) or len(said) > MAX_LISTED:
        raise InvalidInput(field, f"is no object of at most {MAX_LISTED} keys")
    return said
