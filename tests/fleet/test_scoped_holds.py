"""A few random sequences of scoped holds beside the pure model; `make soak-scopes` plays a hundred."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from sluicegate.control.process.stack import Stack
from tests.fleet import scoped_holds


@pytest.fixture
def own_stack(tmp_path: Path) -> Iterator[Stack]:
    """Nobody else's holds may stand between it and the model."""
    with Stack(tmp_path / "stack", actor="owner") as stack:
        yield stack


@pytest.mark.long
@pytest.mark.timeout(240)
def test_s1_l3_what_starts_is_what_the_model_allows(own_stack: Stack) -> None:
    found = scoped_holds.run(own_stack, sequences=5, seed=7)
    assert found.wrong == []
    assert found.by_the_clock > 0
    assert found.changes > 20
