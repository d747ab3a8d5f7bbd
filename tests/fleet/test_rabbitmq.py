"""The promises on RabbitMQ, with classic and quorum queues (R-B2 to R-B4, docs/decisions/0022-rabbitmq.md)."""

from __future__ import annotations

import re
import time
from collections import Counter

import pytest
from kombu import Connection, Exchange, Queue

from sluicegate.control.client import Reply
from sluicegate.control.links.broadcast import COMMAND, Broadcast
from sluicegate.control.links.broker import Broker
from sluicegate.control.process.stack import Stack
from sluicegate.schemas.api.pausing import ChangeAnswer
from sluicegate.schemas.settings import IN_HAND_S
from sluicegate.schemas.snapshots import Edition
from tests.fleet import app as fleet_app
from tests.fleet.harness import Fleet
from tests.fleet.rabbit import Rabbit
from tests.fleet.waiting import until
from tests.marks import long

QUEUE_TYPES = ["classic", "quorum"]
PREFETCH, SLOTS = 4, 2


@pytest.mark.parametrize(
    ("queue_type", "acks_late", "prefetch"),
    [("classic", False, 4), long("classic", True, 1), long("quorum", False, 1), ("quorum", True, 4)],
)
def test_s1_s5_s6_l3_a_busy_worker_drains_and_resumes(
    stack: Stack, rabbit: Rabbit, queue_type: str, acks_late: bool, prefetch: int
) -> None:
    """S1: no start after the acknowledgement. S5, S6: each task once, in the order sent. L3: all run in the end."""
    with Fleet(stack, rabbit=rabbit, queue_type=queue_type, acks_late=acks_late, prefetch=prefetch) as fleet:
        fleet.watch()
        fleet.start()
        fleet.wait_open()
        fleet.send_naps(600, 0.02)
        for pause in range(3):
            fleet.wait_started(30 * (pause + 1))
            fleet.pause()
            drained = fleet.wait_drained()
            assert drained.contents.queued, "the pause came too late to show anything"
            fleet.resume()
        fleet.wait_done()
        verdict = fleet.check()
    assert verdict.broken == {}
    assert verdict.ended == 600


@pytest.mark.long
@pytest.mark.parametrize("queue_type", QUEUE_TYPES)
def test_s1_s5_s6_two_busy_workers_drain_together(stack: Stack, rabbit: Rabbit, queue_type: str) -> None:
    """A classic queue is back in its order, whoever returned what; of a quorum queue each keeps its own in hand."""
    with Fleet(stack, rabbit=rabbit, queue_type=queue_type) as fleet:
        fleet.watch()
        for name in ("w1", "w2"):
            fleet.start(name, wait=False)
        fleet.wait_ready()
        fleet.wait_open()
        fleet.send_naps(480, 0.04)
        for pause in range(3):
            fleet.wait_started(30 * (pause + 1))
            fleet.pause()
            queued = [message.seq for message in fleet.wait_drained().contents.queued]
            assert queued
            assert queued == sorted(queued)
            fleet.resume()
        fleet.wait_done()
        verdict = fleet.check()
    assert verdict.broken == {}
    assert verdict.ended == 480


@pytest.mark.parametrize(("queue_type", "acks_late"), [long("classic", False), ("quorum", True)])
def test_s1_s4_s5_a_worker_killed_while_paused_and_started_again_starts_nothing(
    stack: Stack, rabbit: Rabbit, queue_type: str, acks_late: bool
) -> None:
    """S1 binds later lives too; what the dead one had in hand stands at the head again, in its order."""
    with Fleet(stack, rabbit=rabbit, queue_type=queue_type, acks_late=acks_late) as fleet:
        fleet.watch()
        worker = fleet.start()
        fleet.wait_open()
        fleet.send_naps(150, 0.02)
        fleet.wait_started(10)
        fleet.pause()
        before = fleet.wait_drained().contents
        held = fleet.count_unacked()
        assert held == (PREFETCH * SLOTS if queue_type == "quorum" else 0)
        until("its heartbeat tells of them", lambda: fleet.words()[0].reserved == held)
        (old,) = fleet.words()
        worker.kill()
        until("RabbitMQ has noticed", lambda: fleet.count_unacked() == 0)
        assert fleet.contents() == before
        fleet.restart()
        until("the new life is seen", lambda: fleet.words()[0].incarnation != old.incarnation)
        fleet.wait_acknowledged()
        fleet.stays_still(for_s=0.7)
        assert fleet.count_unacked() == 0, "it consumes nothing"
        assert fleet.contents() == before
        fleet.resume()
        fleet.wait_done()
        verdict = fleet.check()
    assert verdict.broken == {}
    assert verdict.ended == 150


