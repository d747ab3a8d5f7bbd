"""What whoever holds a scope should know about it. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sluicegate.schemas.holds.hold import CAN_END, ENDS
from sluicegate.schemas.lives import clashes
from sluicegate.schemas.progress import WorkerView, present_in
from sluicegate.schemas.scopes import GLOBAL, Scope

NAMED = 3
UNREAD = "{} heartbeats are too many or too large, and were not read: nothing is drained as far as is known"


def warnings(
    scope: Scope,
    workers: Iterable[WorkerView],
    then: str | None = None,
    *,
    strangers: Sequence[str] = (),
    unread: int = 0,
) -> list[str]:
    """A line each: that the hold holds nothing now, where it does not; who shares a name or does not obey; what cannot
    be ended.

    `strangers`: who consumes here, and is heard by nobody. `unread`: how many heartbeats were not read.
    """
    over = [UNREAD.format(unread)] if unread else []
    present = present_in(workers, GLOBAL)
    inside = present_in(present, scope)
    unheard = [_unheard(strangers)] if strangers else []
    if not inside:
        where = f"is in {scope} now" if present else "is known here (a wrong namespace, or none can send a heartbeat?)"
        return [f"no worker {where}; one that comes will obey", *unheard, *over]
    deaf = [worker.beat.nodename for worker in inside if not worker.enforces(scope)]
    told = over + clashes((worker.beat.nodename, worker.namesakes) for worker in inside)
    told += [
        f"{worker.beat.nodename} stands at {worker.beat.stands_at}, ahead of {worker.desired}: it takes no order until "
        "the epoch is raised above it (docs/recovery.md)"
        for worker in inside
        if worker.is_ahead
    ]
    told += [
        f"{worker.beat.nodename}: what stands in the place of its heartbeat is not its own; it is not called drained"
        for worker in inside
        if worker.is_forged
    ]
    told += unheard
    told += [f"{nodename} does not enforce {scope.kind} holds: it goes on" for nodename in deaf]
    told += [
        f"{worker.beat.nodename} handles messages beside the gate: {', '.join(worker.beat.beside)} goes on"
        for worker in inside
        if worker.beat.beside
    ]
    if then in ENDS:
        unable = [worker.beat for worker in inside if then not in CAN_END.get(worker.beat.pool, ())]
        told += [f"{beat.nodename} ({beat.pool}) cannot {then} a running task: it is asked to stop" for beat in unable]
    return told


def _unheard(strangers: Sequence[str]) -> str:
    more = len(strangers) - NAMED
    named = ", ".join(strangers[:NAMED]) + (f" and {more} more" if more > 0 else "")
    are = "consumes" if len(strangers) == 1 else "consume"
    return f"{named} {are} here, and no heartbeat comes from there: what is held may go on there"
