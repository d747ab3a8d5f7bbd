"""Whoever sends a task chooses its id: one that nobody can store runs as any other, and costs nobody anything."""

from __future__ import annotations

import pytest
from sqlalchemy import NullPool, create_engine, text

from sluicegate.control.process.stack import Stack
from sluicegate.control.store.connection import parse_url
from sluicegate.schemas.settings import DATABASE_URL
from tests.fleet.harness import Fleet
from tests.fleet.waiting import until

IDS = ("a\0b", "\ud800x", "i" * 3000)


def remembered(stack: Stack) -> set[str]:
    """The workers that the database knows."""
    engine = create_engine(parse_url(stack.control_environ[DATABASE_URL.name]), poolclass=NullPool)
    try:
        with engine.connect() as connection:
            return set(connection.execute(text("select nodename from workers")).scalars())
    finally:
        engine.dispose()


@pytest.mark.timeout(200)
def test_l4_tasks_with_ids_that_cannot_be_stored_run_and_are_followed(stack: Stack) -> None:
    """While they run, who comes is remembered, a pause drains, and its receipt knows what became of them."""
    with Fleet(stack) as fleet:
        fleet.start(slots=len(IDS))
        fleet.wait_open()
        for task_id in IDS:

            def send(seq: int, task_id: str = task_id) -> None:
                fleet.sender.send_task("fleet.nap", args=(seq, 20), task_id=task_id)

            fleet.note_sent(send)
        fleet.wait_started(len(IDS))
        newcomer = fleet.start("w2")
        fleet.wait_open()
        until("the newcomer is remembered", lambda: newcomer.nodename in remembered(stack), within_s=10)
        assert not fleet.ended(), "too late to tell"
        scope = f"queue:{fleet.queue}"
        fleet.client.pause(mode="drain", reason="deploy", scope=scope)
        until("it has drained", lambda: fleet.client.read(scope).body.metrics.is_drained, within_s=60)
        assert len(fleet.ended()) == len(IDS)
        fleet.client.resume(reason="the test is over", scope=scope)
        fleet.wait_done()