@pytest.mark.long
@pytest.mark.parametrize("acks_late", [False, True], ids=["early", "late"])
def test_s5_a_worker_killed_while_it_still_drains_loses_no_more_than_plain_celery(
    stack: Stack, rabbit: Rabbit, acks_late: bool
) -> None:
    """S5: at most what was running, and with late acknowledgement not even that: RabbitMQ has it back at once."""
    with Fleet(stack, rabbit=rabbit, queue_type="quorum", acks_late=acks_late) as fleet:
        fleet.watch()
        fleet.start()
        fleet.wait_open()
        fleet.send_naps(12, 2.0)
        fleet.wait_started(2)
        fleet.pause()
        fleet.wait_acknowledged()
        fleet.workers["w1"].kill()
        until("RabbitMQ has noticed", lambda: fleet.count_unacked() == 0)
        verdict = fleet.check()
        waiting = {message.seq for message in fleet.contents().queued}
    assert waiting == set(range(12 if acks_late else 2, 12)) | (set(range(12)) if acks_late else set())
    assert not verdict.late_starts
    assert not verdict.lost
    assert verdict.interrupted == (() if acks_late else (0, 1))


@pytest.mark.parametrize(
    ("queue_type", "how"),
    # A classic queue whose server is killed forgets the acknowledgements of its last moment, pause or no pause.
    [long("classic", "stopped"), ("classic", "cut off"), long("quorum", "killed"), long("quorum", "cut off")],
)
def test_s1_s5_s6_a_broker_lost_while_paused_changes_nothing(
    stack: Stack, rabbit: Rabbit, queue_type: str, how: str
) -> None:
    """R-B3: the worker returns, consumes nothing, and has forgotten what RabbitMQ took back from it."""
    if how == "killed":
        # A server that has known other queues, deleted since, did not have all of this one again (RabbitMQ 3.10, 2 of 2
        # times); one that knows no other did.
        rabbit.renew()
    with Fleet(stack, rabbit=rabbit, queue_type=queue_type) as fleet:
        fleet.watch()
        worker = fleet.start()
        fleet.wait_open()
        fleet.send_naps(60, 0.02)
        fleet.wait_started(10)
        fleet.pause()
        before = fleet.wait_drained().contents
        if how == "cut off":
            rabbit.close_all_connections()
        else:
            (rabbit.stop if how == "stopped" else rabbit.kill)()
            rabbit.start()
        until("it has connected again", lambda: len(re.findall("Connected to amqp", worker.process.output)) > 1)
        until("it answers", fleet.ping, within_s=30)
        fleet.stays_still(for_s=0.5)
        assert fleet.count_unacked() == 0
        assert fleet.contents() == before
        fleet.resume()
        fleet.wait_done()
        verdict = fleet.check()
    assert verdict.broken == {}
    assert verdict.ended == 60


