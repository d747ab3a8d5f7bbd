"""Publishing: what workers find in Redis is the truth, signed, whatever was put there."""

from __future__ import annotations

import json
import threading
from base64 import b64decode
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import pytest
from sqlalchemy import make_url

from sluicegate.control.embedded import EmbeddedPostgres, EmbeddedValkey
from sluicegate.control.holds import namespaces
from sluicegate.control.links.state_redis import Slot
from sluicegate.control.process.plane import ControlPlane
from sluicegate.control.publishing import signing_key
from sluicegate.schemas import names
from sluicegate.schemas.errors import Refused, Unavailable
from sluicegate.schemas.holds.hold import Holds
from sluicegate.schemas.snapshots import MAX_EPOCH, Edition, Sign, Snapshot, seal
from tests.integration.conftest import make_database
from tests.integration.world import PAUSE, RESUME, World, check_one_event_per_version, eventually


def envelope(world: World, key: Sign, *, epoch: int = 1, version: int, publication: int = 1) -> bytes:
    """A state with no hold, sealed by `key`."""
    published = world.published()
    assert published is not None
    state = Snapshot(
        namespace=world.namespace,
        epoch=epoch,
        holds=Holds(version=version),
        publication=publication,
        issued_at=published.issued_at,
    )
    return seal(state, key)


def test_a_change_is_published_before_its_answer(world: World) -> None:
    """The answer says so, and the signed state in Redis is the one in Postgres."""
    answer = world.change(world.replica(), **PAUSE)
    published = world.published()
    assert answer["published"] is True
    assert published is not None
    assert published.edition == world.edition() == Edition(1, 2)
    assert [hold.to_wire() for hold in published.holds.sorted()] == answer["system"]["holds"]


def test_every_publication_has_a_higher_publication_and_a_hint(world: World) -> None:
    """Workers take a publication that advances as proof that somebody read the truth (S4)."""
    plane = world.replica()
    with world.redis.pubsub(ignore_subscribe_messages=True) as hints:
        hints.subscribe(names.hint_channel(world.namespace))
        hints.get_message(timeout=5)
        publications = []
        for _ in range(3):
            plane.publisher.republish()
            published = world.published()
            assert published is not None
            hint = eventually(lambda: hints.get_message(timeout=0.1))
            assert json.loads(hint["data"]) == {"epoch": 1, "version": 1, "beat": published.publication}
            publications.append(published.publication)
    assert publications == sorted(set(publications))


def test_a_change_is_also_told_by_a_control_broadcast_and_a_republication_is_not(world: World) -> None:
    """The second door; it carries no state and no order."""
    plane = world.start()
    eventually(world.published)
    with world.redis.pubsub(ignore_subscribe_messages=True) as mailbox:
        mailbox.psubscribe("*celery.pidbox")
        mailbox.get_message(timeout=5)
        world.change(plane, **PAUSE)

        def version_told(timeout_s: float) -> int | None:
            message = mailbox.get_message(timeout=timeout_s)
            body = json.loads(b64decode(json.loads(message["data"])["body"])) if message else {}
            return body["arguments"]["version"] if body.get("method") == "sluicegate_hint" else None

        # That of the start, version 1, may still be under way.
        eventually(lambda: version_told(0.1) == 2)
        first = world.published()
        assert first is not None
        eventually(lambda: (published := world.published()) and published.publication > first.publication + 3)
        assert [version_told(0.01) for _ in range(20)] == [None] * 20


