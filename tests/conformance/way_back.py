"""What every way back does: each message that was fetched and not started goes back where it came from, once.

A test class of each broker derives from `WayBackFacts` and has a fixture `rig`.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any, Protocol
from uuid import uuid4

import pytest

from sluicegate.workers.ports import WayBack

TASK = "app.work"


class Parcel:
    """A request, as far as a way back looks at one."""

    def __init__(self, message: Any) -> None:
        self.message = message
        self.id = str(uuid4())
        self.type = TASK
        self.acknowledged = False
        self.events: list[str] = []
        self.is_heard = True

    def send_event(self, kind: str, **_: Any) -> None:
        if not self.is_heard:
            raise ConnectionError("the broker is away")
        self.events.append(kind)

    def acknowledge_early(self) -> None:
        """As when its task begins, without acks_late."""
        self.message.ack()
        self.acknowledged = True


class Rig(Protocol):
    """One queue at one broker, and a worker that consumes it."""

    way_back: WayBack

    def without_acknowledgements(self) -> None:
        """Have the broker forget each message as it gives it out; before anything is fetched."""

    def send(self, *numbers: int) -> None:
        """Put messages to the tail of the queue."""

    def fetch(self, count: int) -> list[Parcel]:
        """Consume, until so many are in hand: the oldest first."""

    def fetch_late(self) -> None:
        """The next message was under way when consuming was stopped, and comes now."""

    def lying(self) -> list[int]:
        """What lies in the queue, next to be taken first."""

    def come_again(self) -> list[int]:
        """What lies in the queue, or was given to Celery once more since it was fetched."""

    def reconnect(self) -> None:
        """Lose the connection without a word, and attach to the next one."""

    def stop(self) -> None:
        """Stop consuming, and let the broker confirm it."""

    def stop_queue(self) -> None:
        """The same, for the one queue."""

    def away(self) -> AbstractContextManager[None]:
        """While this lasts, whatever goes to the broker over the consumer's connection fails."""


