"""A fleet that is reopened worker by worker (R-G4)."""

from __future__ import annotations

from sluicegate.control.process.stack import Stack
from tests.fleet.harness import Fleet
from tests.fleet.waiting import until


def hold(fleet: Fleet, scope: str) -> None:
    """Held, and applied by every worker."""
    version = fleet.client.pause(mode="drain", reason="test", scope=scope).body.system.version
    until("all have applied it", lambda: all(word.edition[1] >= version for word in fleet.words()))


def test_l3_workers_come_one_after_another_and_everything_is_done(stack: Stack) -> None:
    """Three workers a second apart; a pause in the middle of it holds all of them again."""
    with Fleet(stack) as fleet:
        fleet.watch()
        names = ("w1", "w2", "w3")
        for name in names:
            fleet.start(name, wait=False)
        fleet.wait_ready()
        fleet.wait_open()
        scope = f"queue:{fleet.queue}"
        hold(fleet, scope)
        tasks = {fleet.send("nap", 0.05) for _ in range(120)}
        fleet.client.resume(reason="test", scope=scope, ramp="20/m", force=True)
        until("the first has come", lambda: len(fleet.started()) > 5)
        hold(fleet, scope)
        first = {record.nodename for record in fleet.read_records() if record.event == "start"}
        before = fleet.started()
        fleet.stays_still(for_s=0.5)
        fleet.client.resume(reason="test", scope=scope, ramp="1/s", force=True)
        until("all is done", lambda: fleet.ended() == tasks, within_s=30)
        since = [record for record in fleet.read_records() if record.event == "start" and record.seq not in before]
        verdict = fleet.check()
    assert first == {fleet.workers["w1"].nodename}, "the others' turns were seconds away"
    began: dict[str, int] = {}
    for record in since:
        began.setdefault(record.nodename, record.at_us)
    order = sorted(began, key=lambda nodename: began[nodename])
    assert order == [fleet.workers[name].nodename for name in names[: len(order)]]
    assert verdict.lost == ()
    assert verdict.duplicated == ()
