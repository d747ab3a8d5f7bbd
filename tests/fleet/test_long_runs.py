"""The judge of long runs can fail: each of its rules, broken by hand, is found."""

from __future__ import annotations

from dataclasses import replace

from tests.fleet.long_runs import BROKER, CHILD, PARENT, Kill, Story, judge
from tests.fleet.records import Event, ItemDone, Record

COUNT = 4
QUIET_US = 1_000_000


def record(event: Event, at_ms: int, pid: int = 1) -> Record:
    return Record(event=event, at_us=at_ms * 1000, task_id="t0", seq=0, pid=pid, nodename="w1@host")


def done(item: int, at_ms: int, pid: int = 1) -> ItemDone:
    return ItemDone(seq=0, item=item, at_us=at_ms * 1000, pid=pid)


def story(kind: str, records: list[Record], items: list[ItemDone], cursors: tuple[ItemDone, ...] = ()) -> Story:
    return Story(kinds={0: kind}, count=COUNT, records=records, items=items, cursors=cursors, kills=())


def killed(what: Story, victim: str, at_ms: int, *pids: int) -> Story:
    return replace(what, kills=(Kill(victim=victim, at_us=at_ms * 1000, pids=frozenset(pids)),))


YIELDED = story(
    "yield_late",
    [record(Event.START, 10), record(Event.YIELD, 40), record(Event.START, 100, pid=2), record(Event.END, 150, pid=2)],
    [done(0, 20), done(1, 30), done(2, 120, pid=2), done(3, 140, pid=2)],
    (done(2, 39),),
)
"""A task that yielded after two of its four items, and went on in another process."""

CUT_OFF = story("wait_sure", [record(Event.START, 10)], [done(0, 20), done(1, 30)], (done(2, 39),))
"""A task that stored its cursor and waits."""


def test_a_task_that_yields_and_goes_on_is_fine() -> None:
    found = judge(YIELDED)
    assert found.broken == []
    assert found.repeated == 0


def test_a_run_that_begins_below_the_stored_cursor_is_found() -> None:
    found = judge(replace(YIELDED, items=[*YIELDED.items, done(1, 110, pid=2)]))
    assert found.broken == ["task 0 (yield_late) began at item 1 although the cursor 2 was stored"]
    assert found.repeated == 1


def test_a_run_may_have_read_the_cursor_before_or_after_one_that_is_stored_meanwhile() -> None:
    other = replace(YIELDED, cursors=(*YIELDED.cursors, done(3, 110, pid=3)))
    assert judge(other).broken == []


def test_an_item_that_is_skipped_is_found() -> None:
    found = judge(replace(YIELDED, items=YIELDED.items[:-1]))
    assert found.broken == ["task 0 (yield_late) skipped [3]"]


def test_a_run_beside_another_is_found_unless_celery_gave_it_out_again() -> None:
    both = replace(YIELDED, records=[r for r in YIELDED.records if r.event is not Event.YIELD])
    assert judge(both).broken == ["task 0 (yield_late) began again beside its own run"]
    assert judge(killed(both, BROKER, 60)).broken == []
    assert judge(killed(both, BROKER, 60)).ran_beside_as_in_celery == 1
    assert judge(killed(both, PARENT, 60, 1)).broken == []
    assert judge(killed(both, PARENT, 60, 7)).broken != []


def test_a_run_after_the_end_is_found_unless_the_end_was_not_acknowledged() -> None:
    again = replace(YIELDED, records=[*YIELDED.records, record(Event.START, 900, pid=3)])
    assert judge(again).broken == ["task 0 (yield_late) began again after it had ended"]
    assert judge(killed(again, PARENT, 151, 2)).broken == []
    assert judge(killed(again, PARENT, 800, 2)).broken != []


def test_a_run_may_begin_a_moment_after_the_broker_that_gave_it_out_was_killed() -> None:
    again = replace(YIELDED, records=[*YIELDED.records, record(Event.START, 900, pid=3)])
    assert judge(killed(again, BROKER, 99)).broken == []
    assert judge(killed(again, BROKER, -200)).broken != []
    assert judge(killed(again, PARENT, 99, 2)).broken != []


def test_a_lost_task_is_found_unless_celery_would_have_lost_it() -> None:
    assert judge(CUT_OFF).broken == ["task 0 (wait_sure) is lost"]
    for victim in (CHILD, PARENT):
        assert judge(killed(CUT_OFF, victim, 60, 1)).broken == ["task 0 (wait_sure) is lost"]
    early = replace(CUT_OFF, kinds={0: "wait_early"})
    late = replace(CUT_OFF, kinds={0: "wait_late"})
    assert judge(killed(early, PARENT, 60, 1)).lost_as_in_celery == 1
    assert judge(killed(late, CHILD, 60, 1)).lost_as_in_celery == 1
    assert judge(killed(late, PARENT, 60, 1)).broken != []
    assert judge(killed(early, PARENT, 60, 7)).broken != []
    assert judge(killed(early, BROKER, 60)).broken != []


def test_what_lies_in_the_broker_or_was_lost_on_the_wire_is_not_lost_by_us() -> None:
    assert judge(replace(CUT_OFF, held={0})).broken == []
    found = judge(replace(CUT_OFF, on_the_wire={0}))
    assert found.broken == []
    assert found.lost_on_the_wire == 1


def test_a_yielded_task_lost_long_after_its_yield_is_not_excused_by_a_later_kill() -> None:
    gone = story("yield_early", [record(Event.START, 10), record(Event.YIELD, 40)], [done(0, 20), done(1, 30)])
    assert judge(killed(gone, PARENT, 60, 1)).lost_as_in_celery == 1
    late_ms = (40 * 1000 + QUIET_US) // 1000
    assert judge(killed(gone, PARENT, late_ms, 1)).broken == ["task 0 (yield_early) is lost"]