def test_a_control_plane_killed_between_commit_and_publish(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The order stands: whoever comes next publishes it."""
    dying = world.replica()
    monkeypatch.setattr(dying.publisher, "publish_now", lambda edition: (_ for _ in ()).throw(SystemExit()))
    with pytest.raises(SystemExit):
        world.change(dying, **PAUSE)
    assert world.published() is None
    world.start()
    published = eventually(world.published)
    assert published is not None
    assert published.edition == world.edition() == Edition(1, 2)


@pytest.mark.parametrize(
    ("forgery", "alarm"),
    [
        (b"", "malformed_snapshot"),
        (b"{}", "malformed_snapshot"),
        (b"\xff\xfe", "malformed_snapshot"),
        (b"[" * 100_000, "malformed_snapshot"),
        (b"x" * (1 << 20) + b"x", "malformed_snapshot"),
        ("list", "malformed_snapshot"),
        ("foreign key", "bad_signature"),
        ("changed byte", "bad_signature"),
    ],
)
def test_what_is_not_ours_is_overwritten_and_alarmed(
    world: World, tmp_path: Path, forgery: bytes | str, alarm: str
) -> None:
    """S3: a huge forged version must not block publishing for ever, nor be believed."""
    plane = world.replica()
    world.change(plane, **PAUSE)
    if forgery == "list":
        world.redis.delete(world.slot)
        world.redis.rpush(world.slot, "x")
    elif forgery == "foreign key":
        signing_key.create(tmp_path / "foreign.key")
        world.redis.set(world.slot, envelope(world, signing_key.load(tmp_path / "foreign.key"), version=1 << 40))
    elif forgery == "changed byte":
        outer = json.loads(world.redis.get(world.slot))
        sig = outer["sig"]
        outer["sig"] = ("B" if sig[0] == "A" else "A") + sig[1:]
        world.redis.set(world.slot, json.dumps(outer, separators=(",", ":")))
    else:
        world.redis.set(world.slot, forgery)
    plane.publisher.republish()
    published = world.published()
    assert published is not None
    assert published.edition == world.edition() == Edition(1, 2)
    assert plane.publisher.alarms == {alarm: 1}


def test_a_forgery_does_not_keep_a_change_from_being_published(world: World, tmp_path: Path) -> None:
    """The change itself overwrites it."""
    plane = world.replica()
    world.change(plane, **PAUSE)
    signing_key.create(tmp_path / "foreign.key")
    world.redis.set(world.slot, envelope(world, signing_key.load(tmp_path / "foreign.key"), version=1 << 40))
    assert world.change(plane, action="pause", mode="quiesce", reason="now")["published"] is True
    published = world.published()
    assert published is not None
    assert published.edition == Edition(1, 3)


def test_an_old_state_put_back_is_overwritten_and_alarmed(world: World) -> None:
    """Validly signed once, but older than what this control plane published: a replay, or a lost write."""
    plane = world.replica()
    plane.publisher.republish()
    old = world.redis.get(world.slot)
    world.change(plane, **PAUSE)
    world.redis.set(world.slot, old)
    plane.publisher.republish()
    published = world.published()
    assert published is not None
    assert published.edition == Edition(1, 2)
    assert plane.publisher.alarms == {"rolled_back": 1}


@pytest.mark.parametrize("is_published_before", [True, False])
def test_a_look_beside_a_publication_takes_no_older_state_for_a_rollback(
    world: World, monkeypatch: pytest.MonkeyPatch, is_published_before: bool
) -> None:
    """An order looks without the publisher's lock: what it read may be replaced before it has judged it."""
    plane = world.replica()
    if is_published_before:
        plane.publisher.republish()
    bus = plane.publisher._bus
    read = bus.read_slot

    def read_and_be_overtaken() -> Slot:
        slot = read()
        monkeypatch.setattr(bus, "read_slot", read)
        plane.publisher.republish()
        return slot

    monkeypatch.setattr(bus, "read_slot", read_and_be_overtaken)
    plane.publisher.look()
    assert plane.publisher.alarms == {}


def test_an_order_that_would_make_the_state_too_large_is_refused(world: World) -> None:
    """Workers and the control plane take no state above 1 MiB for ours: it never comes to that, and release goes on."""
    plane = world.replica()
    longest = {"reason": "\N{FACE WITH TEARS OF JOY}" * 1000}
    with plane.database.transaction() as connection:
        namespaces.lock(connection, world.namespace)
    world.sql(
        "insert into holds (id, namespace, scope, cause, source, mode, reason, actor, created_at, updated_at)"
        " select md5(n::text)::uuid, :namespace, 'queue:q' || n, 'manual', '', 'drain', :reason, 'alice', now(), now()"
        " from generate_series(0, 149) n",
        namespace=world.namespace,
        reason=longest["reason"],
    )
    numbers = iter(range(150, 300))

    def place_all() -> None:
        for number in numbers:
            world.change(plane, **PAUSE | longest, scope=f"queue:q{number}")

    with pytest.raises(Refused, match=r"the state would have \d+ bytes with \d+ holds, at most 917504") as caught:
        place_all()
    placed = next(numbers) - 1
    assert placed > 150
    assert caught.value.details["stateBytes"] > caught.value.details["mostBytes"]
    (refused,) = world.events(outcome="refused")
    assert (refused["action"], refused["details"]["mostBytes"]) == ("pause", 917504)
    for _ in range(3):
        plane.publisher.republish()
    published = world.published()
    assert published is not None
    assert len(published.holds.active) == placed
    assert plane.publisher.alarms == {}
    # One that makes it no larger than it is, one that ends a hold, and then another hold.
    world.change(plane, **PAUSE | {"reason": "short", "mode": "quiesce"}, scope="queue:q0")
    world.change(plane, **RESUME, forceResume=True, scope="queue:q1")
    world.change(plane, **PAUSE | {"reason": "another"}, scope="queue:other")


def test_a_wiped_redis_is_filled_again_and_alarmed(world: World) -> None:
    """FLUSHALL loses nothing: the truth is in Postgres."""
    plane = world.replica()
    world.change(plane, **PAUSE)
    world.redis.delete(world.slot)
    plane.publisher.republish()
    assert world.published() is not None
    assert plane.publisher.alarms == {"missing": 1}


def restored(world: World, postgres: EmbeddedPostgres) -> str:
    """A copy of the database as it is now: its backup."""
    for plane in world.planes:
        plane.database.close()
    source = make_url(world.database_url).database
    assert source is not None
    return make_database(postgres.url, f"restored_{uuid4().hex}", source)


def test_a_restored_database_bumps_the_epoch_before_any_other_change(world: World, postgres: EmbeddedPostgres) -> None:
    """S2: the pause that was lost with the newer database is not below what workers have applied."""
    plane = world.replica()
    world.change(plane, **PAUSE)
    backup = restored(world, postgres)
    world.change(plane, **RESUME)
    world.change(plane, action="pause", mode="quiesce", reason="after the backup")
    world.database_url = backup
    two = [world.replica(), world.replica()]
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda p: world.change(p, action="pause", mode="drain", reason=f"{id(p)}"), two))
    (bumped,) = world.events(action="epoch_bumped")
    assert (bumped["epoch"], bumped["version"], bumped["actor"]) == (2, 3, "sluicegate")
    assert (bumped["details"]["metEpoch"], bumped["details"]["metVersion"]) == (1, 4)
    assert world.edition() == Edition(2, 5)
    published = world.published()
    assert published is not None
    assert published.edition == Edition(2, 5)
    assert sum(p.publisher.alarms["restored"] for p in two) == 1
    check_one_event_per_version(world)


