"""The fleets' stack, one for each test process, and what a drill tells docs/compatibility.md."""

from __future__ import annotations

import pytest

from tests.beside.told import Told, teller
from tests.fleet.conftest import one_stack, stack

__all__ = ["one_stack", "stack"]


@pytest.fixture
def told(request: pytest.FixtureRequest) -> Told:
    """To be called once all has been found to be so."""
    return teller(request.node.name)
