"""The stack of the fleet tests, whole and running before every test, whatever the one before did to it."""

from __future__ import annotations

from tests.fleet.conftest import one_stack, stack

__all__ = ["one_stack", "stack"]
