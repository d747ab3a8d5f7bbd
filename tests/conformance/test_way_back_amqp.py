"""The way back to RabbitMQ, as a way back."""

from __future__ import annotations

import pytest

from tests.conformance.amqp import AmqpRig
from tests.conformance.way_back import WayBackFacts


class TestAmqp(WayBackFacts):
    @pytest.fixture
    def rig(self) -> AmqpRig:
        return AmqpRig()

    def test_nothing_is_acknowledged_that_needs_none_also_after_its_consumer_was_cancelled(self, rig: AmqpRig) -> None:
        """A task that ends in a pause: RabbitMQ closes the channel over an acknowledgement that it did not ask for."""
        rig.without_acknowledgements()
        rig.send(1)
        (parcel,) = rig.fetch(1)
        rig.stop()
        parcel.acknowledge_early()

    def test_what_was_set_aside_and_needed_no_acknowledgement_goes_back_when_the_worker_stops(
        self, rig: AmqpRig
    ) -> None:
        """All else RabbitMQ returns by itself."""
        rig.without_acknowledgements()
        rig.send(1)
        (parcel,) = rig.fetch(1)
        rig.way_back.set_aside(parcel)
        rig.way_back.finish()
        assert rig.way_back.count_owed() == 1
        rig.way_back.hand_back()
        assert rig.lying() == [1]
