"""What is put on record of the holds that workers place on themselves, and what of it is released again. Pure.

    told by a worker ──▶ on record ──▶ its worker tells of it no more ──▶ released
                             ├──────▶ cleared by an operator, and its worker has let go ──▶ released
                             └──────▶ its worker said goodbye LEFT_FOR ago, or is not known any more ──▶ released

Not telling of it is evidence only of a life that has applied an edition in which it stands: one that has just started
has not read the record yet, and takes over from it what its file does not know. A silent worker's last word stands.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from sluicegate.schemas.beats import WorkerState
from sluicegate.schemas.health.local_holds import (
    OWN_CAUSES,
    OWN_SCOPES,
    LocalHold,
    in_own_scope,
    is_cleared,
    owner_of,
)
from sluicegate.schemas.holds.hold import Hold, HoldKey, Holds
from sluicegate.schemas.progress import WorkerView
from sluicegate.schemas.scopes import ScopeKind, Subject
from sluicegate.schemas.snapshots import Edition

LEFT_FOR = timedelta(minutes=5)
"""How long a worker that said goodbye has to come back before its holds are taken off the record."""
STORM_WITHIN = timedelta(minutes=5)
STORM_AT_LEAST = 3
"""Hosts: fewer are no storm, however small the fleet."""

Told = tuple[LocalHold, WorkerView]


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One change of the record. `told`: what is put on record, or takes the place of what stands there, by whom;
    None: `hold` is released. `why`: in words, for a release.
    """

    hold: Hold | None
    told: Told | None
    why: str = ""


def own_records(holds: Iterable[Hold]) -> list[Hold]:
    """The records of holds that workers placed on themselves."""
    return [hold for hold in holds if hold.cause in list(OWN_CAUSES) and hold.scope.kind in OWN_SCOPES]


def told_by(workers: Iterable[WorkerView], *, is_shadow: bool = False) -> dict[HoldKey, list[Told]]:
    """What workers say that they hold themselves for, each on its own nodename and its own host alone."""
    found: dict[HoldKey, list[Told]] = {}
    for worker in workers:
        beat = worker.beat
        for hold in in_own_scope(beat.local_holds or (), Subject(host=beat.host, worker=beat.nodename)):
            if hold.is_shadow == is_shadow:
                found.setdefault(hold.key, []).append((hold, worker))
    return found


def steps(
    holds: Holds,
    epoch: int,
    versions: Mapping[UUID, int],
    workers: Sequence[WorkerView],
    *,
    now: datetime,
    are_all_known: bool = True,
) -> list[Step]:
    """What is to be done now. `versions`: at which each record became what it is. `now`: by the clock of the beats.

    `are_all_known`: a worker that is not among `workers` is not known at all.
    """
    there = [worker for worker in workers if not _has_left(worker, now)]
    told = told_by(there)
    done: list[Step] = []
    records = {hold.key: hold for hold in own_records(holds.active)}
    for hold in sorted(records.values(), key=lambda one: (one.created_at, one.id)):
        at = Edition(epoch, versions.get(hold.id, holds.version))
        done += _of_record(hold, at, told.get(hold.key, []), there, workers, are_all_known=are_all_known)
    done += [Step(hold=None, told=_strongest(by)) for key, by in told.items() if key not in records]
    return done


def _of_record(
    hold: Hold,
    at: Edition,
    told: list[Told],
    there: Sequence[WorkerView],
    workers: Sequence[WorkerView],
    *,
    are_all_known: bool,
) -> list[Step]:
    if told:
        return _while_told(hold, at, told)
    owner = owner_of(hold)
    lives = [worker for worker in there if worker.beat.nodename == owner]
    if lives:
        has_let_go = all(_has_let_go(worker, hold, at) for worker in lives)
        why = "its worker let go of it: it was cleared" if is_cleared(hold) else "its own rule released it"
        return [Step(hold=hold, told=None, why=why)] if has_let_go else []
    if any(worker.beat.nodename == owner for worker in workers):
        return [Step(hold=hold, told=None, why="its worker has left")]
    return [Step(hold=hold, told=None, why="its worker is not known any more")] if are_all_known else []


def _while_told(hold: Hold, at: Edition, told: list[Told]) -> list[Step]:
    if is_cleared(hold):
        again = [one for one in told if _knows(one[1], at)]
        # Its rule found the same once more, after it had let go.
        return [Step(hold=hold, told=_strongest(again))] if again else []
    by = _strongest(told)
    if hold.scope.kind is ScopeKind.HOST and owner_of(hold) not in {worker.beat.nodename for _, worker in told}:
        # Another worker of the host goes on with it.
        return [Step(hold=hold, told=None, why="its own rule released it"), Step(hold=None, told=by)]
    return [Step(hold=hold, told=by)] if by[0].mode is not hold.mode else []


def _strongest(told: Sequence[Told]) -> Told:
    return max(told, key=lambda one: one[0].mode)


def _has_let_go(worker: WorkerView, hold: Hold, at: Edition) -> bool:
    if worker.beat.local_holds is None:
        # It does not tell: an older version, which obeys the record alone.
        return is_cleared(hold) and worker.state is not WorkerState.UNKNOWN
    return _knows(worker, at)


def _knows(worker: WorkerView, at: Edition) -> bool:
    applied = worker.beat.applied
    return applied.epoch == at.epoch and applied.version >= at.version


def _has_left(worker: WorkerView, now: datetime) -> bool:
    return worker.state is WorkerState.GONE and now - worker.sighting.seen_at >= LEFT_FOR


def is_storm(newly_held: int, hosts: int) -> bool:
    """Are so many of the hosts newly held for their health that it is hardly all of them that broke?"""
    return newly_held >= STORM_AT_LEAST and 2 * newly_held >= hosts
