"""The checker itself: a clean run passes, and each way of breaking a promise is caught."""

from __future__ import annotations

import heapq
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tests.fleet.broker import Contents, Message
from tests.fleet.checker import Call, Drained, Evidence, Sent, Sighting, Verdict, check
from tests.fleet.records import Event, MalformedRecord, Reader, Record, Writer

GAP_US = 10_000


@dataclass
class Model:
    """A fleet as it should be: it runs a queue in order, hands back to the head, and acknowledges last."""

    tasks: int
    slots: dict[str, int]
    prefetch: int
    durations: list[int]
    lag: list[int]
    pause_after: list[int]
    drain_order: list[str]

    def run(self) -> Evidence:
        self.now = 1_000
        self.queue = list(range(self.tasks))
        self.records: list[Record] = []
        self.calls: list[Call] = []
        self.sightings = [Sighting(nodename=node, at_us=500, edition=(1, 1)) for node in self.slots]
        self.drained: list[Drained] = []
        for pause, count in enumerate(self.pause_after):
            held = self._work(until=count)
            self._pause(pause, held)
        self._work(until=self.tasks)
        return Evidence(
            sent=[Sent(seq=seq, at_us=seq) for seq in range(self.tasks)],
            records=self.records,
            final=Contents(),
            slots=self.slots,
            prefetch=self.prefetch,
            calls=self.calls,
            sightings=self.sightings,
            drained=self.drained,
        )

    def _work(self, until: int) -> dict[str, list[int]]:
        """Run until `until` tasks have started in all or none is left; what workers then hold unstarted."""
        held: dict[str, list[int]] = {node: [] for node in self.slots}
        free = [(self.now, node, slot) for node, count in self.slots.items() for slot in range(count)]
        heapq.heapify(free)
        started = sum(r.event is Event.START for r in self.records)
        while free and started < until:
            at, node, slot = heapq.heappop(free)
            reach = self.slots[node] * self.prefetch
            while self.queue and len(held[node]) < reach:
                held[node].append(self.queue.pop(0))
            if not held[node]:
                continue
            seq = held[node].pop(0)
            start = at + self.lag[seq % len(self.lag)]
            end = start + self.durations[seq % len(self.durations)]
            pid = 100 * (list(self.slots).index(node) + 1) + slot
            for event, when in ((Event.START, start), (Event.END, end)):
                self.records.append(Record(event=event, at_us=when, task_id=f"t{seq}", seq=seq, pid=pid, nodename=node))
            started += 1
            heapq.heappush(free, (end, node, slot))
        return held

    def _pause(self, index: int, held: dict[str, list[int]]) -> None:
        called = max((r.at_us for r in self.records if r.event is Event.START), default=self.now) + 1
        self.now = max((r.at_us for r in self.records), default=self.now) + GAP_US
        version = 2 + 2 * index
        self.calls.append(Call(at_us=called, edition=(1, version), is_paused=True))
        for node in self.drain_order:
            self.queue = held[node] + self.queue
            self.sightings.append(Sighting(nodename=node, at_us=self.now, edition=(1, version)))
        self.now += GAP_US
        contents = Contents(queued=tuple(Message(f"t{seq}", seq) for seq in self.queue))
        self.drained.append(Drained(at_us=self.now, contents=contents))
        self.now += GAP_US
        self.calls.append(Call(at_us=self.now, edition=(1, version + 1), is_paused=False))
        for node in self.slots:
            self.sightings.append(Sighting(nodename=node, at_us=self.now + 1, edition=(1, version + 1)))
        self.now += GAP_US


