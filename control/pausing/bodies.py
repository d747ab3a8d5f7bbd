"""The blocks of R-A6 as JSON: what is ordered, in the shape that every answer has. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from sluicegate.control.holds.namespaces import Truth
from sluicegate.schemas.holds.hold import CAN_END, ENDS, Cause, HoldKey, Holds, Then
from sluicegate.schemas.progress import WorkerView, present_in
from sluicegate.schemas.scopes import GLOBAL, Scope
from sluicegate.schemas.times import to_wire

MANUAL_GLOBAL = HoldKey(scope=GLOBAL, cause=Cause.MANUAL)


def system(truth: Truth) -> dict[str, Any]:
    """The `system` block. Its manual fields speak of the manual global hold alone; `holds` lists all."""
    manual = truth.holds.find(MANUAL_GLOBAL)
    return {
        "workersPaused": bool(at_scope(truth.holds, GLOBAL)),
        "mode": truth.holds.global_mode.word,
        "reason": manual.reason if manual else None,
        "version": truth.holds.version,
        "epoch": truth.epoch,
        "requestedByUserId": manual.actor if manual else None,
        "requestedAt": to_wire(manual.created_at) if manual else None,
        "updatedAt": to_wire(truth.updated_at),
        "holds": [hold.to_wire() for hold in truth.holds.sorted()],
    }


def warnings(scope: Scope, workers: Iterable[WorkerView], then: Then | None = None) -> list[str]:
    """What whoever holds `scope` should know: that it holds nothing now, where it does not, what cannot be ended."""
    present = present_in(workers, GLOBAL)
    inside = present_in(present, scope)
    if present and not inside:
        return [f"no worker is in {scope} now; one that comes will obey"]
    deaf = [worker.beat.nodename for worker in inside if not worker.enforces(scope)]
    told = [f"{nodename} does not enforce {scope.kind} holds: it goes on" for nodename in deaf]
    if then in ENDS:
        unable = [worker.beat for worker in inside if then not in CAN_END.get(worker.beat.pool, ())]
        told += [f"{beat.nodename} ({beat.pool}) cannot {then} a running task: it is asked to stop" for beat in unable]
    return told


def at_scope(holds: Holds, scope: Scope) -> list[str]:
    """The causes that hold at exactly this scope, each once, in order."""
    return sorted({str(hold.cause) for hold in holds.active if hold.scope == scope})


def remaining_at(holds: Holds, scope: Scope) -> list[str]:
    """The same after a resume: one that is being reopened does not remain."""
    staying = frozenset(hold for hold in holds.active if hold.ramp is None)
    return at_scope(replace(holds, active=staying), scope)
