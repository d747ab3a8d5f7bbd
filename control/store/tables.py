"""The database's tables, declared once: the stores query them, the migrations are tested against them."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Sequence,
    Table,
    Text,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

METADATA = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    }
)

INSTANT = DateTime(timezone=True)

PUBLICATIONS = Sequence("snapshot_publications", metadata=METADATA, data_type=BigInteger)
"""Counts publications of all namespaces; gaps mean nothing, it only ever goes up."""

COMPATIBILITY = Table(
    "compatibility",
    METADATA,
    Column("is_the_row", Boolean, primary_key=True),
    # The oldest code revision that can work on the tables as they are.
    Column("usable_from", Text, nullable=False),
    CheckConstraint("is_the_row", name="there_is_one_row"),
)
"""One row, written by each upgrade and downgrade (migrations/env.py)."""

LEADERS = Table(
    "leaders",
    METADATA,
    Column("namespace", Text, primary_key=True),
    # Goes up by one with each election, never down; 0 before the first.
    Column("term", BigInteger, nullable=False),
    # Null: nobody leads, until the next election.
    Column("replica", Uuid),
    Column("leased_until", INSTANT, nullable=False),
)
"""Which replica leads each fleet (control.process.leader). Its term fences what it writes."""

REPLICAS = Table(
    "replicas",
    METADATA,
    Column("id", Uuid, primary_key=True),
    Column("namespace", Text, nullable=False),
    Column("code_revision", Text, nullable=False),
    Column("seen_at", INSTANT, nullable=False),
)
"""The control planes that run, each as one life of its process: who would be in the way of an upgrade."""

NAMESPACES = Table(
    "namespaces",
    METADATA,
    Column("namespace", Text, primary_key=True),
    Column("epoch", Integer, nullable=False),
    Column("version", BigInteger, nullable=False),
    Column("updated_at", INSTANT, nullable=False),
    CheckConstraint("epoch between 1 and 65535", name="epoch_fits_the_cell"),
    CheckConstraint("version between 1 and 17592186044415", name="version_fits_the_cell"),
)
"""One row per fleet. Every change locks it, so that versions are handed out one at a time."""

HOLDS = Table(
    "holds",
    METADATA,
    Column("id", Uuid, primary_key=True),
    Column("namespace", Text, nullable=False),
    Column("scope", Text, nullable=False),
    Column("cause", Text, nullable=False),
    Column("source", Text, nullable=False),
    Column("mode", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("actor", Text, nullable=False),
    Column("created_at", INSTANT, nullable=False),
    Column("expires_at", INSTANT),
    Column("deadline", INSTANT),
    # Then is a word of SQL: SQLAlchemy quotes it.
    Column("then", Text),
    # When the deadline came with work left, and `then` began.
    Column("escalated_at", INSTANT),
    # Resumed by and by (schemas.holds.ramps); SQL's null where it is not.
    Column("ramp", JSONB(none_as_null=True)),
    Column("released_at", INSTANT),
    Column("released_by", Text),
    Column("released_reason", Text),
    Column("updated_at", INSTANT, nullable=False),
    CheckConstraint("mode in ('drain', 'quiesce')", name="mode_is_known"),
    CheckConstraint(
        "num_nulls(released_at, released_by, released_reason) in (0, 3)",
        name="released_at_by_and_why_together",
    ),
    Index(
        "uq_holds_active",
        "namespace",
        "scope",
        "cause",
        "source",
        unique=True,
        postgresql_where=text("released_at is null"),
    ),
)
"""Every hold there ever was; those with `released_at` null are in force."""

CONTROL_EVENTS = Table(
    "control_events",
    METADATA,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    # Null: about the whole database, not one fleet (a token, for one).
    Column("namespace", Text),
    Column("epoch", Integer, nullable=False),
    # The version that this event made; null where it changed no hold.
    Column("version", BigInteger),
    Column("action", Text, nullable=False),
    Column("outcome", Text, nullable=False),
    Column("scope", Text),
    Column("cause", Text),
    Column("source", Text),
    Column("mode", Text),
    Column("reason", Text),
    Column("actor", Text, nullable=False),
    Column("hold_id", Uuid),
    Column("details", JSONB, nullable=False),
    Column("created_at", INSTANT, nullable=False),
    # The chain: set by a trigger, whatever an insert says (docs/decisions/0012).
    Column("position", BigInteger, nullable=False),
    Column("previous_hash", LargeBinary, nullable=False),
    Column("hash", LargeBinary, nullable=False),
    CheckConstraint("outcome in ('applied', 'noop', 'refused', 'denied')", name="outcome_is_known"),
    CheckConstraint("version is null or outcome = 'applied'", name="only_applied_events_make_versions"),
    Index(
        "uq_control_events_version",
        "namespace",
        "epoch",
        "version",
        unique=True,
        postgresql_where=text("outcome = 'applied'"),
    ),
    Index("ix_control_events_namespace_created_at", "namespace", "created_at"),
    Index("uq_control_events_position", "position", unique=True),
)
"""The audit. Triggers chain each event to the one before it, and refuse UPDATE, DELETE and TRUNCATE."""

AUDIT_CHAIN = Table(
    "audit_chain",
    METADATA,
    Column("is_the_row", Boolean, primary_key=True),
    CheckConstraint("is_the_row", name="there_is_one_row"),
)
"""One row, which the chain's trigger locks as its owner: who may not update it cannot hold events up."""

