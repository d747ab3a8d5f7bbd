"""The database is lost or restored, and Redis with it, while workers live on: nobody is called quiet, nothing opens."""

from __future__ import annotations

from uuid import uuid4

import pytest
from sqlalchemy import make_url

from sluicegate.control.embedded import EmbeddedPostgres
from sluicegate.control.process.plane import ControlPlane
from sluicegate.control.publishing import signing_key
from sluicegate.schemas.beats import WorkerState
from sluicegate.schemas.errors import InvalidInput, Refused
from sluicegate.schemas.holds.hold import Holds
from sluicegate.schemas.snapshots import MAX_EPOCH, Edition, Snapshot, seal
from tests.integration.conftest import make_database
from tests.integration.world import PAUSE, RESUME, World, check_one_event_per_version, eventually


def lose_everything_but_the_key(world: World, postgres: EmbeddedPostgres, template: str) -> ControlPlane:
    """A new control plane on an empty database and an empty Redis."""
    for plane in world.planes:
        plane.database.close()
    world.database_url = make_database(postgres.url, f"new_{uuid4().hex}", template)
    world.redis.flushdb()
    return world.replica()


def shown(world: World) -> str:
    """What a worker that follows holds in its hands now."""
    return str(world.redis.get(world.slot).decode())


def test_l4_a_worker_ahead_of_what_is_ordered_is_an_alarm_and_never_drained(world: World) -> None:
    """It says 1.23 and runs; a pause of the new database is 1.2, and nobody has acknowledged it."""
    plane = world.replica()
    world.beat("celery@a", applied=Edition(1, 23))
    answer = world.change(plane, **PAUSE)
    assert answer["metrics"]["isDrained"] is False
    assert answer["metrics"]["ahead"] == 1
    assert any("celery@a stands at 1.23, ahead of 1.2" in line for line in answer["warnings"])
    (listed,) = world.workers(plane)
    assert (listed["ahead"], listed["standsAt"]) == (True, "1.23")
    plane.draining.follow()
    assert world.events(action="drain_completed") == []
    with pytest.raises(Refused, match="not drained"):
        world.change(plane, **RESUME)


def test_l4_a_worker_at_the_same_edition_of_another_history_is_never_drained(world: World) -> None:
    """The new database came to 1.2 too: its 1.2 is a pause, the worker's is not."""
    plane = world.replica()
    world.beat("celery@a", applied=Edition(1, 2), fingerprint=Holds(version=2).fingerprint)
    answer = world.change(plane, **PAUSE)
    assert (answer["metrics"]["isDrained"], answer["metrics"]["ahead"]) == (False, 1)
    held = world.published()
    assert held is not None
    world.beat("celery@a", applied=Edition(1, 2), fingerprint=held.holds.fingerprint, state=WorkerState.PAUSED)
    assert world.read(plane)["metrics"]["isDrained"] is True


def test_a_worker_that_is_faster_than_a_look_is_no_alarm(world: World) -> None:
    """The look began before the order that the worker has taken: what is ordered is read again before it is judged."""
    plane = world.replica()
    with plane.database.transaction() as connection:
        truth, remembered = plane.parts.reading._truth_and_memory(connection)
    world.change(plane, **PAUSE)
    world.beat("celery@a", state=WorkerState.PAUSED, applied=Edition(1, 2))
    progress = plane.fleet.progress(truth, remembered)
    assert [(worker.is_ahead, worker.has_applied) for worker in progress.workers] == [(False, False)]


