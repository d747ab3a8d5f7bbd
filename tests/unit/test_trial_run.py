"""A task that is called within `quiesced` stops at its checkpoints as it would in a worker."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from celery import Celery

from sluicegate import checkpoint, resumable, resume_cursor
from sluicegate.schemas.errors import InvalidInput, InvalidSetting
from sluicegate.testing import quiesced, resumed


@pytest.fixture
def app() -> Iterator[Celery]:
    made = Celery("trial", set_as_current=False, broker="memory://", backend="cache+memory://")
    yield made
    made.close()


@pytest.fixture
def walk(app: Celery) -> Any:
    """A task that yields, and has a checkpoint after each of its steps."""

    @app.task(shared=False, on_quiesce="yield")
    def walk(steps, seen):
        for step in resumable(steps):
            seen.append(step)
        return len(seen)

    return walk


@pytest.mark.parametrize("call", [lambda task, *args: task(*args), lambda task, *args: task.apply(args)])
@pytest.mark.parametrize("at", [1, 2, 3])
def test_over_any_stop_each_step_is_made_once(walk, call, at):
    seen: list[str] = []
    with quiesced(at=at) as run:
        call(walk, "abc", seen)
    assert (run.has_yielded, run.has_waited, run.cursor, run.checkpoints) == (True, False, at, at)
    assert seen == list("abc"[:at])
    with resumed(run.cursor) as later:
        call(walk, "abc", seen)
    assert seen == list("abc")
    assert not later.has_yielded


def test_a_later_run_can_be_stopped_too(walk):
    seen: list[str] = []
    with quiesced(at=1) as run:
        walk("abcd", seen)
    with quiesced(at=2, cursor=run.cursor) as run:
        walk("abcd", seen)
    assert (run.cursor, seen) == (3, ["a", "b", "c"])


def test_a_task_that_waits_goes_on_and_its_cursor_is_seen(app):
    @app.task(shared=False)
    def work():
        checkpoint({"at": (1, 2)})
        checkpoint("last")
        return resume_cursor()

    with quiesced(at=1) as run:
        assert work() == {"at": [1, 2]}, "as JSON has it"
    assert (run.has_waited, run.has_yielded, run.checkpoints) == (True, False, 2)


@pytest.mark.parametrize(
    ("options", "cursor", "ends"),
    [({"on_quiesce": "wait"}, 7, True), ({"on_quiesce": "wait"}, None, False), ({}, 7, False)],
)
def test_when_the_worker_stops_a_task_that_waits_leaves_where_a_later_run_can_go_on(app, options, cursor, ends):
    @app.task(shared=False, **options)
    def work():
        checkpoint(cursor)

    with quiesced(is_leaving=True) as run:
        work()
    assert (run.has_yielded, run.cursor) == (ends, cursor)


def test_a_checkpoint_that_is_never_reached_fails_the_test(walk):
    with pytest.raises(AssertionError, match="came to 3 checkpoints, and should have stopped at number 4"), quiesced(4):
        walk("abc", [])


def test_code_outside_a_task_has_no_checkpoints():
    with pytest.raises(AssertionError, match="came to 0"), quiesced():
        checkpoint(1)


def test_what_the_block_raises_is_raised(walk):
    with pytest.raises(ZeroDivisionError), quiesced(at=1):
        raise ZeroDivisionError


def test_a_cursor_that_no_worker_could_store_is_refused_here_too(app):
    @app.task(shared=False)
    def work(cursor):
        checkpoint(cursor)

    for cursor in ({1, 2}, "x" * 70_000):
        with pytest.raises(InvalidInput, match="cursor"), quiesced():
            work(cursor)


def test_a_way_that_is_none_is_refused_here_too(app):
    @app.task(shared=False, on_quiesce="stop")
    def work():
        checkpoint()

    with pytest.raises(InvalidSetting, match="'stop'"), quiesced():
        work()


def test_there_is_no_checkpoint_number_0():
    with pytest.raises(ValueError, match="at"), quiesced(0):
        pass


def test_outside_the_block_all_is_as_it_was(walk):
    with quiesced(at=1):
        walk("abc", [])
    seen: list[str] = []
    assert walk("abc", seen) == 3
    assert resume_cursor() is None
