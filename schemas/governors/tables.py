"""Governors in a file: one table for each, below the table of its kind. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sluicegate.schemas.errors import InvalidInput
from sluicegate.schemas.governors.decisions import Kind
from sluicegate.schemas.governors.specs import check_kind, check_name


def named(said: Mapping[str, Any]) -> dict[tuple[Kind, str], Mapping[str, Any]]:
    """What `said`, a parsed TOML file, names, in its order; raises InvalidInput for what is no governor's table."""
    found: dict[tuple[Kind, str], Mapping[str, Any]] = {}
    for word, tables in said.items():
        kind = check_kind(word, word)
        if not isinstance(tables, Mapping):
            raise InvalidInput(word, f"is no table: write [{word}.NAME]")
        for name, spec in tables.items():
            if not isinstance(spec, Mapping):
                raise InvalidInput(f"{word}.{name}", f"is no table: write [{word}.NAME]")
            found[kind, check_name(name, f"{word}.{name}")] = spec
    return found
