"""What a checkpoint does by itself: nothing while it is running, and only what the task declared when it is not."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import fakeredis
import pytest
from celery import Celery, signals
from celery.app.trace import build_tracer
from celery.exceptions import Reject, Retry

from sluicegate import checkpoint, resumable, resume_cursor
from sluicegate.schemas.errors import InvalidInput, InvalidSetting
from sluicegate.schemas.modes import Mode
from sluicegate.schemas.snapshots import Edition
from sluicegate.workers.celery_inside.requests import current_task, origin_told
from sluicegate.workers.celery_inside.yields import prepare_tasks
from sluicegate.workers.cell import STOPPING, Cell, pack
from sluicegate.workers.checkpoints import Yielded, open_station, way_of
from sluicegate.workers.cursor_seals import Origin
from sluicegate.workers.cursors import Cursors
from sluicegate.workers.scoped_table import Table
from sluicegate.workers.station import Station

AGAIN = Origin(is_redelivered=True)


class Post:
    """A station that counts how often it was asked, and lets a task go on after `rests` looks."""

    def __init__(self, rests: int = 3, is_away: int = 0, leaves_after: int = 99) -> None:
        self.rests = rests
        self.leaves_after = leaves_after
        self.is_away = is_away
        self.asked = 0
        self.stored: list[Any] = []
        self.said: list[tuple[str, bool]] = []

    def current_task(self) -> Any:
        return current_task()

    def is_quiesced(self, task: Any) -> bool:
        self.asked += 1
        return self.rests > 0

    def note_waiting(self, task_id: str, is_waiting: bool) -> None:
        self.said.append((task_id, is_waiting))

    def is_leaving(self) -> bool:
        return self.leaves_after <= 0

    def rest(self, seconds: float) -> None:
        self.rests -= 1
        self.leaves_after -= 1

    def keep_cursor(self, task: Any, cursor: Any) -> bool:
        self.is_away -= 1
        if self.is_away >= 0:
            return False
        self.stored.append(cursor)
        return True

    def load_cursor(self, task: Any) -> Any:
        return self.stored[-1] if self.stored else None


@pytest.fixture
def app() -> Iterator[Celery]:
    made = Celery("points", set_as_current=False, broker="memory://", backend="cache+memory://")
    yield made
    open_station(None, [0])
    made.close()


def run_in_worker(app: Celery, task: Any, station: Post | None, mode: Mode = Mode.QUIESCE) -> Any:
    """Run `task` as a pool child would, with a cell that says `mode`."""
    cell = Cell()
    cell.store(pack(mode, Edition(1, 2)))
    open_station(station, cell.flags)
    behind = app.tasks[task.name]
    behind.push_request(id="t1", called_directly=False, is_eager=False)
    # What the tracer does: it makes this the current task.
    from celery._state import _task_stack  # type: ignore[attr-defined]

    _task_stack.push(behind)
    try:
        return behind.run()
    finally:
        _task_stack.pop()
        behind.pop_request()


def test_running_a_checkpoint_asks_nobody_and_stores_nothing(app):
    post = Post()

    @app.task(shared=False)
    def work():
        checkpoint(1)

    run_in_worker(app, work, post, Mode.RUN)
    run_in_worker(app, work, post, Mode.DRAIN)
    assert (post.asked, post.stored) == (0, [])


def test_wait_stays_in_place_says_so_and_goes_on(app):
    post = Post(rests=3)

    @app.task(shared=False)
    def work():
        checkpoint("here")
        return "done"

    assert run_in_worker(app, work, post) == "done"
    assert post.said == [("t1", True), ("t1", False)]
    assert post.stored == ["here"], "what is stored first repeats nothing if the worker is killed while it waits"


def test_yield_leaves_the_task_past_its_own_handlers_with_the_cursor_stored(app):
    post = Post()
    seen: list[str] = []

    @app.task(shared=False, on_quiesce="yield")
    def work():
        try:
            checkpoint({"page": 7})
        except Exception:
            seen.append("swallowed")
        finally:
            seen.append("cleaned up")

    with pytest.raises(Yielded):
        run_in_worker(app, work, post)
    assert (seen, post.stored) == (["cleaned up"], [{"page": 7}])


def test_a_task_that_cannot_store_its_cursor_waits_in_place_until_it_can(app):
    """S5: giving the slot back without the cursor would repeat what is done."""
    post = Post(rests=5, is_away=3)

    @app.task(shared=False, on_quiesce="yield")
    def work():
        checkpoint(1)

    with pytest.raises(Yielded):
        run_in_worker(app, work, post)
    assert post.stored == [1]
    assert post.rests == 2


def test_resumable_skips_what_an_earlier_run_has_done(app):
    post = Post()
    done: list[str] = []

    @app.task(shared=False, on_quiesce="yield")
    def work():
        for item in resumable("abcdef", every=2):
            done.extend(item)

    with pytest.raises(Yielded):
        run_in_worker(app, work, post)
    assert (done, post.stored) == (["a", "b"], [2])
    post.rests = 0
    run_in_worker(app, work, post)
    assert done == list("abcdef")


def test_resumable_refuses_a_cursor_that_it_did_not_store(app):
    post = Post(rests=0)
    post.stored.append({"page": 7})

    @app.task(shared=False)
    def work():
        list(resumable("abc"))

    with pytest.raises(InvalidInput, match="cursor"):
        run_in_worker(app, work, post)


@pytest.mark.parametrize("every", [0, -1])
def test_resumable_needs_a_stride(every):
    with pytest.raises(ValueError, match="every"):
        list(resumable("abc", every=every))


def test_outside_a_worker_all_of_it_does_nothing(app):
    open_station(None, [STOPPING])
    checkpoint("anything")
    assert resume_cursor() is None
    assert list(resumable("abc")) == ["a", "b", "c"]

    @app.task(shared=False, on_quiesce="yield")
    def work():
        checkpoint(1)
        return resume_cursor()

    assert work() is None, "called directly"
    assert work.apply().get() is None, "applied eagerly"


def test_a_way_that_is_none_is_refused_by_name(app):
    @app.task(shared=False, on_quiesce="stop", name="points.bad")
    def work(): ...

    with pytest.raises(InvalidSetting, match=r"'stop' of task points\.bad"):
        way_of(app.tasks["points.bad"])


@pytest.fixture
def cursors() -> Cursors:
    server = fakeredis.FakeServer()
    return Cursors("default", lambda: fakeredis.FakeRedis(server=server), most_bytes=64, kept_s=3600)


def test_a_cursor_is_kept_until_its_task_is_over(cursors):
    cursors.store("t1", {"page": [1, 2]})
    assert cursors.load("t1") == {"page": [1, 2]}
    assert 0 < cursors._redis.ttl("sluicegate:default:cursor:t1") <= 3600
    cursors.drop("t1")
    assert cursors.load("t1") is None


def test_a_message_that_comes_again_after_its_task_ended_goes_on_from_the_last_cursor(cursors):
    """S6: the worker was lost before it acknowledged. A new task of the same id is none of that."""
    cursors.store("t1", 7)
    cursors.drop("t1")
    assert cursors.load("t1") is None
    assert cursors.load("t1", AGAIN) == 7
    assert 0 < cursors._redis.ttl("sluicegate:default:cursor:t1:ended") <= 3600
    cursors.store("t1", 9)
    assert cursors.load("t1", AGAIN) == 9


def test_a_task_without_a_cursor_costs_no_command_when_it_ends(cursors):
    cursors.drop("t2")
    assert cursors._client is None


@pytest.mark.parametrize(
    ("cursor", "why"), [("x" * 100, "at most 64"), (float("nan"), "JSON"), (object(), "JSON"), ({1, 2}, "JSON")]
)
def test_a_cursor_that_cannot_be_kept_is_refused_with_the_reason(cursors, cursor, why):
    with pytest.raises(InvalidInput, match=why):
        cursors.store("t1", cursor)


@pytest.mark.parametrize(
    ("cursor", "is_declared", "ends"), [("here", True, True), (None, True, False), ("here", False, False)]
)
def test_a_waiting_task_leaves_a_worker_that_stops_where_a_later_run_can_go_on(app, cursor, is_declared, ends):
    """Without a cursor it would begin anew, and one that does not declare its way cannot end at a checkpoint."""
    post = Post(rests=5, leaves_after=2)

    @app.task(shared=False, **({"on_quiesce": "wait"} if is_declared else {}))
    def work():
        checkpoint(cursor)

    if ends:
        with pytest.raises(Yielded):
            run_in_worker(app, work, post)
    else:
        run_in_worker(app, work, post)
    assert post.rests == (3 if ends else 0)
    assert post.said[-1] == ("t1", False)


@pytest.fixture
def own_receivers() -> Iterator[None]:
    """What a test has Celery tell is told no more when it is over."""
    before = list(signals.task_postrun.receivers)
    yield
    signals.task_postrun.receivers[:] = before


def run_by_tracer(app: Celery, task: Any, cursors: Cursors) -> None:
    """Run `task` as the pool does, in a worker that is quiesced until the task has waited once."""
    cell = Cell()
    cell.store(pack(Mode.QUIESCE, Edition(1, 2)))
    station = Station(
        cell, Table(cell), cursors,
        current_task=current_task,
        note_waiting=lambda *_: None,
        rest=lambda _: cell.store(pack(Mode.RUN, Edition(1, 3))),
        queue_of=lambda _: None,
        origin_of=origin_told,
    )  # fmt: skip
    prepare_tasks(app, station, lambda _: None)
    open_station(station, cell.flags)
    request = {"id": "t1", "called_directly": False, "is_eager": False, "delivery_info": {}}
    build_tracer(task.name, app.tasks[task.name], app=app)("t1", [], {}, request)


@pytest.mark.parametrize("way", [None, "wait"])
@pytest.mark.parametrize(
    ("end", "is_kept"), [(None, False), (ValueError("bad"), False), (Retry("later"), True), (Reject(), True)]
)
def test_a_cursor_goes_with_its_task_whether_or_not_it_declares_a_way(
    app: Celery, cursors: Cursors, own_receivers: None, way: str | None, end: Exception | None, is_kept: bool
) -> None:
    """A new task of the same id begins anew; one that comes again goes on."""
    declared: dict[str, Any] = {} if way is None else {"on_quiesce": way}

    @app.task(shared=False, **declared)
    def work() -> None:
        checkpoint(7)
        if end is not None:
            raise end

    run_by_tracer(app, work, cursors)
    assert cursors.load("t1") == (7 if is_kept else None)
    assert cursors.load("t1", AGAIN) == 7


def test_celery_is_not_asked_for_the_ends_of_tasks_that_have_no_cursor(
    app: Celery, cursors: Cursors, own_receivers: None
) -> None:
    before = len(signals.task_postrun.receivers)

    @app.task(shared=False)
    def work() -> None:
        checkpoint()

    run_by_tracer(app, work, cursors)
    assert len(signals.task_postrun.receivers) == before