class WayBackFacts:
    def test_what_is_owed_goes_back_in_its_order_in_whatever_order_it_was_owed(self, rig: Rig) -> None:
        rig.send(1, 2, 3)
        first, second, third = rig.fetch(3)
        rig.stop()
        rig.send(4, 5)
        for parcel in (third, first, second):
            assert rig.way_back.owe(parcel)
        assert rig.way_back.count_owed() == 3
        rig.way_back.hand_back()
        assert rig.lying() == [1, 2, 3, 4, 5]
        assert rig.way_back.count_owed() == 0

    def test_what_is_owed_is_celery_s_no_more_and_whoever_watches_is_told(self, rig: Rig) -> None:
        rig.send(1)
        (parcel,) = rig.fetch(1)
        rig.way_back.owe(parcel)
        assert parcel.acknowledged
        assert parcel.events == ["task-rejected"]

    @pytest.mark.parametrize("act", ["owe", "owe_yielded", "set_aside"])
    def test_an_event_that_cannot_be_sent_keeps_nothing_from_its_way(self, rig: Rig, act: str) -> None:
        """It is for who watches, and goes to the broker, which may be away."""
        rig.send(1, 2)
        parcels = rig.fetch(2)
        rig.stop()
        for parcel in parcels:
            parcel.is_heard = False
            getattr(rig.way_back, act)(parcel)
        rig.way_back.hand_back()
        if act == "set_aside":
            assert rig.way_back.hand_back_aside(())
        assert rig.come_again() == [1, 2]

    def test_where_nothing_is_owed_nothing_is_done(self, rig: Rig) -> None:
        rig.send(1, 2)
        rig.fetch(2)
        rig.stop()
        for _ in range(2):
            rig.way_back.hand_back()
        assert rig.lying() == []

    def test_what_a_broker_that_is_away_does_not_take_stays_owed_and_goes_back_once(self, rig: Rig) -> None:
        rig.send(1, 2)
        parcels = rig.fetch(2)
        rig.stop()
        for parcel in parcels:
            rig.way_back.owe(parcel)
        with rig.away():
            for _ in range(2):
                with pytest.raises(ConnectionError):
                    rig.way_back.hand_back()
        assert rig.way_back.count_owed() == 2
        for _ in range(2):
            rig.way_back.hand_back()
        assert rig.lying() == [1, 2]

    @pytest.mark.parametrize("is_early", [False, True], ids=["acknowledged late", "acknowledged early"])
    def test_what_yielded_goes_back_also_where_it_was_acknowledged(self, rig: Rig, is_early: bool) -> None:
        rig.send(1, 2)
        parcel, other = rig.fetch(2)
        rig.stop()
        if is_early:
            parcel.acknowledge_early()
        assert rig.way_back.owe_yielded(parcel)
        assert rig.way_back.count_owed() == 1
        rig.way_back.hand_back()
        assert rig.lying() == [1]
        assert not other.acknowledged

    def test_after_a_lost_connection_each_message_lies_in_its_queue_once(self, rig: Rig) -> None:
        rig.send(1, 2)
        parcels = rig.fetch(2)
        for parcel in parcels:
            rig.way_back.owe(parcel)
        rig.reconnect()
        for _ in range(2):
            rig.way_back.hand_back()
        assert rig.lying() == [1, 2]
        assert rig.way_back.count_owed() == 0

    def test_what_was_under_way_when_consuming_stopped_goes_back_behind_the_older_ones(self, rig: Rig) -> None:
        rig.send(1, 2)
        parcels = rig.fetch(2)
        rig.stop()
        for parcel in parcels:
            rig.way_back.owe(parcel)
        rig.way_back.hand_back()
        rig.send(3)
        # What this worker has handed back it does not take again: the one under way is the third.
        rig.fetch_late()
        assert rig.way_back.count_owed() == 1
        rig.way_back.hand_back()
        assert rig.lying() == [1, 2, 3]

    def test_of_a_queue_that_is_stopped_alone_what_comes_late_goes_back(self, rig: Rig) -> None:
        rig.send(1)
        rig.fetch(1)
        rig.stop_queue()
        rig.send(2)
        rig.fetch_late()
        rig.way_back.hand_back()
        assert rig.lying() == [2]

    def test_what_is_set_aside_comes_again_when_its_task_is_held_no_more(self, rig: Rig) -> None:
        assert rig.way_back.can_set_aside
        rig.send(1, 2)
        parcel, other = rig.fetch(2)
        rig.way_back.set_aside(parcel)
        rig.way_back.hand_back()
        rig.way_back.hand_back_aside({TASK})
        assert rig.come_again() == []
        assert rig.way_back.hand_back_aside(set())
        assert rig.come_again() == [1]
        assert not rig.way_back.hand_back_aside(set())
        assert parcel.acknowledged
        assert not other.acknowledged

    def test_what_was_fetched_without_acknowledgement_goes_back_too(self, rig: Rig) -> None:
        """It is nowhere but here."""
        rig.without_acknowledgements()
        rig.send(1, 2, 3)
        parcels = rig.fetch(3)
        rig.stop()
        for parcel in reversed(parcels):
            assert rig.way_back.owe(parcel)
        with rig.away():
            for _ in range(2):
                with pytest.raises(ConnectionError):
                    rig.way_back.hand_back()
        assert rig.way_back.count_owed() == 3
        for _ in range(2):
            rig.way_back.hand_back()
        assert rig.lying() == [1, 2, 3]

    def test_what_was_fetched_without_acknowledgement_survives_the_connection(self, rig: Rig) -> None:
        """One was owed when it was lost, of the other nothing was known yet."""
        rig.without_acknowledgements()
        rig.send(1, 2)
        owed, other = rig.fetch(2)
        rig.way_back.owe(owed)
        rig.reconnect()
        rig.way_back.owe(other)
        for _ in range(2):
            rig.way_back.hand_back()
        assert sorted(rig.lying()) == [1, 2]

    def test_what_was_fetched_without_acknowledgement_can_be_set_aside(self, rig: Rig) -> None:
        rig.without_acknowledgements()
        rig.send(1)
        (parcel,) = rig.fetch(1)
        rig.way_back.set_aside(parcel)
        rig.way_back.hand_back()
        assert rig.come_again() == []
        assert rig.way_back.hand_back_aside(set())
        assert rig.come_again() == [1]

    def test_what_yields_after_the_connection_was_lost_goes_back_over_another(self, rig: Rig) -> None:
        """A worker that stops has no next connection."""
        rig.send(1, 2)
        first, second = rig.fetch(2)
        for parcel in (first, second):
            parcel.acknowledge_early()
        with rig.away():
            for parcel in (second, first):
                rig.way_back.owe_yielded(parcel)
            rig.way_back.hand_back_apart()
        assert sorted(rig.lying()) == [1, 2]
        assert rig.way_back.count_owed() == 0

    def test_at_rest_nothing_is_owed_in_hand_due_or_to_be_said(self, rig: Rig) -> None:
        rig.send(1)
        (parcel,) = rig.fetch(1)
        rig.way_back.keep([parcel])
        assert (rig.way_back.count_owed(), rig.way_back.count_in_hand(), rig.way_back.due_in_s()) == (0, 0, None)
        assert rig.way_back.look_at_redelivery() is None
        assert rig.lying() == []