@st.composite
def clean_runs(draw: st.DrawFn, *, most_workers: int = 3, most_slots: int = 3) -> Evidence:
    workers = draw(st.integers(1, most_workers))
    slots = {f"w{n}@fleet": draw(st.integers(1, most_slots)) for n in range(workers)}
    tasks = draw(st.integers(40, 80))
    pauses = sorted(draw(st.sets(st.integers(1, tasks // 2), min_size=1, max_size=3)))
    times = st.lists(st.integers(1, 50_000), min_size=1, max_size=20)
    lags = st.lists(st.integers(1, 2_000), min_size=1, max_size=20)
    return Model(
        tasks=tasks,
        slots=slots,
        prefetch=draw(st.sampled_from([1, 2, 4])),
        durations=draw(times),
        lag=draw(lags),
        pause_after=pauses,
        drain_order=draw(st.permutations(sorted(slots))),
    ).run()


def queues_with(evidence: Evidence, change: dict[int, tuple[int, ...]]) -> Evidence:
    """The same evidence with other queues at the drained moments, by index."""
    drained = list(evidence.drained)
    for index, seqs in change.items():
        contents = Contents(queued=tuple(Message(f"t{seq}", seq) for seq in seqs))
        drained[index] = replace(drained[index], contents=contents)
    return replace(evidence, drained=drained)


def without(evidence: Evidence, seq: int, *events: Event) -> Evidence:
    kept = [r for r in evidence.records if r.seq != seq or r.event not in events]
    return replace(evidence, records=kept)


@given(clean_runs())
def test_a_clean_run_passes(evidence: Evidence) -> None:
    """However many slots and workers, however slow off the mark: an orderly fleet is never accused."""
    verdict = check(evidence)
    assert verdict.broken == {}
    assert verdict.starts == verdict.ended == len(evidence.sent)


@given(clean_runs(), st.integers(0, 2), st.integers(1, 2 * GAP_US - 1))
def test_a_start_after_the_acknowledgement_is_caught_to_the_microsecond(
    evidence: Evidence, which: int, late_us: int
) -> None:
    acks = [s for s in evidence.sightings if s.edition[1] % 2 == 0]
    ack = acks[which % len(acks)]
    again = Record(event=Event.START, at_us=ack.at_us + late_us, task_id="x", seq=0, pid=1, nodename=ack.nodename)
    verdict = check(replace(evidence, records=[*evidence.records, again]))
    assert [late.after_us for late in verdict.late_starts] == [late_us]


@given(clean_runs())
def test_a_start_in_the_very_microsecond_of_the_acknowledgement_is_not_after_it(evidence: Evidence) -> None:
    ack = next(s for s in evidence.sightings if s.edition == (1, 2))
    same = Record(event=Event.START, at_us=ack.at_us, task_id="x", seq=0, pid=1, nodename=ack.nodename)
    assert not check(replace(evidence, records=[*evidence.records, same])).late_starts


@given(clean_runs(), st.sampled_from([(1, 1), (1, 2), (0, 9), (7, 7_000_000)]))
def test_an_edition_that_is_old_or_was_never_ordered_opens_nothing(
    evidence: Evidence, edition: tuple[int, int]
) -> None:
    """A worker that says an old running edition is in force again is still bound by its acknowledgement."""
    ack = next(s for s in evidence.sightings if s.edition == (1, 2))
    obeyed = Sighting(nodename=ack.nodename, at_us=ack.at_us + 1, edition=edition)
    start = Record(event=Event.START, at_us=ack.at_us + 9, task_id="x", seq=0, pid=1, nodename=ack.nodename)
    paused_to_the_end = replace(
        evidence,
        records=[*(r for r in evidence.records if r.at_us < ack.at_us), start],
        calls=[c for c in evidence.calls if c.edition <= (1, 2)],
        sightings=[*(s for s in evidence.sightings if s.edition <= (1, 2)), obeyed],
    )
    verdict = check(paused_to_the_end)
    assert [late.after_us for late in verdict.late_starts] == [9]
    assert bool(verdict.went_back) == (edition < (1, 2))


@given(clean_runs())
def test_a_worker_that_never_said_it_runs_may_start_nothing(evidence: Evidence) -> None:
    start = Record(event=Event.START, at_us=9, task_id="x", seq=0, pid=1, nodename="new@fleet")
    verdict = check(replace(evidence, records=[*evidence.records, start]))
    assert [late.after_us for late in verdict.late_starts] == [None]


@given(clean_runs(), st.data())
def test_a_task_that_vanished_is_lost(evidence: Evidence, data: st.DataObject) -> None:
    seq = data.draw(st.sampled_from([s.seq for s in evidence.sent]))
    gone = without(evidence, seq, Event.START, Event.END)
    gone = queues_with(
        gone,
        {i: tuple(m.seq for m in d.contents.queued if m.seq != seq) for i, d in enumerate(gone.drained)},
    )
    assert check(gone).lost == (seq,)


@given(clean_runs(), st.data())
def test_a_task_that_was_cut_off_is_interrupted(evidence: Evidence, data: st.DataObject) -> None:
    seq = data.draw(st.sampled_from([s.seq for s in evidence.sent]))
    verdict = check(without(evidence, seq, Event.END))
    assert (verdict.interrupted, verdict.lost) == ((seq,), ())
    assert verdict.broken["lost"] == 1


@given(clean_runs(), st.data())
def test_a_task_that_runs_twice_is_duplicated(evidence: Evidence, data: st.DataObject) -> None:
    start = data.draw(st.sampled_from([r for r in evidence.records if r.event is Event.START]))
    end = max(r.at_us for r in evidence.records) + 1
    twice = [replace(start, at_us=end), replace(start, at_us=end + 1, event=Event.END)]
    assert check(replace(evidence, records=[*evidence.records, *twice])).duplicated == (start.seq,)


@given(clean_runs(), st.booleans())
def test_a_message_that_lies_in_the_broker_twice_or_although_done_is_duplicated(
    evidence: Evidence, in_unacked: bool
) -> None:
    extra = Message("t0", 0)
    final = Contents(unacked=(extra,)) if in_unacked else Contents(queued=(extra,))
    assert check(replace(evidence, final=final)).duplicated == (0,)
    both = replace(without(evidence, 0, Event.START, Event.END), drained=())
    assert check(replace(both, final=Contents(queued=(extra,), unacked=(extra,)))).duplicated == (0,)


@given(clean_runs())
def test_a_message_still_held_by_a_drained_worker_is_left_unacknowledged(evidence: Evidence) -> None:
    drained = evidence.drained[0]
    assume(drained.contents.queued)
    head, *rest = drained.contents.queued
    held = replace(drained, contents=Contents(queued=tuple(rest), unacked=(head,)))
    verdict = check(replace(evidence, drained=[held, *evidence.drained[1:]]))
    assert verdict.left_unacked == (head.seq,)
    assert not verdict.lost


@given(clean_runs(most_workers=1), st.data())
def test_behind_one_worker_any_exchange_in_the_queue_is_displaced(evidence: Evidence, data: st.DataObject) -> None:
    queue = [m.seq for m in evidence.drained[-1].contents.queued]
    assume(len(queue) > 1)
    place = data.draw(st.integers(0, len(queue) - 2))
    queue[place], queue[place + 1] = queue[place + 1], queue[place]
    assert check(queues_with(evidence, {len(evidence.drained) - 1: tuple(queue)})).displaced


@given(clean_runs(), st.integers(1, 4))
def test_handing_back_to_the_tail_is_displaced(evidence: Evidence, count: int) -> None:
    """With one worker any message at the tail is; with several, one further off than could be handed back."""
    reach = evidence.prefetch * sum(evidence.slots.values()) + len(evidence.slots)
    queue = tuple(m.seq for m in evidence.drained[0].contents.queued)
    assume(len(queue) > 2 * count + (0 if len(evidence.slots) == 1 else reach))
    assume(len(evidence.drained) == 1)
    requeued = queue[count:] + queue[:count]
    # Several workers hand back in turns, so what is in front need not be the oldest: how far each was moved counts.
    moved = max(len(queue) - count + place - sorted(queue).index(seq) for place, seq in enumerate(queue[:count]))
    assume(len(evidence.slots) == 1 or moved > reach)
    assert check(queues_with(evidence, {0: requeued})).displaced


def test_behind_two_workers_a_message_may_move_as_far_as_could_be_handed_back_and_no_further() -> None:
    """Two slots and prefetch 2: at most four can be handed back, and one more a worker be in flight."""

    def displaced(queue: list[int]) -> tuple[int, ...]:
        left = Contents(queued=tuple(Message(f"t{seq}", seq) for seq in queue))
        evidence = Evidence(
            sent=[Sent(seq=seq, at_us=0) for seq in queue],
            records=[],
            final=left,
            slots={"w1@fleet": 1, "w2@fleet": 1},
            prefetch=2,
            drained=[Drained(at_us=100, contents=left)],
        )
        return check(evidence).displaced

    assert displaced([*range(1, 7), 0, *range(7, 20)]) == ()
    assert displaced([*range(1, 8), 0, *range(8, 20)]) == (0,)


@given(clean_runs())
def test_more_falling_rows_than_workers_are_displaced(evidence: Evidence) -> None:
    """A batch that comes back reversed is not in its worker's order, even if no message moved far."""
    queue = [m.seq for m in evidence.drained[0].contents.queued]
    turned = len(evidence.slots) + 1
    assume(len(queue) >= turned)
    rows = tuple(sorted(queue[:turned], reverse=True) + queue[turned:])
    assert check(queues_with(evidence, {0: rows})).displaced


@given(clean_runs(most_workers=1, most_slots=1))
def test_what_stayed_behind_may_not_rank_before_what_started(evidence: Evidence) -> None:
    queue = [m.seq for m in evidence.drained[0].contents.queued]
    started = [r.seq for r in evidence.records if r.at_us < evidence.drained[0].at_us]
    assume(len(started) > 2)
    left_behind = min(started)
    verdict = check(queues_with(without(evidence, left_behind, Event.START, Event.END), {0: (left_behind, *queue)}))
    assert left_behind in verdict.displaced


def test_what_stayed_behind_in_the_pipe_of_a_child_that_left_is_not_displaced() -> None:
    """Two slots: 0 was given to a child that ended before it began it, while 1 and 2 ran in the other."""
    records = [
        Record(event=event, at_us=at, task_id=f"t{seq}", seq=seq, pid=1, nodename="w@fleet")
        for seq, start in ((1, 10), (2, 20))
        for event, at in ((Event.START, start), (Event.END, start + 5))
    ]
    left = Contents(queued=(Message("t0", 0),))
    evidence = Evidence(
        sent=[Sent(seq=seq, at_us=0) for seq in range(3)],
        records=records,
        final=left,
        slots={"w@fleet": 2},
        drained=[Drained(at_us=100, contents=left)],
    )
    assert check(evidence).displaced == ()
    assert check(replace(evidence, slots={"w@fleet": 1})).displaced == (0,)


def test_a_task_that_starts_after_later_ones_is_displaced_only_if_all_slots_were_busy_meanwhile() -> None:
    """Two slots: 0 is slow off the mark while 1 and 2 run in the other slot; then the same with both busy."""

    def run(seq: int, pid: int, start: int, end: int) -> list[Record]:
        make = lambda event, at: Record(  # noqa: E731
            event=event, at_us=at, task_id=f"t{seq}", seq=seq, pid=pid, nodename="w@fleet"
        )
        return [make(Event.START, start), make(Event.END, end)]

    def verdict(*runs: list[Record]) -> Verdict:
        records = [record for each in runs for record in each]
        sent = [Sent(seq=seq, at_us=0) for seq in sorted({r.seq for r in records})]
        return check(Evidence(sent=sent, records=records, final=Contents(), slots={"w@fleet": 2}))

    slow = verdict(run(1, 11, 10, 20), run(2, 11, 30, 40), run(0, 12, 50, 60))
    assert slow.displaced == ()
    overtaken = verdict(run(1, 11, 10, 20), run(2, 12, 11, 40), run(0, 11, 30, 50))
    assert overtaken.displaced == (0,)


def test_a_retry_that_was_asked_for_is_neither_a_duplicate_nor_displaced() -> None:
    events = [(Event.START, 10), (Event.RETRY, 20), (Event.START, 100), (Event.END, 110)]
    records = [Record(event=event, at_us=at, task_id="t0", seq=0, pid=1, nodename="w@fleet") for event, at in events]
    other = [replace(records[0], seq=1, at_us=30), replace(records[3], seq=1, at_us=40)]
    evidence = Evidence(
        sent=[Sent(seq=0, at_us=0), Sent(seq=1, at_us=0)],
        records=[*records, *other],
        final=Contents(),
        slots={"w@fleet": 1},
    )
    assert check(evidence).broken == {}
    retry_lost = replace(evidence, records=[*records[:2], *other])
    assert check(retry_lost).lost == (0,)


def test_a_task_that_waits_on_purpose_is_not_displaced_by_starting_late() -> None:
    def run(seq: int, start: int) -> list[Record]:
        record = Record(event=Event.START, at_us=start, task_id=f"t{seq}", seq=seq, pid=1, nodename="w@fleet")
        return [record, replace(record, event=Event.END, at_us=start + 5)]

    evidence = Evidence(
        sent=[Sent(seq=0, at_us=0, waits=True), Sent(seq=1, at_us=0), Sent(seq=2, at_us=0)],
        records=[*run(1, 10), *run(2, 20), *run(0, 100)],
        final=Contents(),
        slots={"w@fleet": 1},
    )
    assert check(evidence).broken == {}
    in_haste = [replace(sent, waits=False) for sent in evidence.sent]
    assert check(replace(evidence, sent=in_haste)).displaced == (0,)


def test_a_task_that_nobody_sent_is_reported() -> None:
    record = Record(event=Event.START, at_us=1, task_id="t7", seq=7, pid=1, nodename="w@fleet")
    evidence = Evidence(sent=[], records=[record], final=Contents(), slots={"w@fleet": 1})
    assert check(evidence).unexpected == (7,)


@given(clean_runs())
def test_times_are_counted_from_the_call(evidence: Evidence) -> None:
    verdict = check(evidence)
    pauses = [call for call in evidence.calls if call.is_paused]
    assert [pause.call for pause in verdict.pauses] == pauses
    for pause in verdict.pauses:
        acks = [s.at_us for s in evidence.sightings if s.edition == pause.call.edition]
        assert pause.acknowledged_us == max(acks) - pause.call.at_us
        assert pause.last_start_us is None


@given(clean_runs())
def test_a_worker_that_never_acknowledged_is_named(evidence: Evidence) -> None:
    mute = next(iter(evidence.slots))
    verdict = check(
        replace(
            evidence,
            sightings=[s for s in evidence.sightings if s.nodename != mute or s.edition[1] % 2],
        )
    )
    assert all(pause.unacknowledged == {mute} for pause in verdict.pauses)
    assert all(pause.acknowledged_us is None for pause in verdict.pauses)


@given(
    st.builds(
        Record,
        event=st.sampled_from(Event),
        at_us=st.integers(0, 1 << 62),
        task_id=st.uuids().map(str),
        seq=st.integers(0),
        pid=st.integers(1),
        nodename=st.just("w@fleet"),
        note=st.text("0123456789abcdef"),
    )
)
def test_a_record_survives_its_line(record: Record) -> None:
    assert Record.from_line(record.to_line().decode()) == record


def test_a_line_that_no_task_writes_is_refused() -> None:
    with pytest.raises(MalformedRecord):
        Record.from_line("start\tsoon\n")


def test_a_reader_sees_what_was_appended_since_and_no_half_line(tmp_path: Path) -> None:
    path = tmp_path / "records"
    reader = Reader(path)
    assert reader.read() == []
    record = Record(event=Event.START, at_us=1, task_id="t", seq=1, pid=1, nodename="w@fleet")
    Writer(path).write(record)
    with path.open("ab") as file:
        file.write(record.to_line()[:5])
    assert reader.read() == [record]
    with path.open("ab") as file:
        file.write(record.to_line()[5:])
    assert reader.read() == [record, record]
