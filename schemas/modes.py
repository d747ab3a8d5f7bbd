"""Modes: how strongly work is held back."""

from __future__ import annotations

from enum import IntEnum
from typing import Self

from sluicegate.schemas.errors import InvalidInput


class Mode(IntEnum):
    """How strongly a hold holds. Ordered: RUN < DRAIN < QUIESCE, so `max` composes holds."""

    RUN = 0
    DRAIN = 1
    QUIESCE = 2

    @property
    def word(self) -> str:
        """The mode as JSON, tables, pages and commands spell it: `run`, `drain`, `quiesce`."""
        return self.name.lower()

    @classmethod
    def of_hold(cls, word: object, field: str = "mode") -> Self:
        """The mode a hold may have (`drain` or `quiesce`); raises InvalidInput naming `field`."""
        for mode in cls:
            if mode and word == mode.word:
                return mode
        raise InvalidInput(field, f"{word!r} is not a mode: use drain or quiesce")
