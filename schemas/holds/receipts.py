"""The drain receipt: what became of each task that ran since a hold was placed, by worker. Values alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Self

from sluicegate.schemas.holds.drains import Ending, Fate, Followed
from sluicegate.schemas.signed_beats import Word

MOST_STRANGERS = 100
"""Named in a receipt, which is an event of the audit: anyone on the broker can answer under many names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """How many tasks came to which end; `waiting` stand at a checkpoint, and of `ended` nobody tells how."""

    finished: int = 0
    failed: int = 0
    retried: int = 0
    killed: int = 0
    overran: int = 0
    revoked: int = 0
    ended: int = 0
    yielded: int = 0
    waiting: int = 0
    forced: int = 0
    lost: int = 0

    @classmethod
    def of(cls, known: Iterable[Followed]) -> Self:
        """Of tasks whose drain has been concluded: none of them is running elsewhere than at a checkpoint."""
        words = ["waiting" if one.is_waiting else str(one.fate) for one in known]
        return cls(**{name: words.count(name) for name in cls.__dataclass_fields__})

    @classmethod
    def from_wire(cls, data: Mapping[str, Any]) -> Self:
        """From a receipt's JSON; one of an older version has fewer counts."""
        return cls(**{name: int(data.get(name, 0)) for name in cls.__dataclass_fields__})

    def to_wire(self) -> dict[str, int]:
        """By the words of JSON, which are those of the fields."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class EndedTask:
    """A task that was lost, forced or killed. `how`: what showed the loss; which step ended it; does it come again."""

    id: str
    name: str
    how: str | None

    def to_wire(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerReceipt:
    """What became of one worker's tasks; the lost, the forced and the killed ones by name."""

    nodename: str
    counts: Counts
    lost: tuple[EndedTask, ...]
    forced: tuple[EndedTask, ...]
    killed: tuple[EndedTask, ...] = ()

    def to_wire(self) -> dict[str, Any]:
        """As JSON, with camelCase keys."""
        return {
            "nodename": self.nodename,
            **self.counts.to_wire(),
            "lostTasks": [task.to_wire() for task in self.lost],
            "forcedTasks": [task.to_wire() for task in self.forced],
            "killedTasks": [task.to_wire() for task in self.killed],
        }

    @classmethod
    def from_wire(cls, data: Mapping[str, Any]) -> Self:
        """The inverse of `to_wire`."""
        return cls(
            nodename=data["nodename"],
            counts=Counts.from_wire(data),
            lost=_tasks(data.get("lostTasks", [])),
            forced=_tasks(data.get("forcedTasks", [])),
            killed=_tasks(data.get("killedTasks", [])),
        )


def _tasks(data: Iterable[Mapping[str, Any]]) -> tuple[EndedTask, ...]:
    return tuple(EndedTask(id=task["id"], name=task["name"], how=task["how"]) for task in data)


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """`version`: that of the hold, which made it what it is. `seconds`: since the hold was placed.

    `strangers`: who consumed in its scope then and sent no heartbeat. The receipt says nothing of what ran there.
    `signed`, `unsigned`: on the word of how many workers it stands, by whether they sign what they say; None: an older
    control plane made it.
    """

    version: int
    ending: str
    seconds: float
    counts: Counts
    workers: tuple[WorkerReceipt, ...]
    strangers: tuple[str, ...] = ()
    signed: int | None = None
    unsigned: int | None = None

    @property
    def is_empty(self) -> bool:
        """Was nobody in its scope who could have acknowledged it?"""
        return not self.workers

    def to_wire(self) -> dict[str, Any]:
        """As the database and the audit keep it, with camelCase keys."""
        return {
            "holdVersion": self.version,
            "ending": self.ending,
            "seconds": self.seconds,
            **self.counts.to_wire(),
            "workers": [worker.to_wire() for worker in self.workers],
            "isEmpty": self.is_empty,
            "strangers": list(self.strangers),
            "signed": self.signed,
            "unsigned": self.unsigned,
        }

    @classmethod
    def from_wire(cls, data: Mapping[str, Any]) -> Self:
        """The inverse of `to_wire`; an older receipt names no strangers."""
        return cls(
            version=data["holdVersion"],
            ending=data["ending"],
            seconds=data["seconds"],
            counts=Counts.from_wire(data),
            workers=tuple(WorkerReceipt.from_wire(worker) for worker in data["workers"]),
            strangers=tuple(data.get("strangers", ())),
            signed=data.get("signed"),
            unsigned=data.get("unsigned"),
        )


def receipt(
    known: Sequence[Followed],
    nodenames: Iterable[str],
    *,
    version: int,
    ending: Ending,
    begun_at: datetime,
    now: datetime,
    strangers: tuple[str, ...] = (),
    words: Sequence[Word] = (),
) -> Receipt:
    """The receipt (R-C5) of a drain that was concluded at `now`.

    `nodenames`: the workers of the scope, so that those that ran nothing are there as well. `words`: its grounds.
    """
    names = sorted({*nodenames, *(one.nodename for one in known)})
    per_worker = {name: [one for one in known if one.nodename == name] for name in names}
    return Receipt(
        version=version,
        ending=str(ending),
        seconds=round((now - begun_at).total_seconds(), 3),
        counts=Counts.of(known),
        workers=tuple(
            WorkerReceipt(
                nodename=name,
                counts=Counts.of(own),
                lost=_named(own, Fate.LOST),
                forced=_named(own, Fate.FORCED),
                killed=_named(own, Fate.KILLED),
            )
            for name, own in per_worker.items()
        ),
        strangers=strangers[:MOST_STRANGERS],
        signed=sum(word.is_signed for word in words),
        unsigned=sum(not word.is_signed for word in words),
    )


def _named(known: Iterable[Followed], fate: Fate) -> tuple[EndedTask, ...]:
    return tuple(EndedTask(id=one.task.id, name=one.task.name, how=one.how) for one in known if one.fate is fate)