@pytest.mark.parametrize(("queue_type", "acks_late"), [long("classic", True), ("quorum", False)])
def test_s1_s5_s6_countdowns_retries_and_rate_limits_wait(
    stack: Stack, rabbit: Rabbit, queue_type: str, acks_late: bool
) -> None:
    """In a classic queue the worker waits for the ETA; from a quorum queue Celery sends it by RabbitMQ's own delay."""
    with Fleet(stack, rabbit=rabbit, queue_type=queue_type, acks_late=acks_late) as fleet:
        fleet.watch()
        fleet.start()
        fleet.wait_open()
        sent_at = time.time()
        late = [fleet.send("nap", 0.01, countdown_s=4.0) for _ in range(3)]
        for _ in range(8):
            fleet.send("nap", 0.01, countdown_s=2.0)
            fleet.send("stubborn", 2, 1.0)
            fleet.send("limited", waits=True)
        fleet.wait_started(10)
        fleet.pause()
        fleet.wait_drained()
        until("the countdowns are overdue", lambda: time.time() > sent_at + 2.7)
        fleet.stays_still(for_s=0.3)
        fleet.resume()
        fleet.wait_done()
        verdict = fleet.check()
        records = fleet.read_records()
    # What RabbitMQ delays enters the queue when it is due, and has no place there before.
    is_delayed = queue_type == "quorum"
    assert {what: n for what, n in verdict.broken.items() if not (is_delayed and what == "displaced")} == {}
    assert verdict.ended == 27
    assert [record.note for record in records if record.note] == ["2"] * 8, "no retry was burned"
    starts = [record.at_us / 1e6 for record in records if record.event == "start" and record.seq in late]
    assert min(starts) >= sent_at + 4.0, "a pause does not hasten a countdown"


@pytest.mark.long
def test_s5_a_pause_does_not_count_against_a_delivery_limit(stack: Stack, rabbit: Rabbit) -> None:
    """With a limit of 1, a message that is returned twice is dropped: six pauses return none."""
    with Fleet(stack, rabbit=rabbit, queue_type="quorum", environ={fleet_app.DELIVERY_LIMIT: "1"}) as fleet:
        fleet.watch()
        fleet.start()
        fleet.wait_open()
        fleet.send_naps(2, 6.0)
        fleet.send_naps(20, 0.01)
        fleet.wait_started(2)
        until("the rest of the prefetch is there", lambda: fleet.count_unacked() == PREFETCH * SLOTS)
        for _ in range(6):
            fleet.pause()
            fleet.wait_acknowledged()
            fleet.resume()
            fleet.wait_open()
            assert fleet.count_unacked() == PREFETCH * SLOTS, "a worker does not fetch more with each pause"
        fleet.wait_done()
        verdict = fleet.check()
    assert verdict.broken == {}
    assert verdict.ended == 22


@pytest.mark.long
def test_s5_s6_what_was_in_hand_for_long_goes_back_in_its_order(stack: Stack, rabbit: Rabbit) -> None:
    """Longer than RabbitMQ's consumer timeout it must not stay; a message at its limit stays all the same."""
    environ = {fleet_app.DELIVERY_LIMIT: "1", IN_HAND_S.name: "1"}
    with Fleet(stack, rabbit=rabbit, queue_type="quorum", environ=environ) as fleet:
        fleet.watch()
        fleet.start()
        fleet.wait_open()
        fleet.send_naps(60, 0.02)
        fleet.wait_started(10)
        fleet.pause()
        before = fleet.wait_drained().contents
        assert fleet.count_unacked() == PREFETCH * SLOTS
        until("all went back", lambda: fleet.count_unacked() == 0)
        assert fleet.contents().queued == before.queued
        until("the worker says so", lambda: fleet.words()[0].reserved == 0)
        fleet.send_naps(1, 0.01)
        fleet.stays_still(for_s=0.5)
        assert fleet.count_unacked() == 0, "it has cancelled"
        fleet.resume()
        fleet.wait_started(20)
        fleet.pause()
        fleet.wait_drained()
        fleet.stays_still(for_s=2.0)
        fleet.resume()
        fleet.wait_done()
        verdict = fleet.check()
    assert verdict.broken == {}
    assert verdict.ended == 61


@pytest.mark.parametrize("queue_type", QUEUE_TYPES)
def test_the_control_plane_reads_the_depth_of_queues(rabbit: Rabbit, queue_type: str) -> None:
    """R-C4: what is ready, of all queues asked for together; a queue that is not there yet holds none."""
    name = f"depth-{queue_type}"
    with Connection(rabbit.url) as connection:
        queue = Queue(name, Exchange(name), routing_key=name, queue_arguments={"x-queue-type": queue_type})
        with connection.Producer() as producer:
            for number in range(3):
                producer.publish(number, exchange=queue.exchange, routing_key=name, declare=[queue])
        broker = Broker(rabbit.url)
        until("three are ready", lambda: broker.depths([name, "not-there"]) == {name: 3, "not-there": 0})
        queue(connection.default_channel).delete()


