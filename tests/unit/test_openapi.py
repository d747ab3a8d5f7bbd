"""The API's description says something of everything that is asked and answered."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

from sluicegate.control.http.app import build
from sluicegate.control.parts import Parts

DESCRIBED = build(cast(Parts, None)).openapi()
ROUTES = [
    (f"{method} {path}", route) for path, methods in DESCRIBED["paths"].items() for method, route in methods.items()
]


def empty_in(schema: Any, where: str = "") -> Iterator[str]:
    """Where a schema says nothing at all: `{}`, or no more than a title."""
    if not isinstance(schema, dict):
        return
    if not schema.keys() - {"title", "description", "default"}:
        yield where
    for name, part in schema.get("properties", {}).items():
        yield from empty_in(part, f"{where}.{name}")
    for key in ("items", "additionalProperties"):
        yield from empty_in(schema.get(key), f"{where}[{key}]")
    for number, part in enumerate(schema.get("anyOf", ())):
        yield from empty_in(part, f"{where}|{number}")


def test_no_schema_is_empty() -> None:
    """Neither of what is asked nor of what is answered."""
    found: list[str] = []
    for name, route in ROUTES:
        contents = [response.get("content", {}) for response in route["responses"].values()]
        contents.append(route.get("requestBody", {}).get("content", {}))
        for content in contents:
            for kind in content.values():
                found += empty_in(kind["schema"], name)
    for name, schema in DESCRIBED["components"]["schemas"].items():
        found += empty_in(schema, name)
    assert found == []


def test_every_success_is_one_of_our_bodies() -> None:
    for name, route in ROUTES:
        assert "$ref" in route["responses"]["200"]["content"]["application/json"]["schema"], name


def test_an_operator_may_do_what_a_viewer_may_see() -> None:
    """What changes something needs the right to; what is only read does not."""
    for name, route in ROUTES:
        if "/api/" in name:
            # Who may order a pause may not use up epochs, nor say what the fleet may cost.
            is_for_good = name.endswith(("/epoch", "/adjust")) or name.split()[1:] == ["/api/governors/{kind}/{name}"]
            changes = "admin" if is_for_good else "operator"
            is_read = name.startswith("get") or name.endswith("/test")
            assert route["x-right"] == ("viewer" if is_read else changes), name
