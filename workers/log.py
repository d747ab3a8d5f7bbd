"""Loggers whose lines carry, beside their text, whom and what they are about (docs/logging.md).

One worker a process: `describe` is called once, before the pool forks, and its children say the same of theirs.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, MutableMapping
from typing import Any

from sluicegate.schemas.holds.hold import Hold
from sluicegate.schemas.printable import PrintableLogger
from sluicegate.schemas.snapshots import Edition

NAMESPACE, WORKER, VERSION, HOLD = (f"sluicegate_{field}" for field in ("namespace", "worker", "version", "hold"))


class _Logger(PrintableLogger):
    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        kwargs["extra"] = {**_describe(), **(kwargs.get("extra") or {})}
        return msg, kwargs


_describe: Callable[[], Mapping[str, str]] = dict


def logger(name: str) -> logging.LoggerAdapter[logging.Logger]:
    """The logger of that name, whose lines carry what `describe` was told as fields."""
    return _Logger(logging.getLogger(name))


def describe(*, namespace: str, worker: str, version: Callable[[], Edition]) -> None:
    """What every line of this process carries from here on; `version` is asked at each: the edition in force."""
    global _describe

    def fields() -> dict[str, str]:
        return {NAMESPACE: namespace, WORKER: worker, VERSION: str(version())}

    _describe = fields


def about(holds: Iterable[Hold], version: Edition | None = None) -> dict[str, str]:
    """The `extra` of a line about these holds, of this edition where it is not the one in force."""
    fields = {} if version is None else {VERSION: str(version)}
    if ids := ",".join(str(hold.id) for hold in holds):
        fields[HOLD] = ids
    return fields
