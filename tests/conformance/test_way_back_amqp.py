"""The way back to RabbitMQ, as a way back."""

from __future__ import annotations

import pytest

from tests.conformance.amqp import AmqpRig
from tests.conformance.way_back import WayBackFacts


class TestAmqp(WayBackFacts):
    @pytest.fixture
    def rig(self) -> AmqpRig:
        return AmqpRig()
