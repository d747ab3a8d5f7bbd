"""A queue without acknowledgements (`Queue(no_ack=True)`): the broker forgets each message as it gives it out."""

from __future__ import annotations

import time

import pytest

from sluicegate.control.process.stack import Stack
from tests.fleet import app as fleet_app
from tests.fleet.harness import Fleet
from tests.fleet.rabbit import Rabbit
from tests.fleet.waiting import until

VISIBILITY_S = 4
COUNT = 8


@pytest.mark.parametrize("broker", ["redis", "rabbitmq"])
def test_s5_s6_what_was_fetched_without_acknowledgement_is_not_lost_in_a_pause(
    request: pytest.FixtureRequest, stack: Stack, broker: str
) -> None:
    """S5, S6: it goes back, however long it was in hand (on Redis: for more than half the visibility timeout)."""
    rabbit: Rabbit | None = request.getfixturevalue("rabbit") if broker == "rabbitmq" else None
    with Fleet(stack, environ={fleet_app.NO_ACK: "1"}, visibility_s=VISIBILITY_S, rabbit=rabbit) as fleet:
        fleet.watch()
        worker = fleet.start(slots=1, environ={fleet_app.ACKS_LATE: "1"})
        fleet.wait_open()
        end = fleet.directory / "end"
        blocker = fleet.send("told", str(end))
        fleet.wait_started(1)
        rest = fleet.send_naps(COUNT, 0.01)
        until("all are in hand", lambda: not fleet.depth())
        in_hand_since = time.time()
        until("they have been for long", lambda: time.time() > in_hand_since + VISIBILITY_S / 2 + 0.5)
        fleet.pause()
        until("they are handed back", lambda: fleet.depth() == COUNT)
        # In the pause: its message needs no acknowledgement, and RabbitMQ would close the channel over one.
        end.touch()
        until("the running one ends", lambda: blocker in fleet.ended())
        fleet.wait_acknowledged()
        assert fleet.started() == {blocker}
        fleet.resume()
        until("all have run", lambda: fleet.ended() == {blocker, *rest})
        starts = [record.seq for record in fleet.read_records() if record.event == "start"]
        log = worker.process.output
    assert starts == [blocker, *rest], "each once, in their order"
    assert "PRECONDITION_FAILED" not in log
    assert "Connection to broker lost" not in log
