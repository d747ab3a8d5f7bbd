"""The TOML file that names governors: `[window.NAME]`, `[budget.NAME]`, `[capacity.NAME]`, each with its fields."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sluicegate.control.governors.objects import checked
from sluicegate.schemas.errors import InvalidInput, InvalidSetting
from sluicegate.schemas.governors.decisions import Kind
from sluicegate.schemas.governors.tables import named


def load(path: Path, setting: str) -> dict[tuple[Kind, str], Mapping[str, Any]]:
    """What the file names, each spec in the one spelling; raises InvalidSetting naming `setting`."""
    try:
        said = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InvalidSetting(setting, f"{path}: {' '.join(str(error).split())}") from None
    try:
        found = named(said)
    except InvalidInput as error:
        raise InvalidSetting(setting, f"{path}: {error}") from None
    wanted: dict[tuple[Kind, str], Mapping[str, Any]] = {}
    for (kind, name), spec in found.items():
        try:
            wanted[kind, name] = checked(kind, spec)
        except InvalidInput as error:
            raise InvalidSetting(setting, f"{path}: {kind}.{name}.{error}") from None
    return wanted
