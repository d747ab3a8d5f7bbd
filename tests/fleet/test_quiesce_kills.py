"""Kills at random instants of a quiesce and its resume: nothing lost, and little done twice (S5, S6)."""

from __future__ import annotations

import pytest

from sluicegate.control.process.stack import Stack
from tests.fleet.long_runs import VICTIMS
from tests.fleet.quiesce_kills import run

KILLS = 5
SEED = 4
"""Of the instants and of who is hit; what else happens at those instants is the machine's."""


@pytest.mark.long
@pytest.mark.timeout(240)
@pytest.mark.parametrize("victim", VICTIMS)
def test_s1_s5_s6_killed_at_any_instant_of_a_quiesce_tasks_go_on_from_their_last_cursor(
    stack: Stack, victim: str
) -> None:
    """S5: what is acknowledged late is never lost. S6: what is done twice was done since the last stored cursor."""
    outcome = run(stack, victim, KILLS, SEED)
    assert outcome.broken == []
    assert outcome.kills == KILLS
    assert outcome.yields, "the quiesces came in the middle of the tasks"
