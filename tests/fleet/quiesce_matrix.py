"""Three workers of four slots on tasks of many items, quiesced and resumed: how soon all stop, and what they did.

Half of the tasks wait and half yield, half of each are acknowledged early and half late, on whichever pool and broker.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass

from sluicegate.control.process.stack import Stack
from tests.fleet.harness import Fleet
from tests.fleet.long_runs import EARLY, LATE, MODULE, WAIT, YIELD
from tests.fleet.rabbit import Rabbit
from tests.fleet.records import microseconds
from tests.fleet.waiting import until

WORKERS = ("w1", "w2", "w3")
SLOTS = 4
SENT_KINDS = tuple(f"{way}_{acks}" for way in (WAIT, YIELD) for acks in (EARLY, LATE))
STOPPED_WITHIN_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Quiesced:
    """What came of it. Milliseconds are from the call of a quiesce, the longest of them all.

    `last_item_ms`: to the end of the last item. `told_ms`: until every worker had said that its slots are free or
    wait at a checkpoint. `went_on`: items done while all stood still.
    """

    items: int
    missing: int
    repeated: int
    late_starts: int
    waited: int
    yielded: int
    went_on: int
    last_item_ms: float
    told_ms: float

    @property
    def is_exact(self) -> bool:
        """Was every item done once, and nothing while all stood still?"""
        return not (self.missing or self.repeated or self.late_starts or self.went_on)


def quiesce(
    stack: Stack,
    *,
    pool: str = "prefork",
    rabbit: Rabbit | None = None,
    queue_type: str = "classic",
    items: int,
    item_s: float,
    quiesces: int,
    rounds: int = 1,
) -> Quiesced:
    """Quiesce and resume a fleet that has `rounds` tasks for each of its slots, `quiesces` times in its work."""
    with Fleet(stack, pool=pool, prefetch=1, rabbit=rabbit, queue_type=queue_type) as fleet:
        fleet.watch()
        for name in WORKERS:
            fleet.start(name, slots=SLOTS, module=MODULE, wait=False)
        fleet.wait_ready()
        fleet.wait_open()
        count = rounds * SLOTS * len(WORKERS)
        tasks = [fleet.send(f"steps_{SENT_KINDS[n % len(SENT_KINDS)]}", items, item_s) for n in range(count)]
        last_item_ms = told_ms = 0.0
        waited = went_on = 0
        within_s = 60 + rounds * items * item_s * 4
        for number in range(quiesces):
            wanted = count * items * (number + 1) // (quiesces + 2)
            until(f"{wanted} items are done", lambda w=wanted: len(fleet.items()) >= w, within_s=within_s)  # type: ignore[misc]
            called_us = microseconds(time.time())
            fleet.pause(mode="quiesce")
            fleet.wait_acknowledged()
            until(
                "all slots are free or wait at a checkpoint",
                lambda: all(word.running == word.waiting for word in fleet.words()),
                within_s=STOPPED_WITHIN_S + item_s,
                every_s=0.005,
            )
            told_ms = max(told_ms, (microseconds(time.time()) - called_us) / 1000)
            last_item_ms = max(last_item_ms, (max(item.at_us for item in fleet.items()) - called_us) / 1000)
            waited += sum(word.waiting for word in fleet.words())
            before = len(fleet.items())
            fleet.stays_still(for_s=0.3)
            went_on += len(fleet.items()) - before
            fleet.resume()
        until("every task is done", lambda: fleet.ended() == set(tasks), within_s=within_s, every_s=0.05)
        times = Counter((done.seq, done.item) for done in fleet.items())
        return Quiesced(
            items=count * items,
            missing=count * items - len(times),
            repeated=times.total() - len(times),
            late_starts=len(fleet.check().late_starts),
            waited=waited,
            yielded=sum(record.event == "yield" for record in fleet.read_records()),
            went_on=went_on,
            last_item_ms=round(last_item_ms, 1),
            told_ms=round(told_ms, 1),
        )
