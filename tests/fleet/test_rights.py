"""Whoever may not change anything changes nothing, and the audit says that they tried."""

from __future__ import annotations

import pytest

from sluicegate.control.access import tokens
from sluicegate.control.client import Client
from sluicegate.control.process.stack import Stack
from sluicegate.schemas.errors import NotAllowed, NotAuthenticated
from tests.fleet.harness import Fleet


def test_s8_a_viewer_and_a_stranger_neither_open_a_paused_fleet_nor_stop_a_running_one(stack: Stack) -> None:
    """S8: refused, no version made, nothing done by any worker, and each attempt stands in the audit."""
    viewer = tokens.create(stack.postgres.url, "a viewer", "viewer")
    with (
        Fleet(stack) as fleet,
        Client(stack.url, viewer) as as_viewer,
        Client(stack.url, "slg_" + "0" * 43) as as_stranger,
    ):
        fleet.watch()
        fleet.start()
        fleet.wait_open()
        before = fleet.client.read().body.system.version
        for client, refusal in ((as_viewer, NotAllowed), (as_stranger, NotAuthenticated)):
            with pytest.raises(refusal):
                client.pause(mode="drain", reason="not mine to order")
        fleet.send_naps(40, 0.02)
        fleet.wait_started(5)
        fleet.pause()
        fleet.wait_drained()
        for client, refusal in ((as_viewer, NotAllowed), (as_stranger, NotAuthenticated)):
            with pytest.raises(refusal):
                client.resume(reason="not mine to order", force=True)
        fleet.stays_still(for_s=1.0)
        after = fleet.client.read().body.system
        denied = [event for event in fleet.client.audit().body.events if event.outcome == "denied"]
        fleet.resume()
        fleet.wait_done()
        verdict = fleet.check()
    assert (after.version, after.workers_paused) == (before + 1, True)
    assert sorted((event.action, event.actor) for event in denied[:4]) == [
        # Of a stranger's request no body is read.
        ("change", "anonymous"),
        ("change", "anonymous"),
        ("pause", "a viewer"),
        ("resume", "a viewer"),
    ]
    assert verdict.broken == {}
