"""Fleets from seeds: the design keeps its promises, and each mutant of it breaks one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from sluicegate.schemas.snapshots import NOTHING, Snapshot
from sluicegate.workers.following import Following, see
from tests.simulation.world import Broken, Rules, World


@pytest.mark.parametrize("seed", range(1, 41))
def test_s1_s2_s4_s9_l1_l2_hold_through_partitions_losses_and_restarts(seed: int) -> None:
    World(seed, 60).run()


def test_a_seed_is_a_story() -> None:
    """The same seed plays the same events."""
    assert World(7, 30).run() == World(7, 30).run()


def without_fence(following: Following, snapshot: Snapshot, **rest: Any) -> Following:
    """Takes whatever is signed, older or not."""
    known = following.in_force
    if known is not None and snapshot.edition < known.edition:
        return replace(following, in_force=snapshot, fence=NOTHING, last_publication=snapshot.publication)
    return see(replace(following, fence=NOTHING), snapshot, **rest)


@pytest.mark.parametrize(
    ("rules", "promise"),
    [
        (Rules(see=without_fence), "S2"),
        (Rules(is_open_at_boot=True), "S[14]"),
        # An old state must lie there just when a worker boots.
        (Rules(remembers=False, needs_fresh_boot=False), "S[12]"),
    ],
    ids=["no-fence", "open-at-boot", "lost-persistence"],
)
def test_a_mutant_breaks_its_promise_in_some_seed(rules: Rules, promise: str) -> None:
    def play() -> None:
        for seed in range(1, 61):
            World(seed, 60, rules).run()

    with pytest.raises(Broken, match=promise):
        play()
