"""Governors and a real worker: a window opens with its lead, a budget runs out, and the worker comes back by itself."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from uuid import uuid4

import pytest

from sluicegate.control.access import tokens
from sluicegate.control.client import Client
from sluicegate.control.process.stack import Stack
from tests.fleet.harness import Fleet
from tests.fleet.waiting import until


@pytest.fixture
def admin(stack: Stack) -> Iterator[Client]:
    with Client(stack.url, tokens.create(stack.postgres.url, f"root-{uuid4().hex[:8]}", "admin")) as client:
        yield client
        for one in client.governors.all().body.governors:
            client.governors.delete(one.kind, one.name, reason="the test is over", version=one.version)


def is_holding(client: Client, kind: str, name: str) -> bool:
    return client.governors.one(kind, name).body.is_holding


def test_a_window_opens_with_its_lead_and_the_worker_comes_back_by_itself(stack: Stack, admin: Client) -> None:
    """Its hold stands at the second of the lead, and is gone at that of the window's end; nothing starts in between."""
    with Fleet(stack) as fleet:
        fleet.start()
        fleet.wait_open()
        spec = {"cron": "* * * * *", "duration": "2s", "lead": "4s"}
        admin.governors.put("window", "minutely", spec, reason="test", version=None)
        until("it is outside the window", lambda: not is_holding(admin, "window", "minutely"), within_s=15)
        with fleet.fed(0.02):
            fleet.wait_more_started(5)
            until("the lead has begun", lambda: is_holding(admin, "window", "minutely"), within_s=70)
            fleet.wait_state("paused")
            fleet.wait_open(within_s=20)
            fleet.wait_more_started(5)
        events = admin.audit({"cause": "window"}).body.events
        placed = next(event for event in events if event.action == "window_paused")
        released = next(event for event in events if event.action == "window_resumed" and event.id > placed.id)
        lead, end = placed.created_at, released.created_at
        assert (lead.second, end.second) == (56, 2)
        assert end - lead < timedelta(seconds=6.5)
        assert released.actor == "sluicegate"
        fleet.wait_done()
        fleet.check()


def test_a_budget_that_runs_out_pauses_the_worker_and_a_raised_one_lets_it_go_on(stack: Stack, admin: Client) -> None:
    """Nine times a tenth of one is nine tenths, each told twice and counted once."""
    with Fleet(stack) as fleet:
        fleet.start()
        fleet.wait_open()
        spec = {"daily": "1.0", "dayHours": "0-23", "nightHours": []}
        version = admin.governors.put("budget", "gpu", spec, reason="test", version=None).body.governor.version

        def spent() -> object:
            return (admin.governors.one("budget", "gpu").body.decision or {}).get("spent")

        before = float(str(until("it was judged", spent)))
        assert before == 0
        for seq in range(8):
            fleet.sender.send_task("fleet.spend", args=(10_000 + seq, "0.1"), queue=fleet.queue)
        until("eight are counted", lambda: spent() == "0.80", within_s=20)
        assert not is_holding(admin, "budget", "gpu")
        fleet.sender.send_task("fleet.spend", args=(10_008, "0.1"), queue=fleet.queue)
        until("the budget holds", lambda: is_holding(admin, "budget", "gpu"), within_s=20)
        fleet.wait_state("paused")
        fleet.sender.send_task("fleet.noop", queue=fleet.queue)
        fleet.stays_still(for_s=1.0)
        admin.governors.put("budget", "gpu", spec | {"daily": "2.0"}, reason="more", version=version)
        fleet.wait_open()
