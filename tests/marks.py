"""Marks that parametrised tests share."""

from __future__ import annotations

from typing import Any

import pytest


def long(*values: Any, id: str | None = None) -> Any:
    """A set of parameters that `make test` leaves out: one that it takes stands for the rest."""
    return pytest.param(*values, id=id, marks=pytest.mark.long)