IDEMPOTENCY_KEYS = Table(
    "idempotency_keys",
    METADATA,
    Column("namespace", Text, primary_key=True),
    Column("actor", Text, primary_key=True),
    Column("key", Text, primary_key=True),
    Column("fingerprint", Text, nullable=False),
    Column("answer", JSONB, nullable=False),
    Column("created_at", INSTANT, nullable=False),
    Index("ix_idempotency_keys_created_at", "created_at"),
)
"""What each request of an actor was answered, for a day, so that a repeated one does nothing twice."""

DRAINS = Table(
    "drains",
    METADATA,
    Column("hold_id", Uuid, primary_key=True),
    # The version that made the hold what it is; a hold that is altered gets a row more.
    Column("version", BigInteger, primary_key=True),
    Column("namespace", Text, nullable=False),
    # When the hold was first placed.
    Column("begun_at", INSTANT, nullable=False),
    # Who ran what then, and what waited (schemas.holds.at_pause); null until the fleet was looked at.
    Column("at_pause", JSONB),
    # Each task that was running, and its fate (schemas.holds.drains.Followed).
    Column("tasks", JSONB, nullable=False),
    Column("ended_at", INSTANT),
    Column("ending", Text),
    Column("receipt", JSONB),
    CheckConstraint("num_nulls(ended_at, ending) in (0, 2)", name="ended_at_and_how_together"),
    Index(
        "uq_drains_under_way",
        "namespace",
        "hold_id",
        unique=True,
        postgresql_where=text("ended_at is null"),
    ),
)
"""How each version of each hold got on; those with `ended_at` null are followed."""

RUNTIMES = Table(
    "runtimes",
    METADATA,
    Column("namespace", Text, primary_key=True),
    Column("task", Text, primary_key=True),
    Column("count", BigInteger, nullable=False),
    # The seconds of the last runs, oldest first (schemas.runtimes).
    Column("recent_s", JSONB, nullable=False),
    Column("updated_at", INSTANT, nullable=False),
)
"""How long the tasks of each name took, as far as heartbeats have shown."""

TOKENS = Table(
    "tokens",
    METADATA,
    Column("digest", Text, primary_key=True),
    Column("name", Text, nullable=False),
    Column("right", Text, nullable=False),
    Column("created_at", INSTANT, nullable=False),
    Column("revoked_at", INSTANT),
    CheckConstraint("\"right\" in ('viewer', 'operator', 'admin')", name="right_is_known"),
    Index("uq_tokens_name", "name", unique=True, postgresql_where=text("revoked_at is null")),
)
"""Who may ask, by the SHA-256 (hex) of a secret that is stored nowhere. `name` is the actor."""

WORKERS = Table(
    "workers",
    METADATA,
    Column("namespace", Text, primary_key=True),
    Column("nodename", Text, primary_key=True),
    Column("incarnation", Text, nullable=False),
    # The last heartbeat in its wire form (schemas.beats).
    Column("beat", JSONB, nullable=False),
    # By the Redis server's clock.
    Column("last_seen_at", INSTANT, nullable=False),
    Column("forgotten_at", INSTANT),
    Column("forgotten_by", Text),
    Column("forgotten_reason", Text),
)
"""The last that was heard of each worker, so that a wiped Redis does not make it look gone."""

GOVERNORS = Table(
    "governors",
    METADATA,
    Column("namespace", Text, primary_key=True),
    Column("kind", Text, primary_key=True),
    Column("name", Text, primary_key=True),
    # Of the row, +1 with every change of what it says; goes on where a name is used again.
    Column("version", BigInteger, nullable=False),
    # As `schemas.governors.specs` spells it.
    Column("spec", JSONB, nullable=False),
    # `file`: it stands in the file that the control plane was started with, and REST does not change it.
    Column("managed_by", Text),
    Column("created_at", INSTANT, nullable=False),
    Column("updated_at", INSTANT, nullable=False),
    Column("updated_by", Text, nullable=False),
    Column("deleted_at", INSTANT),
    # Somebody goes on past it for a while (schemas.governors.decisions.Override).
    Column("override", JSONB(none_as_null=True)),
    # The last decision of the leader, its numbers, and what it remembers of this one.
    Column("decision", JSONB(none_as_null=True)),
    Column("memory", JSONB(none_as_null=True)),
    Column("judged_at", INSTANT),
)
"""What holds by itself: windows, budgets, capacity. `cause` and `source` of its holds are its kind and name."""

GOVERNOR_ROUNDS = Table(
    "governor_rounds",
    METADATA,
    Column("namespace", Text, primary_key=True),
    # The term in which all governors have been judged; whoever starts publishes nothing before (R-G2).
    Column("term", BigInteger, nullable=False),
    Column("judged_at", INSTANT, nullable=False),
)
"""One row for each fleet: the last term whose leader has been through all governors."""

SPEND = Table(
    "spend",
    METADATA,
    Column("namespace", Text, primary_key=True),
    # What makes a report the same report: it counts once, however often it comes.
    Column("key", Text, primary_key=True),
    # Millionths of the currency; below zero by `adjust` alone.
    Column("amount", BigInteger, nullable=False),
    Column("currency", Text, nullable=False),
    Column("at", INSTANT, nullable=False),
    # `report`, `rate` or `adjust`.
    Column("origin", Text, nullable=False),
    # Of an adjustment: the budget that it is of, and no other.
    Column("budget", Text),
    # Whose work it was: what the scopes of budgets are matched against.
    Column("host", Text),
    Column("worker", Text),
    Column("queue", Text),
    Column("task", Text),
    Column("task_id", Text),
    Column("labels", JSONB, nullable=False),
    CheckConstraint("origin in ('report', 'rate', 'adjust')", name="origin_is_known"),
    Index("ix_spend_namespace_at", "namespace", "at"),
    Index("ix_spend_namespace_task_id", "namespace", "task_id"),
)
"""What work has cost, with when: summed by the local day of each budget."""
