"""What Flower says, by its own API."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from typing import Any


def get(url: str) -> bytes | None:
    """The body, or None where nobody answers."""
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return bytes(answer.read())
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return None


def tasks_of(address: str) -> dict[str, dict[str, Any]]:
    """Every task that it has heard of."""
    return dict(json.loads(get(f"{address}/api/tasks?limit=1000000") or b"{}"))
