"""Everything that one replica is made of, put together from settings. Nothing here connects or starts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from time import monotonic
from typing import Any

from sluicegate.control.access.admission import Access
from sluicegate.control.access.denials import Denials
from sluicegate.control.audit.feed import Feed
from sluicegate.control.fleet.view import Fleet
from sluicegate.control.fleet.words import Words
from sluicegate.control.governors import file as governors_file
from sluicegate.control.governors import rows as governor_rows
from sluicegate.control.governors import spend_rows
from sluicegate.control.governors.costs import EVERY_S as INTAKE_EVERY_S
from sluicegate.control.governors.costs import Intake
from sluicegate.control.governors.judging import Given
from sluicegate.control.governors.objects import Objects
from sluicegate.control.governors.rooms import Rooms
from sluicegate.control.governors.rounds import EVERY_S as JUDGE_EVERY_S
from sluicegate.control.governors.rounds import Judged, Rounds
from sluicegate.control.governors.rows import Stored
from sluicegate.control.holds import namespaces
from sluicegate.control.holds.namespaces import Truth
from sluicegate.control.links.broadcast import Broadcast
from sluicegate.control.links.broker import Broker, kombu_url
from sluicegate.control.links.roll_call import EVERY_S, RollCall
from sluicegate.control.links.state_redis import Bus
from sluicegate.control.parts import Parts, Readiness
from sluicegate.control.pausing import idempotency
from sluicegate.control.pausing.change import Orders
from sluicegate.control.pausing.clock import Clock
from sluicegate.control.pausing.drains import Draining
from sluicegate.control.pausing.own_records import OwnRecords
from sluicegate.control.pausing.read import Reading
from sluicegate.control.pausing.recovery import Recovery
from sluicegate.control.process.leader import Leader
from sluicegate.control.process.loops import Loop
from sluicegate.control.publishing import signing_key
from sluicegate.control.publishing.publisher import Publisher
from sluicegate.control.store import migrate, replicas, terms
from sluicegate.control.store.connection import parse_url
from sluicegate.control.store.database import Database
from sluicegate.schemas import settings
from sluicegate.schemas.adapters.redis_client import refuse_unusable, tls_arguments
from sluicegate.schemas.adapters.trusted_keys import TrustedKeys
from sluicegate.schemas.errors import InvalidSetting
from sluicegate.schemas.governors.decisions import Kind
from sluicegate.schemas.money import MILLION
from sluicegate.schemas.public_keys import parse_public_keys
from sluicegate.schemas.redis_urls import Place, Server, is_redis, place_of

EXPIRE_EVERY_S = 0.5
DRAIN_EVERY_S = 0.5
FOLD_EVERY_S = 2.0
LOOKS_REST = 3.0
"""How many times as long as a look at the fleet took the next one is put off."""
TELL_COUNTS_EVERY_S = 1.0
CLEAN_EVERY_S = 600.0
CLEAN_LOOK_EVERY_S = 5.0
SPEND_KEPT_FOR = timedelta(days=100)


MOST_THRESHOLD = 940_000
"""Of the capacity gates, in millionths."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerAddress:
    """Where Celery's messages are. `master_name` is what the sentinels call it, `key_prefix` stands before its keys.

    `url` and `tls` are what kombu takes; `place` is None where the broker is no Redis.
    """

    url: str
    tls: Mapping[str, Any] | None
    place: Place | None
    master_name: str | None
    key_prefix: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Composition:
    """One replica. What runs by itself is in `loops` and `broadcast`; what is asked is in `parts`."""

    namespace: str
    bind: tuple[str, int]
    broker: BrokerAddress
    database: Database
    bus: Bus
    broadcast: Broadcast
    publisher: Publisher
    fleet: Fleet
    clock: Clock
    draining: Draining
    intake: Intake
    rounds: Rounds
    leader: Leader
    parts: Parts
    loops: tuple[Loop, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Once:
    """What is done by one replica of all: the parts whose writes are fenced by the leader's term."""

    clock: Clock
    draining: Draining
    fleet: Fleet
    recovery: Recovery
    intake: Intake
    rounds: Rounds
    own_records: OwnRecords
    database: Database

    def fold(self) -> None:
        """A turn: what workers say is remembered, and what they hold themselves for is put on record."""
        self.own_records.follow(self.recovery.follow())


def _fleet_of(environ: Mapping[str, str], bus: Bus, broker: BrokerAddress) -> Callable[..., Fleet]:
    """Makes the fleet's views, which check each heartbeat once together."""
    namespace = settings.NAMESPACE.read(environ)
    return partial(
        Fleet,
        bus=bus,
        broker=Broker(broker.url, broker.master_name, broker.key_prefix, broker.tls),
        namespace=namespace,
        lease=timedelta(seconds=settings.LEASE_S.read(environ)),
        words=Words(namespace),
        needs_signed=settings.NEEDS_SIGNED_BEATS.read(environ),
    )


def compose(environ: Mapping[str, str]) -> Composition:
    """Reads the settings; raises InvalidSetting naming all that are wrong."""
    _refuse_wrong(environ)
    namespace = settings.NAMESPACE.read(environ)
    state, broker = _servers(environ)
    key = signing_key.load(settings.SIGNING_KEY_FILE.read(environ))
    interval_s = settings.REPUBLISH_INTERVAL_MS.read(environ) / 1000

    database = Database(settings.DATABASE_URL.read(environ))
    bus = Bus(state, namespace, settings.MAX_WORKERS.read(environ))
    broadcast = Broadcast(broker.url, broker.master_name, broker.key_prefix, broker.tls)
    publisher = _publisher(environ, database, bus, broadcast, key)
    roll_call = RollCall(broker.url, broker.master_name, broker.key_prefix, broker.tls)
    fleet_of = _fleet_of(environ, bus, broker)
    fleet = fleet_of(database=database, answers=roll_call.answers)
    draining = Draining(database=database, fleet=fleet, namespace=namespace)
    leader = Leader(
        database=database,
        namespace=namespace,
        code_revision=migrate.head(),
        # Drains cannot be followed, nor heartbeats folded, by a replica that does not hear Redis.
        is_fit=lambda: not publisher.is_cut_off,
    )
    parts = _parts(namespace, database, bus, publisher, fleet, draining)
    intake = Intake(database=leader.fenced, bus=bus, namespace=namespace)
    rounds = _rounds(parts, leader, publisher, intake, environ)
    once = _once(parts, leader, publisher, fleet_of(database=leader.fenced), (intake, rounds))
    return Composition(
        namespace=namespace,
        bind=settings.BIND.read(environ),
        broker=broker,
        database=database,
        bus=bus,
        broadcast=broadcast,
        publisher=publisher,
        fleet=fleet,
        clock=Clock(database=database, publisher=publisher, namespace=namespace),
        draining=draining,
        intake=intake,
        rounds=rounds,
        leader=leader,
        parts=parts,
        loops=_loops(publisher, leader, once, roll_call, parts.access.denials, interval_s),
    )


def _publisher(
    environ: Mapping[str, str], database: Database, bus: Bus, broadcast: Broadcast, key: signing_key.SigningKey
) -> Publisher:
    namespace = settings.NAMESPACE.read(environ)
    judged = Judged(database, namespace, lambda connection: terms.read(connection, namespace).number)
    return Publisher(
        database=database,
        bus=bus,
        namespace=namespace,
        key=key,
        trusted=_trusted(environ, key),
        on_change=broadcast.ask,
        may_publish=judged.may_publish,
    )


def _refuse_wrong(environ: Mapping[str, str]) -> None:
    """Before anything is made, so that whoever sets one after the other is not told of them one after the other."""
    url, key_file, keys = settings.DATABASE_URL, settings.SIGNING_KEY_FILE, settings.PUBLIC_KEYS
    further = (
        lambda: parse_url(url.read(environ)),
        lambda: _refuse_broker(_servers(environ)[1]),
        lambda: signing_key.load(key_file.read(environ)),
        lambda: _usual_threshold(environ),
        lambda: parse_public_keys(keys.read_or_none(environ) or ""),
    )
    reads = settings.reads_of(settings.CONTROL, (settings.REDIS_URL, url, key_file), environ)
    settings.refuse_wrong([*reads, *(further if keys.read_or_none(environ) else further[:-1])])


def _refuse_broker(broker: BrokerAddress) -> None:
    Broker(broker.url, broker.master_name, broker.key_prefix, broker.tls)


def _servers(environ: Mapping[str, str]) -> tuple[Place, BrokerAddress]:
    """Where the pause state is, and where the broker: the same place, where nothing else is said."""
    redis_url = settings.REDIS_URL.read(environ)
    master_name = settings.REDIS_MASTER_NAME.read_or_none(environ)
    state = place_of(redis_url, settings.REDIS_URL, master_name, settings.REDIS_MASTER_NAME)
    refuse_unusable(state, settings.REDIS_URL.name)
    url = settings.BROKER_URL.read_or_none(environ)
    brokers_name = settings.BROKER_MASTER_NAME.read_or_none(environ) or master_name
    places = _broker_places(url, brokers_name) if url else (state,)
    servers = [place for place in places if isinstance(place, Server)]
    tls = servers[0].tls if servers else None
    broker = BrokerAddress(
        url=";".join(map(kombu_url, servers)) or url or redis_url,
        tls=tls_arguments(tls) if tls else None,
        place=places[0] if places else None,
        master_name=brokers_name,
        key_prefix=settings.BROKER_KEY_PREFIX.read_or_none(environ),
    )
    return state, broker


def _broker_places(url: str, master_name: str | None) -> tuple[Place, ...]:
    """Empty where it is no Redis. Several as Celery has them: it goes on with the next where one fails."""
    name, name_setting = settings.BROKER_URL, settings.BROKER_MASTER_NAME
    if not is_redis(url):
        return ()
    # kombu verifies nothing of a `rediss://` that does not ask for it; this reads what the workers' own URL reaches.
    entries = [url] if url.lower().startswith("sentinel://") else [entry for entry in url.split(";") if entry]
    places = tuple(place_of(entry, name, master_name, name_setting, unsaid_verify="none") for entry in entries)
    for place in places:
        refuse_unusable(place, name.name)
    if len({place.tls for place in places if isinstance(place, Server)}) > 1:
        raise InvalidSetting(name.name, "names several servers with different TLS: kombu takes one for all")
    return places


def _trusted(environ: Mapping[str, str], key: signing_key.SigningKey) -> TrustedKeys:
    # Our own signature is always trusted; the others are those of a rotation that is under way.
    others = settings.PUBLIC_KEYS.read_or_none(environ)
    return TrustedKeys({key.kid: key.public_bytes} | (parse_public_keys(others) if others else {}))


def _parts(
    namespace: str, database: Database, bus: Bus, publisher: Publisher, fleet: Fleet, draining: Draining
) -> Parts:
    reading = Reading(database=database, fleet=fleet, namespace=namespace)
    return Parts(
        namespace=namespace,
        access=Access(database, namespace),
        orders=Orders(database=database, publisher=publisher, reading=reading, draining=draining, namespace=namespace),
        reading=reading,
        fleet=fleet,
        audit=Feed(database, namespace),
        readiness=Readiness(database, bus),
        recovery=Recovery(database=database, fleet=fleet, reading=reading, publisher=publisher, namespace=namespace),
        governors=Objects(database=database, namespace=namespace),
        own_records=OwnRecords(database=database, fleet=fleet, publisher=publisher, namespace=namespace),
    )


def _usual_threshold(environ: Mapping[str, str]) -> int:
    """That of a capacity gate which says none, in millionths. Raises InvalidSetting.

    Its release mark, 0.05 above it, must be one that can be reached.
    """
    threshold = settings.CAPACITY_THRESHOLD.read(environ) * 100
    if threshold > MOST_THRESHOLD:
        most = f"at most {MOST_THRESHOLD / MILLION:g}: the fleet's gates release 0.05 above it"
        raise InvalidSetting(settings.CAPACITY_THRESHOLD.name, f"is out of range for the control plane: {most}")
    return threshold


def _rounds(parts: Parts, leader: Leader, publisher: Publisher, intake: Intake, environ: Mapping[str, str]) -> Rounds:
    """Raises InvalidSetting where the file of governors cannot be read."""
    path = settings.GOVERNORS_FILE.read_or_none(environ)
    wanted = {} if path is None else governors_file.load(path, settings.GOVERNORS_FILE.name)
    kinds = tuple(map(Kind, settings.GOVERNORS.read(environ)))
    usual = _usual_threshold(environ)
    every_s = settings.POLLING_INTERVAL_S.read(environ)
    rooms = Rooms(database=leader.fenced, fleet=parts.fleet, every_s=every_s)

    def given(truth: Truth, known: Sequence[Stored]) -> Given:
        looks = any(governor.kind is Kind.CAPACITY for governor in known)
        look = rooms.look(truth) if looks else None
        return Given(kinds=kinds, usual=usual, look=look, fault=intake.fault, is_stale=intake.is_stale)

    def prepare() -> None:
        rooms.begin()
        parts.governors.manage(wanted, database=leader.fenced)

    return Rounds(
        database=leader.fenced,
        publisher=publisher,
        namespace=parts.namespace,
        term=lambda: leader.term,
        given=given,
        prepare=prepare,
    )


def _once(
    parts: Parts, leader: Leader, publisher: Publisher, learning: Fleet, governing: tuple[Intake, Rounds]
) -> Once:
    """The same parts once more for what the leader alone does: what these write counts only within its term."""
    fenced, namespace = leader.fenced, parts.namespace
    return Once(
        clock=Clock(database=fenced, publisher=publisher, namespace=namespace),
        draining=Draining(database=fenced, fleet=parts.fleet, namespace=namespace),
        fleet=learning,
        recovery=replace(parts.recovery, fleet=learning),
        intake=governing[0],
        rounds=governing[1],
        own_records=OwnRecords(database=fenced, fleet=parts.fleet, publisher=publisher, namespace=namespace),
        database=fenced,
    )


def _loops(
    publisher: Publisher, leader: Leader, once: Once, roll_call: RollCall, denials: Denials, interval_s: float
) -> tuple[Loop, ...]:
    """What goes on by itself, in the order in which it is started."""
    led = leader.run_when_leading
    cleaning = _Cleaning(once.database, once.fleet, leader.replica.namespace)
    return (
        Loop("publish", publisher.republish, interval_s=interval_s),
        leader.loop,
        # Each replica has turned away its own.
        Loop(
            "denials",
            denials.tell_counts,
            interval_s=TELL_COUNTS_EVERY_S,
            at_end=partial(denials.tell_counts, at_once=True),
        ),
        Loop("costs", led(once.intake.turn), interval_s=INTAKE_EVERY_S),
        Loop("govern", led(once.rounds.turn), interval_s=JUDGE_EVERY_S),
        Loop("expire", led(once.clock.expire_due), interval_s=EXPIRE_EVERY_S),
        Loop("escalate", led(once.clock.escalate_due), interval_s=EXPIRE_EVERY_S),
        Loop("drain", led(once.draining.follow), interval_s=DRAIN_EVERY_S, rests=LOOKS_REST),
        Loop("fold", led(once.fold), interval_s=FOLD_EVERY_S, rests=LOOKS_REST),
        Loop("roll call", roll_call.call, interval_s=EVERY_S),
        Loop("clean", led(cleaning), interval_s=CLEAN_LOOK_EVERY_S),
    )


class _Cleaning:
    """Lets go of what nobody will ask for again: at the first turn as a leader, and then now and then."""

    def __init__(self, database: Database, fleet: Fleet, namespace: str) -> None:
        self._database = database
        self._namespace = namespace
        self._fleet = fleet
        self._due_at = 0.0

    def __call__(self) -> None:
        if monotonic() < self._due_at:
            return
        with self._database.transaction() as connection:
            now = namespaces.clock(connection)
            idempotency.purge(connection, now)
            replicas.purge(connection, now)
            if governor_rows.is_granted(connection):
                spend_rows.purge(connection, self._namespace, now - SPEND_KEPT_FOR)
        self._fleet.purge()
        self._due_at = monotonic() + CLEAN_EVERY_S
