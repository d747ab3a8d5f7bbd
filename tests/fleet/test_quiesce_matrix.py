"""Three workers of four slots, quiesced in the middle of long tasks, on each pool and broker (R-B4, R-B5)."""

from __future__ import annotations

import pytest

from sluicegate.control.process.stack import Stack
from tests.fleet.quiesce_matrix import STOPPED_WITHIN_S, Quiesced, quiesce
from tests.fleet.rabbit import Rabbit
from tests.marks import long

ITEMS = 16
ITEM_S = 0.1


def _is_as_promised(found: Quiesced) -> None:
    assert found.is_exact, found
    assert found.waited
    assert found.yielded
    # Generous: how soon it is, is measured by `make soak-quiesce`.
    assert found.last_item_ms < STOPPED_WITHIN_S * 1000


@pytest.mark.parametrize("pool", ["prefork", long("threads")])
def test_s1_s5_s6_all_slots_stop_and_every_item_is_done_once(stack: Stack, pool: str) -> None:
    """Waiting and yielding tasks, acknowledged early and late, side by side."""
    _is_as_promised(quiesce(stack, pool=pool, items=ITEMS, item_s=ITEM_S, quiesces=2))


@pytest.mark.long
@pytest.mark.parametrize("queue_type", ["classic", "quorum"])
@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_s1_s5_s6_all_slots_stop_and_every_item_is_done_once_over_rabbitmq(
    stack: Stack, rabbit: Rabbit, pool: str, queue_type: str
) -> None:
    """The same; a yielded task that was acknowledged early is sent again."""
    found = quiesce(stack, pool=pool, rabbit=rabbit, queue_type=queue_type, items=ITEMS, item_s=ITEM_S, quiesces=2)
    _is_as_promised(found)
