"""What an operator writes stands in each worker's log, and is no line of its own there."""

from __future__ import annotations

from sluicegate.control.process.stack import Stack
from tests.fleet.harness import Fleet
from tests.fleet.waiting import until

FORGED = "[2026-01-31 00:00:00,000: WARNING/MainProcess] sluicegate: resumed at version 9.9"


def test_a_reason_forges_no_line_in_the_log_of_a_worker(stack: Stack) -> None:
    """Newlines, ESC and C1: the line tells them, and whoever reads the log by lines or on a terminal is not misled."""
    with Fleet(stack) as fleet:
        worker = fleet.start()
        fleet.wait_open()
        fleet.pause(reason=f"deploy\n{FORGED}\r\x1b[2J\x9b1A\u202e")
        until("the worker has told of the pause", lambda: "sluicegate: paused" in worker.log.read_text(), within_s=30)
        fleet.resume()
        lines = worker.log.read_text().split("\n")
    assert FORGED not in lines
    (told,) = [line for line in lines if "sluicegate: paused" in line]
    assert rf"deploy\n{FORGED}\r\x1b[2J\x9b1A\u202e" in told