def test_a_rabbitmq_that_hangs_gives_no_depth(rabbit: Rabbit) -> None:
    """R-C4: no figure is better than a wrong one, and it is not waited for without end."""
    rabbit.freeze()
    began = time.monotonic()
    assert Broker(rabbit.url).depths(["any"]) is None
    assert time.monotonic() - began < 10
    rabbit.thaw()


def test_the_broadcast_reaches_rabbitmq(rabbit: Rabbit) -> None:
    """The hint reaches Celery's mailbox, which every worker reads."""
    with Connection(rabbit.url) as connection:
        mailbox = Exchange("celery.pidbox", type="fanout", durable=False)
        queue = Queue("broadcast-test", mailbox, exclusive=True, durable=False, auto_delete=True)(
            connection.default_channel
        )
        queue.declare()
        broadcast = Broadcast(rabbit.url)
        broadcast.start()
        try:
            broadcast.ask(Edition(1, 7))
            message = until("the hint is there", lambda: queue.get(no_ack=True))
        finally:
            broadcast.stop()
    assert message is not None
    assert message.payload["method"] == COMMAND
    assert message.payload["arguments"] == {"epoch": 1, "version": 7}


def wait_applied(fleet: Fleet, answer: Reply[ChangeAnswer]) -> None:
    """Return once the one worker says that this order is in force."""
    until("it is in force", lambda: fleet.words()[0].edition[1] >= answer.body.system.version)


@pytest.mark.parametrize("queue_type", [long("classic"), "quorum"])
def test_s1_s5_s6_holds_on_a_task_and_on_a_queue_act_on_those_alone(
    stack: Stack, rabbit: Rabbit, queue_type: str
) -> None:
    """R-B8: a held task is kept in hand and the others of its queue run; a held queue starts nothing."""
    with Fleet(stack, rabbit=rabbit, queue_type=queue_type) as fleet:
        fleet.watch()
        fleet.start()
        fleet.wait_open()
        wait_applied(fleet, fleet.client.pause(mode="drain", reason="test", scope="task:fleet.limited"))
        held = {fleet.send("limited", waits=True) for _ in range(3)}
        others = set(fleet.send_naps(20, 0.01))
        until("the others are done", lambda: fleet.ended() == others)
        assert fleet.count_unacked() == 3
        wait_applied(fleet, fleet.client.pause(mode="drain", reason="test", scope=f"queue:{fleet.queue}"))
        fleet.client.resume(reason="test", scope="task:fleet.limited", force=True)
        more = set(fleet.send_naps(10, 0.01))
        fleet.stays_still(for_s=0.7)
        fleet.client.resume(reason="test", scope=f"queue:{fleet.queue}", force=True)
        until("all are done", lambda: fleet.ended() == others | held | more)
        until("RabbitMQ knows", lambda: fleet.count_unacked() == 0)
        starts = [record.seq for record in fleet.read_records() if record.event == "start"]
    assert sorted(starts) == sorted(others | held | more)


@pytest.mark.parametrize(("queue_type", "acks_late"), [("classic", False), long("quorum", True)])
def test_s5_s6_tasks_that_yield_at_a_checkpoint_go_on_where_they_stopped(
    stack: Stack, rabbit: Rabbit, queue_type: str, acks_late: bool
) -> None:
    """R-B5: one that was acknowledged early is sent again, one that was not comes back as it was."""
    with Fleet(stack, rabbit=rabbit, queue_type=queue_type, acks_late=acks_late) as fleet:
        fleet.watch()
        fleet.start()
        fleet.wait_open()
        tasks = [fleet.send("steps_yield", 12, 0.1) for _ in range(4)]
        until("some items are done", lambda: len(fleet.items()) >= 5)
        fleet.pause(mode="quiesce")
        fleet.wait_acknowledged()
        until("the running tasks have stopped", lambda: not fleet.words()[0].running, within_s=5)
        before = len(fleet.items())
        fleet.stays_still(for_s=0.6)
        assert len(fleet.items()) == before
        fleet.resume()
        fleet.wait_done()
        done = Counter((item.seq, item.item) for item in fleet.items())
    assert done == {(task, item): 1 for task in tasks for item in range(12)}