@pytest.mark.parametrize("is_paused", [True, False])
def test_s2_s9_the_state_that_a_worker_shows_raises_the_epoch_and_what_it_holds_stays_held(
    world: World, postgres: EmbeddedPostgres, template: str, is_paused: bool
) -> None:
    """Its signature is proof that a database with our key came so far. A paused fleet is not opened by a restore."""
    plane = world.replica()
    world.change(plane, action="pause", mode="quiesce", reason="the firmware")
    if not is_paused:
        world.change(plane, **RESUME)
    evidence, before = shown(world), world.published()
    assert before is not None
    plane = lose_everything_but_the_key(world, postgres, template)
    plane.publisher.republish()
    assert world.edition() == Edition(1, 1)
    state = WorkerState.PAUSED if is_paused else WorkerState.RUNNING
    world.beat("celery@a", state=state, applied=before.edition, fence=before.edition, shown=evidence)
    plane.parts.recovery.follow()
    published = world.published()
    assert published is not None
    assert published.edition == world.edition() == Edition(2, 2)
    assert published.publication > before.publication
    assert {hold.id for hold in published.holds.active} == {hold.id for hold in before.holds.active}
    (event,) = world.events(action="epoch_bumped")
    assert len(event["details"]["keptHolds"]) == is_paused
    assert plane.publisher.alarms["restored"] == 1
    # The worker still shows it for a moment: that raises nothing any more.
    plane.parts.recovery.follow()
    assert world.edition() == Edition(2, 2)
    check_one_event_per_version(world)
    if is_paused:
        answer = world.change(plane, **RESUME)
        assert (answer["outcome"], answer["system"]["holds"]) == ("applied", [])


def test_a_hold_that_the_database_released_is_not_held_again_by_what_a_worker_shows(world: World) -> None:
    """Both knew it; the order to resume came later than what the worker has."""
    plane = world.replica()
    world.change(plane, action="pause", mode="quiesce", reason="the firmware")
    key = signing_key.load(world.key_file)
    held = world.published()
    assert held is not None
    world.change(plane, **RESUME)
    ahead = Snapshot(
        namespace=world.namespace,
        epoch=1,
        holds=Holds(version=9, active=held.holds.active),
        publication=held.publication,
        issued_at=held.issued_at,
    )
    world.beat("celery@a", applied=Edition(1, 9), shown=seal(ahead, key).decode())
    plane.parts.recovery.follow()
    assert world.edition() == Edition(2, 4)
    assert world.read(plane)["system"]["holds"] == []


@pytest.mark.parametrize("forgery", ["another key", "changed", "another namespace", "junk", "nothing"])
def test_s3_a_forged_heartbeat_raises_no_epoch(world: World, forgery: str) -> None:
    """Whoever can write a heartbeat can claim any edition: it is an alarm, and no more."""
    plane = world.replica()
    world.change(plane, **PAUSE)
    published = world.published()
    assert published is not None
    state = Snapshot(
        namespace="another" if forgery == "another namespace" else world.namespace,
        epoch=MAX_EPOCH,
        holds=Holds(version=99),
        publication=99,
        issued_at=published.issued_at,
    )
    if forgery == "another key":
        signing_key.create(world.key_file.with_name("foreign.key"))
        said = seal(state, signing_key.load(world.key_file.with_name("foreign.key"))).decode()
    else:
        said = seal(state, signing_key.load(world.key_file)).decode()
    told = {"changed": said.replace("A", "B", 1), "junk": "x" * 70_000, "nothing": None}.get(forgery, said)
    world.beat("celery@a", applied=Edition(MAX_EPOCH, 99), shown=told)
    plane.parts.recovery.follow()
    assert world.edition() == Edition(1, 2)
    assert plane.publisher.alarms["ahead"] == 1


def test_an_old_state_of_ours_that_a_worker_shows_raises_no_epoch(world: World) -> None:
    """A replay: once signed, and below what is ordered."""
    plane = world.replica()
    plane.publisher.republish()
    old = shown(world)
    world.change(plane, **PAUSE)
    world.beat("celery@a", shown=old)
    plane.parts.recovery.follow()
    assert world.edition() == Edition(1, 2)
    assert plane.publisher.alarms == {}


