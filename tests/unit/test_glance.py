"""A look beside an order: waited for while it is quick, and never in an order's way."""

from __future__ import annotations

import threading
import time

from sluicegate.control.pausing.glance import Glance


def test_what_is_seen_in_time_is_told() -> None:
    """As it is where all is well."""
    glance: Glance[int] = Glance()
    assert [glance.at(lambda: 7), glance.at(lambda: 8)] == [7, 8]


def test_a_look_that_fails_is_no_orders_failure() -> None:
    """Whatever it raises: the order is stored. The next one looks again."""
    glance: Glance[float] = Glance()
    assert glance.at(lambda: 1 / 0) is None
    assert glance.at(lambda: 1.0) == 1.0


def test_a_late_look_is_not_waited_for_and_no_other_begins_beside_it() -> None:
    """An order after it is answered at once."""
    glance: Glance[int] = Glance(budget_s=0.05)
    going_on, begun = threading.Event(), []

    def look() -> int:
        begun.append(1)
        going_on.wait(30)
        return 7

    assert glance.at(look) is None
    begun_at = time.monotonic()
    assert [glance.at(look) for _ in range(100)] == [None] * 100
    assert time.monotonic() - begun_at < 5
    assert len(begun) == 1
    going_on.set()
    glance.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "sluicegate-look" and thread.is_alive()]
