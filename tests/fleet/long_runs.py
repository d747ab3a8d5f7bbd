"""Decides from the records of long tasks alone whether kills in a quiesce cost more than they may. No I/O here.

A *run* is one start of a task, until its code ends, yields, or its process is killed. Judged is each task's own story:

- **Below a cursor.** A run begins no earlier than at the last cursor that was safely stored before it began. So what is
  repeated was done since that cursor, whatever was killed.
- **Beside another.** A run begins only where the one before it had yielded or had been killed. Exempt is what plain
  Celery gives out again itself: a task acknowledged late whose run lasted when the broker's connection broke.
- **After its end.** The same of a run that begins although the task has ended.
- **Skipped.** A task that ended has done every item.
- **Lost.** A task that nobody has and that did not end. It may be so where plain Celery would have lost it in the same
  crash: acknowledged early, or late with its child killed under its parent, it died with the process that ran it; and
  whatever the broker had popped and no worker had received was *on the wire*: kombu's BRPOP loses that.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product

from tests.fleet.records import Event, ItemDone, Record

EARLY, LATE, SURE = "early", "late", "sure"
WAIT, YIELD = "wait", "yield"
KINDS = tuple(f"{way}_{acks}" for way, acks in product((WAIT, YIELD), (EARLY, LATE, SURE)))
"""What MODULE has: how a task stops, and when it is acknowledged. Sent as `steps_KIND`."""
MODULE = "tests.fleet.long_tasks"
"""For `Fleet.start`."""

CHILD, PARENT, BROKER = "child", "parent", "broker"
VICTIMS = (CHILD, PARENT, BROKER)

_ACKNOWLEDGED_WITHIN_US = 250_000
"""How long after the end of a run's code its message may still be the worker's: its parent sees to that."""
_BEGUN_WITHIN_US = 250_000
"""How long after its message was given to a pool child the task's code may begin."""
_BROKER_BACK_WITHIN_US = 2_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Kill:
    """One SIGKILL: of what, when, and which processes that run tasks died of it."""

    victim: str
    at_us: int
    pids: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """All that was seen. `kinds`: of each task that was sent. `held`: tasks that still lie in the broker.

    `on_the_wire`: tasks that the broker popped right before a kill, and of which it knows nothing since.
    """

    kinds: Mapping[int, str]
    count: int
    records: Sequence[Record]
    items: Sequence[ItemDone]
    cursors: Sequence[ItemDone]
    kills: Sequence[Kill]
    held: Collection[int] = ()
    on_the_wire: Collection[int] = ()


@dataclass(slots=True)
class Findings:
    """Each promise that was broken, as text, and what is worth a figure."""

    broken: list[str] = field(default_factory=list)
    repeated: int = 0
    lost_as_in_celery: int = 0
    lost_on_the_wire: int = 0
    ran_beside_as_in_celery: int = 0


@dataclass(slots=True)
class _Run:
    """`over`: how it ended; None for one that never did. A killed one ended when it was killed."""

    seq: int
    pid: int
    at_us: int
    over: Event | None = None
    over_us: float = float("inf")
    items: list[ItemDone] = field(default_factory=list)


def judge(story: Story) -> Findings:
    """By the rules above."""
    found = Findings()
    times = Counter((done.seq, done.item) for done in story.items)
    found.repeated = sum(count - 1 for count in times.values())
    runs = _runs(story)
    for seq, kind in sorted(story.kinds.items()):
        mine = runs.get(seq, [])
        name = f"task {seq} ({kind})"
        found.broken += [f"{name} {what}" for what in _below_cursor(seq, mine, story)]
        _judge_starts(name, kind, mine, story, found)
        if any(run.over is Event.END for run in mine):
            if missing := [item for item in range(story.count) if not times[seq, item]]:
                found.broken.append(f"{name} skipped {missing}")
        elif seq not in story.held:
            _judge_loss(name, kind, mine, seq, story, found)
    return found


def _runs(story: Story) -> dict[int, list[_Run]]:
    runs: dict[int, list[_Run]] = {}
    for record in sorted(story.records, key=lambda r: r.at_us):
        mine = runs.setdefault(record.seq, [])
        if record.event is Event.START:
            mine.append(_Run(record.seq, record.pid, record.at_us))
            continue
        for run in mine:
            if run.pid == record.pid and run.over is None:
                run.over, run.over_us = record.event, record.at_us
    killed = {pid: kill.at_us for kill in story.kills for pid in kill.pids}
    for run in (run for mine in runs.values() for run in mine):
        if run.over is None:
            run.over_us = killed.get(run.pid, float("inf"))
    for item in story.items:
        for run in runs.get(item.seq, []):
            if run.pid == item.pid and run.at_us <= item.at_us <= run.over_us:
                run.items.append(item)
    return runs


def _below_cursor(seq: int, mine: Sequence[_Run], story: Story) -> Iterator[str]:
    stored = sorted((c for c in story.cursors if c.seq == seq), key=lambda c: c.at_us)
    for run in mine:
        if not run.items:
            continue
        first = min(run.items, key=lambda item: item.at_us)
        before = [0, *(cursor.item for cursor in stored if cursor.at_us < run.at_us)][-1]
        # What another run stores while this one begins, it may or may not have read.
        meanwhile = [cursor.item for cursor in stored if run.at_us <= cursor.at_us <= first.at_us]
        if first.item < min([before, *meanwhile]):
            yield f"began at item {first.item} although the cursor {before} was stored"


def _judge_starts(name: str, kind: str, mine: Sequence[_Run], story: Story, found: Findings) -> None:
    for number, run in enumerate(mine):
        for other in mine[:number]:
            if other.over is Event.YIELD or (other.over is None and other.over_us <= run.at_us):
                continue
            if any(_gives_out_again(kill, kind, other) for kill in story.kills if kill.at_us <= run.at_us):
                found.ran_beside_as_in_celery += 1
            elif other.over_us > run.at_us:
                found.broken.append(f"{name} began again beside its own run")
            else:
                found.broken.append(f"{name} began again after it had ended")


def _gives_out_again(kill: Kill, kind: str, run: _Run) -> bool:
    """Was the message of `run` not acknowledged when it had to be, or could not be, because of this kill?

    A run may begin a moment after the broker's end: its child had the message before.
    """
    if kind.endswith(EARLY):
        # It is acknowledged as it begins.
        return kill.victim == BROKER and abs(kill.at_us - run.at_us) <= _BROKER_BACK_WITHIN_US
    since_us = run.at_us - (_BEGUN_WITHIN_US if kill.victim == BROKER else 0)
    is_between = since_us <= kill.at_us <= run.over_us + _ACKNOWLEDGED_WITHIN_US
    return is_between and (kill.victim == BROKER or (kill.victim == PARENT and run.over is Event.END))


def _judge_loss(name: str, kind: str, mine: Sequence[_Run], seq: int, story: Story, found: Findings) -> None:
    if seq in story.on_the_wire:
        found.lost_on_the_wire += 1
        return
    victims = {kill.victim for kill in story.kills if not mine or _died_of(kill, mine[-1])} - {BROKER}
    if (kind.endswith(EARLY) and victims) or (kind.endswith(LATE) and CHILD in victims):
        found.lost_as_in_celery += 1
    else:
        found.broken.append(f"{name} is lost")


def _died_of(kill: Kill, run: _Run) -> bool:
    """Was the process of `run` killed before its parent can have seen how the run ended?"""
    is_before = run.over is None or kill.at_us <= run.over_us + _ACKNOWLEDGED_WITHIN_US
    return run.pid in kill.pids and is_before
