"""Heartbeats: what one worker says about itself, and how it looks on the wire.

A beat is JSON in Redis under `names.beat_key`, one per nodename, overwritten every interval and at once
when something an operator waits for has changed. Where several lives of one nodename beat, what each said last stands
under `names.lives_key` as well (`schemas.lives`). `appliedAt` and `sentAt` are the worker's own clock; the
time that leases are counted from is the Redis server's, kept as the score in `names.beats_key`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Self

from sluicegate.schemas import telling
from sluicegate.schemas.errors import InvalidInput
from sluicegate.schemas.health import local_holds
from sluicegate.schemas.health.local_holds import LocalHold
from sluicegate.schemas.health.resources import Resources
from sluicegate.schemas.snapshots import MAX_EPOCH, MAX_VERSION, NOTHING, Edition
from sluicegate.schemas.times import from_wire, from_wire_or_none, to_wire, to_wire_or_none

BEAT_PROTOCOL = 1
MAX_BEAT_BYTES = 1 << 20
"""A heartbeat with more bytes is not read. Some 6,000 running tasks fit in."""

MAX_SHOWN_CHARS = 1 << 16
"""A signed state that is longer is not shown: a heartbeat must stay small."""
MAX_FINGERPRINT_CHARS = 64

ENFORCED_AT_FIRST = ("global", "host", "worker")
"""The kinds of scope that a worker enforces which does not say which."""


class WorkerState(StrEnum):
    """What a worker is, as far as is known. A beat carries only the first three."""

    RUNNING = "running"
    """Its gate is open."""
    PAUSING = "pausing"
    """Its gate is closed; something handed to the pool before has neither started nor come back yet."""
    PAUSED = "paused"
    """Its gate is closed, and nothing more can start."""
    UNKNOWN = "unknown"
    """Its lease ran out and it said no goodbye. It may be running anything."""
    GONE = "gone"
    """It said goodbye at a clean stop."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningTask:
    """A task that is running: its id, its name, and when it started by the worker's clock (None: unknown).

    `is_waiting`: it stopped at a checkpoint, and waits there in place. `queue`: where it came from, where known.
    """

    id: str
    name: str
    started_at: datetime | None = None
    is_waiting: bool = False
    queue: str | None = None

    def to_wire(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "name": self.name,
            "startedAt": to_wire_or_none(self.started_at),
            "waiting": self.is_waiting,
            "queue": self.queue,
        }

    @classmethod
    def from_wire(cls, data: dict[str, Any]) -> Self:
        """The inverse of `to_wire`; raises KeyError, TypeError, AttributeError or InvalidInput."""
        return cls(
            id=telling.text(data["id"], "id"),
            name=telling.text(data["name"], "name"),
            started_at=from_wire_or_none(data["startedAt"], "startedAt"),
            # Workers before 0.2 do not say.
            is_waiting=telling.flag(data.get("waiting", False), "waiting"),
            queue=telling.text_or_none(data.get("queue"), "queue"),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class YieldedTask:
    """A task that gave its slot back at a checkpoint, `at` by the worker's own clock."""

    task: RunningTask
    at: datetime

    def to_wire(self) -> dict[str, Any]:
        return self.task.to_wire() | {"yieldedAt": to_wire(self.at)}

    @classmethod
    def from_wire(cls, data: dict[str, Any]) -> Self:
        """The inverse of `to_wire`; raises KeyError, TypeError or InvalidInput."""
        return cls(task=RunningTask.from_wire(data), at=from_wire(data["yieldedAt"], "yieldedAt"))


class Force(StrEnum):
    """How a deadline's step ended a running task."""

    REQUEUED = "requeued"
    TERMINATED = "terminated"


@dataclass(frozen=True, slots=True, kw_only=True)
class ForcedTask:
    """A task that was ended because a deadline had passed, `at` by the worker's own clock."""

    task: RunningTask
    at: datetime
    how: str

    def to_wire(self) -> dict[str, Any]:
        return self.task.to_wire() | {"forcedAt": to_wire(self.at), "how": str(self.how)}

    @classmethod
    def from_wire(cls, data: dict[str, Any]) -> Self:
        """The inverse of `to_wire`; raises KeyError, TypeError or InvalidInput."""
        at = from_wire(data["forcedAt"], "forcedAt")
        return cls(task=RunningTask.from_wire(data), at=at, how=telling.text(data["how"], "how"))


class End(StrEnum):
    """How a run came to its end that did not come to it well."""

    FAILED = "failed"
    """It raised an exception."""
    RETRIED = "retried"
    """It asked to be run again, or rejected its message so that it comes again."""
    KILLED = "killed"
    """Its pool child died, or Celery cancelled it."""
    OVERRAN = "overran"
    """A time limit, soft or hard, ended it."""
    REVOKED = "revoked"
    """Somebody revoked it while it ran."""
    ENDED = "ended"
    """Nobody heard how: Celery forgot it when its broker's connection broke."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EndedRun:
    """A run that did not end well, `at` by the worker's own clock. `end`: a word of `End`, or of a later version's.

    `comes_again`: does its message come again, or was it sent anew? None where that is no question.
    """

    task: RunningTask
    at: datetime
    end: str
    comes_again: bool | None = None

    def to_wire(self) -> dict[str, Any]:
        told = {"endedAt": to_wire(self.at), "end": str(self.end), "comesAgain": self.comes_again}
        return self.task.to_wire() | told

    @classmethod
    def from_wire(cls, data: dict[str, Any]) -> Self:
        """The inverse of `to_wire`; raises KeyError, TypeError or InvalidInput."""
        again = data.get("comesAgain")
        return cls(
            task=RunningTask.from_wire(data),
            at=from_wire(data["endedAt"], "endedAt"),
            end=telling.text(data["end"], "end"),
            comes_again=None if again is None else telling.flag(again, "comesAgain"),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Beat:
    """One heartbeat.

    `applied` is the edition whose effect is complete: for a paused one, nothing can start any more; it is
    `NOTHING` until the first. `is_stale`: no fresh snapshot for longer than the stale lease. `queues` are
    those it consumes when it is open. `refused` counts states it would not obey, by error code. `enforces` names the
    kinds of scope whose holds this worker obeys: any other hold is shown as not enforced there. `yielded`: the last
    run of each task that gave its slot back at a checkpoint, while anything is held; `forced`: of each that a deadline
    ended. `ended`: of each that did not end well, also a few seconds before something was held: what ran, runs no more
    and stands in none of the three has finished. None: this worker does not tell (it is older, or there were too many).
    `beside`: the consumer steps of its app that handle messages and do not ask the gate.

    `local_holds`: those that the worker placed on itself, and those that it only warns of; None: it does not tell (it
    is older). They were looked up after `applied`: what stands on record there and is not among them has been released.

    `fingerprint` is that of the holds of `applied` (None: not said). `fence`: nothing older is taken there; it is above
    `applied` in a life that has applied nothing yet. `shown`: the signed envelope that is in force there, while what is
    published is refused as older, or as another state at its edition; whoever reads it checks it as any other.

    `resources`: what its probe read. On the wire stands which readings hold, and not they themselves, which are under
    `names.resources_key` (`schemas.health.resources`). None: it does not tell (it is older), or has no readings yet.
    """

    nodename: str
    incarnation: str
    host: str
    pool: str
    pid: int
    seq: int
    sent_at: datetime
    state: WorkerState
    applied: Edition
    applied_at: datetime | None
    is_stale: bool = False
    is_goodbye: bool = False
    concurrency: int = 0
    queues: tuple[str, ...] = ()
    running: tuple[RunningTask, ...] = ()
    reserved: int = 0
    refused: dict[str, int] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    enforces: tuple[str, ...] = ENFORCED_AT_FIRST
    yielded: tuple[YieldedTask, ...] = ()
    forced: tuple[ForcedTask, ...] = ()
    ended: tuple[EndedRun, ...] | None = None
    beside: tuple[str, ...] = ()
    fingerprint: str | None = None
    fence: Edition = NOTHING
    shown: str | None = None
    resources: Resources | None = None
    local_holds: tuple[LocalHold, ...] | None = None

    @property
    def stands_at(self) -> Edition:
        """The newest edition that this worker knows: it takes nothing below."""
        return max(self.applied, self.fence)

    def to_wire(self) -> dict[str, Any]:
        """All but what is shown, which is looked at once and kept nowhere."""
        return {
            "v": BEAT_PROTOCOL,
            "nodename": self.nodename,
            "incarnation": self.incarnation,
            "host": self.host,
            "pool": self.pool,
            "pid": self.pid,
            "seq": self.seq,
            "sentAt": to_wire(self.sent_at),
            "state": str(self.state),
            "appliedEpoch": self.applied.epoch,
            "appliedVersion": self.applied.version,
            "appliedAt": to_wire_or_none(self.applied_at),
            "stale": self.is_stale,
            "goodbye": self.is_goodbye,
            "concurrency": self.concurrency,
            "queues": list(self.queues),
            "running": [task.to_wire() for task in self.running],
            "reserved": self.reserved,
            "refused": dict(self.refused),
            "labels": dict(self.labels),
            "enforces": list(self.enforces),
            "yielded": [one.to_wire() for one in self.yielded],
            "forced": [one.to_wire() for one in self.forced],
            "ended": None if self.ended is None else [one.to_wire() for one in self.ended],
            "beside": list(self.beside),
            "fingerprint": self.fingerprint,
            "fenceEpoch": self.fence.epoch,
            "fenceVersion": self.fence.version,
            "resources": None if self.resources is None else self.resources.mark().to_wire(),
            "localHolds": None if self.local_holds is None else [hold.to_wire() for hold in self.local_holds],
        }

    def encode(self) -> bytes:
        """The bytes under the worker's beat key."""
        shown = {} if self.shown is None else {"shown": self.shown}
        return json.dumps(self.to_wire() | shown, separators=(",", ":")).encode()

    @classmethod
    def decode(cls, raw: bytes) -> Self:
        """The inverse of `encode`; raises InvalidInput. Unknown keys are ignored, so that beats may grow."""
        if len(raw) > MAX_BEAT_BYTES:
            raise InvalidInput("beat", f"has {len(raw)} bytes, at most {MAX_BEAT_BYTES} are read")
        try:
            data = json.loads(raw)
        except (ValueError, RecursionError):
            raise InvalidInput("beat", "is not JSON") from None
        return cls.from_wire(data)

    @classmethod
    def from_wire(cls, data: Any) -> Self:
        """The inverse of `to_wire`, whatever `data` is: raises InvalidInput, and nothing else."""
        try:
            if data["v"] != BEAT_PROTOCOL:
                raise InvalidInput("beat.v", f"is not protocol {BEAT_PROTOCOL}")
            ended, held = data.get("ended"), data.get("localHolds")
            return cls(
                nodename=telling.text(data["nodename"], "nodename"),
                incarnation=telling.text(data["incarnation"], "incarnation"),
                host=telling.text(data["host"], "host"),
                pool=telling.text(data["pool"], "pool"),
                pid=telling.count(data["pid"], "pid"),
                seq=telling.count(data["seq"], "seq"),
                sent_at=from_wire(data["sentAt"], "sentAt"),
                state=WorkerState(data["state"]),
                applied=_edition(data["appliedEpoch"], data["appliedVersion"]),
                applied_at=from_wire_or_none(data["appliedAt"], "appliedAt"),
                is_stale=telling.flag(data["stale"], "stale"),
                is_goodbye=telling.flag(data["goodbye"], "goodbye"),
                concurrency=telling.count(data["concurrency"], "concurrency"),
                queues=_texts(data["queues"], "queues"),
                running=tuple(map(RunningTask.from_wire, telling.listed(data["running"], "running"))),
                reserved=telling.count(data["reserved"], "reserved"),
                refused={code: telling.count(n, "refused") for code, n in _named(data["refused"], "refused").items()},
                labels={
                    key: telling.text(value, "labels")
                    for key, value in _named(data.get("labels", {}), "labels").items()
                },
                enforces=_texts(data.get("enforces", ENFORCED_AT_FIRST), "enforces"),
                yielded=tuple(map(YieldedTask.from_wire, telling.listed(data.get("yielded", []), "yielded"))),
                forced=tuple(map(ForcedTask.from_wire, telling.listed(data.get("forced", []), "forced"))),
                ended=None if ended is None else tuple(map(EndedRun.from_wire, telling.listed(ended, "ended"))),
                beside=_texts(data.get("beside", []), "beside"),
                # Workers before 0.2 say none of these.
                fingerprint=_text_or_none(data.get("fingerprint"), MAX_FINGERPRINT_CHARS),
                fence=_edition(data.get("fenceEpoch", 0), data.get("fenceVersion", 0)),
                shown=_text_or_none(data.get("shown"), MAX_SHOWN_CHARS),
                resources=_resources(data.get("resources")),
                local_holds=None if held is None else local_holds.listed(held),
            )
        except InvalidInput:
            raise
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise InvalidInput("beat", f"not a heartbeat: {type(error).__name__}") from None


def _resources(said: object) -> Resources | None:
    """None where they cannot be read: a worker whose probe says nonsense runs all the same."""
    if said is None:
        return None
    try:
        return Resources.from_wire(said).mark()
    except InvalidInput:
        return None


def _edition(epoch: object, version: object) -> Edition:
    return Edition(telling.count(epoch, "epoch", MAX_EPOCH), telling.count(version, "version", MAX_VERSION))


def _texts(said: object, field: str) -> tuple[str, ...]:
    return tuple(telling.text(one, field) for one in telling.listed(said, field))


def _named(said: object, field: str) -> dict[str, Any]:
    return {telling.text(name, field): value for name, value in telling.mapping(said, field).items()}


def _text_or_none(said: object, most: int) -> str | None:
    """`said`, where it is a text of at most `most` characters that can be stored."""
    return said if isinstance(said, str) and len(said) <= most and telling.is_storable(said) else None