def test_a_resume_meets_a_restored_database_too_and_is_judged_by_what_it_holds(
    world: World, postgres: EmbeddedPostgres
) -> None:
    """It releases the hold of the backup, above everything that was published."""
    plane = world.replica()
    world.change(plane, **PAUSE)
    backup = restored(world, postgres)
    world.change(plane, **RESUME)
    world.database_url = backup
    plane = world.replica()
    answer = world.change(plane, **RESUME)
    assert (answer["outcome"], answer["system"]["epoch"], answer["system"]["holds"]) == ("applied", 2, [])
    published = world.published()
    assert published is not None
    assert (published.edition, published.holds.active) == (Edition(2, 4), frozenset())


def test_an_order_stands_where_no_epoch_is_left_to_publish_it(world: World) -> None:
    """Whoever has the key can sign the last epoch of all; the truth goes on in Postgres."""
    plane = world.replica()
    world.change(plane, **PAUSE)
    met = world.published()
    assert met is not None
    world.redis.set(world.slot, seal(replace(met, epoch=MAX_EPOCH), signing_key.load(world.key_file)))
    answer = world.change(plane, **RESUME)
    assert (answer["outcome"], answer["published"], answer["system"]["holds"]) == ("applied", False, [])


def test_the_loop_alone_finds_a_restored_database(world: World, postgres: EmbeddedPostgres) -> None:
    """Nobody needs to change anything for workers to hear the truth again."""
    plane = world.replica()
    plane.publisher.republish()
    backup = restored(world, postgres)
    world.change(plane, **PAUSE)
    met = world.published()
    assert met is not None
    world.database_url = backup
    replica = world.replica()
    replica.publisher.republish()
    published = world.published()
    assert published is not None
    assert published.edition == world.edition() == Edition(2, 2)
    assert published.publication > met.publication


