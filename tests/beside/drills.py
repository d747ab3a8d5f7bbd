"""What every library goes through: work, a pause in the middle of it, and a look at what the library did meanwhile."""

from __future__ import annotations

from tests.beside.fleet import BesideFleet
from tests.fleet.checker import Verdict

TASKS = 60


def drain_midway(fleet: BesideFleet, *, tasks: int = TASKS, started: int = 10) -> None:
    """`tasks` of the library's kind, held once `started` of them have begun, and let go on."""
    fleet.send_work(tasks)
    hold_midway(fleet, started=started)


def hold_midway(fleet: BesideFleet, *, started: int = 10) -> None:
    """A pause in the middle of what was sent: something waits in it, and all is done in the end."""
    fleet.wait_started(started)
    fleet.pause()
    let_go(fleet)


def let_go(fleet: BesideFleet) -> None:
    """The end of a pause in which something waits: all is done in the end."""
    assert fleet.wait_drained().contents.queued, "the pause came too late to hold anything"
    fleet.resume()
    fleet.wait_done()


def quiesce_midway(fleet: BesideFleet) -> None:
    """Four tasks of twenty items each yield in the middle, and go on: every item is done once."""
    numbers = set(fleet.send_work(4, "fleet.steps_yield"))
    before = len(fleet.items())
    fleet.wait_started(len(fleet.started() - numbers) + 2)
    fleet.pause(mode="quiesce")
    fleet.wait_acknowledged()
    fleet.wait_drained()
    assert len(fleet.items()) - before < 80, "the pause came too late to hold anything"
    fleet.resume()
    fleet.wait_done()
    done = [(item.seq, item.item) for item in fleet.items() if item.seq in numbers]
    assert sorted(done) == sorted((seq, item) for seq in numbers for item in range(20))


def runs_of(fleet: BesideFleet, *numbers: int) -> int:
    """How often the tasks with these numbers (none: all) have started."""
    return sum(record.event == "start" for record in fleet.read_records() if not numbers or record.seq in numbers)


def judged(fleet: BesideFleet) -> Verdict:
    """The checker's verdict, which must be clean."""
    verdict = fleet.check()
    assert verdict.broken == {}, verdict
    return verdict
