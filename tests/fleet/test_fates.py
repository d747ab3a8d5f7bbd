"""What becomes of tasks that end otherwise than well while something is held: the receipt says it (R-C5)."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from sluicegate.control.process.stack import Stack
from tests.fleet.harness import Fleet
from tests.fleet.test_drain_receipt import hold, receipt_of
from tests.fleet.waiting import until
from tests.marks import long


@pytest.mark.parametrize("acks_late", [False, long(True)], ids=["early", "late"])
def test_each_task_has_the_fate_that_it_came_to(stack: Stack, tmp_path: Path, acks_late: bool) -> None:
    """On prefork: killed with its child, ended by either limit, revoked, retried, failed; one alone has finished."""
    go = tmp_path / "go"
    with Fleet(stack, acks_late=acks_late, prefetch=1) as fleet:
        fleet.watch()
        fleet.start(slots=7)
        fleet.wait_open()
        ways = {how: fleet.send("ending", str(go), how) for how in ("finish", "fail", "retry", "kill")}
        ways |= {
            "hard": fleet.send("overrun_hard"),
            "soft": fleet.send("overrun_soft"),
            "revoke": fleet.send("nap", 600),
        }
        fleet.wait_started(7)
        scope, version = hold(fleet, "drain")
        try:
            fleet.sender.control.revoke(fleet.ids[ways["revoke"]], terminate=True)
            go.touch()
            made = until("the receipt is on record", partial(receipt_of, fleet, version), within_s=60)
            contents = fleet.contents()
            drain = fleet.client.hold(_hold_of(fleet, scope)).body
        finally:
            fleet.client.resume(reason="test", scope=scope, force=True)
    fates = {task.id: (task.fate, task.how) for task in drain.tasks}
    assert {how: fates[fleet.ids[seq]] for how, seq in ways.items()} == {
        "finish": ("finished", None),
        "fail": ("failed", None),
        "retry": ("retried", None),
        "kill": ("killed", "comes again" if acks_late else "does not come again"),
        "hard": ("overran", None),
        "soft": ("overran", None),
        "revoke": ("revoked", None),
    }
    assert (made["finished"], made["overran"], made["lost"], made["ended"]) == (1, 2, 0, 0)
    assert {task["name"] for task in made["workers"][0]["killedTasks"]} == {"fleet.ending"}
    assert ways["kill"] in {message.seq for message in contents.queued} or not acks_late


@pytest.mark.parametrize("pool", ["threads", long("gevent"), long("solo")])
def test_pools_in_the_process_tell_how_a_run_ended(stack: Stack, tmp_path: Path, pool: str) -> None:
    go = tmp_path / "go"
    ways = ("retry",) if pool == "solo" else ("finish", "fail", "retry")
    with Fleet(stack, pool=pool, prefetch=1) as fleet:
        fleet.watch()
        fleet.start(slots=len(ways))
        fleet.wait_open()
        for how in ways:
            fleet.send("ending", str(go), how)
        fleet.wait_started(len(ways))
        until("its heartbeat tells of them", lambda: fleet.words("w1")[0].running == len(ways))
        scope, version = hold(fleet, "drain")
        try:
            go.touch()
            made = until("the receipt is on record", partial(receipt_of, fleet, version), within_s=60)
        finally:
            fleet.client.resume(reason="test", scope=scope, force=True)
    counts = {name: made[name] for name in ("finished", "failed", "retried", "killed", "ended", "lost")}
    expected = dict.fromkeys(counts, 0) | {
        {"finish": "finished", "fail": "failed", "retry": "retried"}[w]: 1 for w in ways
    }
    assert counts == expected


def _hold_of(fleet: Fleet, scope: str) -> str:
    return next(one.id for one in fleet.client.read().body.system.holds if one.scope == scope)