def test_another_state_at_the_same_edition_counts_as_restored(world: World, postgres: EmbeddedPostgres) -> None:
    """Redis was away when the restored database went on: both know a version 2, and they differ."""
    plane = world.replica()
    plane.publisher.republish()
    backup = restored(world, postgres)
    world.change(plane, **PAUSE)
    world.database_url = backup
    offline = world.replica(SLUICEGATE_REDIS_URL="redis://127.0.0.1:1/0")
    assert world.change(offline, action="pause", mode="quiesce", reason="another")["published"] is False
    world.replica().publisher.republish()
    published = world.published()
    assert published is not None
    assert published.edition == world.edition() == Edition(2, 3)
    assert published.holds.global_mode.word == "quiesce"


def test_a_publication_counter_that_was_set_back_is_raised(world: World) -> None:
    """A restore that lost only publications: workers that wait for one to advance are not left waiting."""
    plane = world.replica()
    for _ in range(20):
        plane.publisher.republish()
    before = world.published()
    world.sql("select setval('snapshot_publications', 3)")
    plane.publisher.republish()
    after = world.published()
    assert before is not None
    assert after is not None
    assert after.publication > before.publication
    assert after.edition == before.edition


def test_replicas_that_publish_at_once_never_put_an_older_state_over_a_newer(world: World) -> None:
    """Seen by a reader that reads all the time: (epoch, version, publication) only ever goes up."""
    planes = [world.replica() for _ in range(3)]
    planes[0].publisher.republish()
    seen: list[tuple[Edition, int]] = []
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            published = world.published()
            assert published is not None
            seen.append((published.edition, published.publication))

    def publish(plane: ControlPlane) -> None:
        for count in range(15):
            if count % 3:
                plane.publisher.republish()
            else:
                world.change(plane, action="pause", mode="drain", reason=f"{id(plane)} {count}")

    with ThreadPoolExecutor(4) as pool:
        reader = pool.submit(read)
        try:
            list(pool.map(publish, planes))
        finally:
            done.set()
        reader.result()
    assert seen == sorted(seen)
    assert len(set(seen)) > 10
    assert all(not plane.publisher.alarms for plane in planes)
    published = world.published()
    assert published is not None
    assert published.edition == world.edition() == Edition(1, 16)


def test_with_redis_away_the_order_stands_and_is_published_later(world: World, valkey: EmbeddedValkey) -> None:
    """`published:false`, and the loop goes on until it is there."""
    plane = world.start()
    eventually(world.published)
    valkey.stop()
    try:
        answer = world.change(plane, **PAUSE)
        assert (answer["outcome"], answer["published"]) == ("applied", False)
        assert (answer["metrics"]["metricsSource"], answer["metrics"]["isDrained"]) == ("unavailable", False)
        assert world.edition() == Edition(1, 2)
    finally:
        valkey.start()
    eventually(lambda: (published := world.published()) and published.edition == Edition(1, 2))
    assert world.change(plane, **PAUSE)["published"] is True


def test_a_frozen_redis_delays_an_order_by_seconds_at_most(world: World, valkey: EmbeddedValkey) -> None:
    """It accepts connections and answers nothing."""
    from time import monotonic

    plane = world.start()
    eventually(world.published)
    valkey.freeze()
    try:
        began = monotonic()
        answer = world.change(plane, **PAUSE)
        took_s = monotonic() - began
    finally:
        valkey.thaw()
    assert answer["published"] is False
    assert took_s < 5
    eventually(lambda: (published := world.published()) and published.edition == Edition(1, 2))


def test_without_the_truth_nothing_is_published(world: World, postgres: EmbeddedPostgres) -> None:
    """A control plane that cannot read Postgres must not look alive to workers."""
    plane = world.start()
    eventually(world.published)
    postgres.stop("immediate")
    try:
        with pytest.raises(Unavailable):
            plane.publisher.republish()
        with pytest.raises(Unavailable, match="Postgres"):
            world.change(plane, **PAUSE)
        before = world.published()
        with pytest.raises(Unavailable):
            plane.publisher.republish()
        assert world.published() == before
    finally:
        postgres.start()
    assert before is not None
    eventually(lambda: (published := world.published()) and published.publication > before.publication)
    assert eventually(lambda: world.change(plane, **PAUSE))["published"] is True