def test_a_true_state_among_thousands_of_forged_ones_has_its_turn(
    world: World, postgres: EmbeddedPostgres, template: str
) -> None:
    """Which are looked at is left to chance: a flood delays it, and cannot keep it out."""
    plane = world.replica()
    world.change(plane, **PAUSE)
    evidence = shown(world)
    plane = lose_everything_but_the_key(world, postgres, template)
    plane.publisher.republish()
    flood = [f"{number}" for number in range(200)]
    assert eventually(lambda: plane.publisher.meet_shown([*flood, evidence]), within_s=30)
    assert world.edition() == Edition(2, 2)


def test_an_admin_raises_the_epoch_above_what_workers_say_and_it_is_on_record(world: World) -> None:
    """A life that has applied nothing yet, and remembers 1.23, has nothing to show."""
    plane = world.start()
    world.beat("celery@a", state=WorkerState.PAUSING, applied=Edition(0, 0), fence=Edition(1, 23))
    operator, admin = world.client(plane, "operator"), world.client(plane, "admin", "root")
    asked = {"reason": "both stores were lost"}
    assert operator.post("/api/system/epoch", json=asked).status_code == 403
    assert admin.post("/api/system/epoch", json={}).status_code == 422
    answer = admin.post("/api/system/epoch", json=asked)
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert (body["outcome"], body["above"], body["published"]) == ("applied", "1.23", True)
    assert (body["system"]["epoch"], body["system"]["version"]) == (2, 2)
    (event,) = world.events(action="epoch_raised", outcome="applied")
    assert (event["actor"], event["reason"], event["epoch"], event["version"]) == ("root", asked["reason"], 2, 2)
    again = admin.post("/api/system/epoch", json=asked)
    assert (again.status_code, "no worker is ahead" in again.text) == (409, True)
    assert admin.post("/api/system/epoch", json=asked | {"above": "1.23"}).json()["outcome"] == "noop"
    check_one_event_per_version(world)


def test_an_epoch_is_not_raised_by_itself_above_what_is_hardly_true(world: World) -> None:
    """Epochs are used up for good: who goes further than a hundred restores must say so."""
    plane = world.replica()
    recovery = plane.parts.recovery
    world.beat("celery@a", applied=Edition(60_000, 1))
    with pytest.raises(Refused, match="name the edition"):
        recovery.raise_epoch(above=None, reason="lost", actor="root")
    (refused,) = world.events(action="epoch_raised")
    assert (refused["outcome"], refused["details"]["above"]) == ("refused", "60000.1")
    assert world.edition() == Edition(1, 1)
    assert recovery.raise_epoch(above=Edition(60_000, 1), reason="so it is", actor="root").truth.epoch == 60_001


@pytest.mark.parametrize("above", ["", "1", "1.", ".1", "0.1", f"{MAX_EPOCH}.1", "1.2.3", "-1.2", "1.2e3", 1.2, "٣.1"])
def test_what_is_no_edition_is_refused_and_changes_nothing(world: World, above: object) -> None:
    from sluicegate.schemas.api.epoch import edition_above

    with pytest.raises(InvalidInput):
        edition_above(above)


def test_a_restored_database_keeps_what_was_ordered_after_its_copy_was_made(
    world: World, postgres: EmbeddedPostgres
) -> None:
    """Only Postgres went back; what Redis has is signed, and the fleet that it holds is not opened."""
    plane = world.replica()
    plane.publisher.republish()
    source = make_url(world.database_url).database
    plane.database.close()
    backup = make_database(postgres.url, f"restored_{uuid4().hex}", str(source))
    world.change(plane, **PAUSE)
    world.database_url = backup
    plane = world.replica()
    plane.publisher.republish()
    published = world.published()
    assert published is not None
    assert published.edition == Edition(2, 2)
    assert [hold.reason for hold in published.holds.active] == ["deploy"]
    plane.draining.follow()
    assert len(world.sql("select 1 from drains")) == 1
