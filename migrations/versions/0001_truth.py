"""The truth: namespaces, holds, the audit, idempotency keys, tokens and workers.

Written out, not taken from `control.store.tables`: a revision must go on doing what it did when it was new.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None
usable_from = "0001"

MOMENT = sa.DateTime(timezone=True)

# SECURITY: a trigger also binds the table's owner, and ALWAYS keeps it on under session_replication_role.
APPEND_ONLY = """
create function sluicegate_refuse_change() returns trigger language plpgsql as $$
begin
    raise exception '% is append-only: % is refused', tg_table_name, tg_op
        using errcode = 'insufficient_privilege';
end $$
"""
APPEND_ONLY_TRIGGER = """
create trigger control_events_append_only before update or delete or truncate on control_events
    for each statement execute function sluicegate_refuse_change()
"""
APPEND_ONLY_ALWAYS = "alter table control_events enable always trigger control_events_append_only"


def upgrade() -> None:
    op.execute(sa.schema.CreateSequence(sa.Sequence("snapshot_beats", data_type=sa.BigInteger)))
    op.create_table(
        "namespaces",
        sa.Column("namespace", sa.Text, nullable=False),
        sa.Column("epoch", sa.Integer, nullable=False),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.Column("updated_at", MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("namespace", name=op.f("pk_namespaces")),
        sa.CheckConstraint("epoch between 1 and 65535", name=op.f("ck_namespaces_epoch_fits_the_cell")),
        sa.CheckConstraint("version between 1 and 17592186044415", name=op.f("ck_namespaces_version_fits_the_cell")),
    )
    op.create_table(
        "holds",
        sa.Column("id", sa.Uuid, nullable=False),
        sa.Column("namespace", sa.Text, nullable=False),
        sa.Column("scope", sa.Text, nullable=False),
        sa.Column("cause", sa.Text, nullable=False),
        sa.Column("source", sa.Text, nullable=False),
        sa.Column("mode", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("actor", sa.Text, nullable=False),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.Column("expires_at", MOMENT),
        sa.Column("deadline", MOMENT),
        sa.Column("then", sa.Text),
        sa.Column("released_at", MOMENT),
        sa.Column("released_by", sa.Text),
        sa.Column("released_reason", sa.Text),
        sa.Column("updated_at", MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_holds")),
        sa.CheckConstraint("mode in ('drain', 'quiesce')", name=op.f("ck_holds_mode_is_known")),
        sa.CheckConstraint(
            "num_nulls(released_at, released_by, released_reason) in (0, 3)",
            name=op.f("ck_holds_released_at_by_and_why_together"),
        ),
    )
    op.create_index(
        "uq_holds_active",
        "holds",
        ["namespace", "scope", "cause", "source"],
        unique=True,
        postgresql_where=sa.text("released_at is null"),
    )
    op.create_table(
        "control_events",
        sa.Column("id", sa.BigInteger, sa.Identity(always=True), nullable=False),
        sa.Column("namespace", sa.Text),
        sa.Column("epoch", sa.Integer, nullable=False),
        sa.Column("version", sa.BigInteger),
        sa.Column("action", sa.Text, nullable=False),
        sa.Column("outcome", sa.Text, nullable=False),
        sa.Column("scope", sa.Text),
        sa.Column("cause", sa.Text),
        sa.Column("source", sa.Text),
        sa.Column("mode", sa.Text),
        sa.Column("reason", sa.Text),
        sa.Column("actor", sa.Text, nullable=False),
        sa.Column("hold_id", sa.Uuid),
        sa.Column("details", postgresql.JSONB, nullable=False),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_control_events")),
        sa.CheckConstraint(
            "outcome in ('applied', 'noop', 'refused', 'denied')",
            name=op.f("ck_control_events_outcome_is_known"),
        ),
        sa.CheckConstraint(
            "version is null or outcome = 'applied'",
            name=op.f("ck_control_events_only_applied_events_make_versions"),
        ),
    )
    op.create_index(
        "uq_control_events_version",
        "control_events",
        ["namespace", "epoch", "version"],
        unique=True,
        postgresql_where=sa.text("outcome = 'applied'"),
    )
    op.create_index("ix_control_events_namespace_created_at", "control_events", ["namespace", "created_at"])
    for statement in (APPEND_ONLY, APPEND_ONLY_TRIGGER, APPEND_ONLY_ALWAYS):
        op.execute(statement)
    op.create_table(
        "idempotency_keys",
        sa.Column("namespace", sa.Text, nullable=False),
        sa.Column("actor", sa.Text, nullable=False),
        sa.Column("key", sa.Text, nullable=False),
        sa.Column("fingerprint", sa.Text, nullable=False),
        sa.Column("answer", postgresql.JSONB, nullable=False),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("namespace", "actor", "key", name=op.f("pk_idempotency_keys")),
    )
    op.create_index("ix_idempotency_keys_created_at", "idempotency_keys", ["created_at"])
    op.create_table(
        "tokens",
        sa.Column("digest", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("right", sa.Text, nullable=False),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.Column("revoked_at", MOMENT),
        sa.PrimaryKeyConstraint("digest", name=op.f("pk_tokens")),
        sa.CheckConstraint("\"right\" in ('viewer', 'operator', 'admin')", name=op.f("ck_tokens_right_is_known")),
    )
    op.create_index("uq_tokens_name", "tokens", ["name"], unique=True, postgresql_where=sa.text("revoked_at is null"))
    op.create_table(
        "workers",
        sa.Column("namespace", sa.Text, nullable=False),
        sa.Column("nodename", sa.Text, nullable=False),
        sa.Column("incarnation", sa.Text, nullable=False),
        sa.Column("beat", postgresql.JSONB, nullable=False),
        sa.Column("last_seen_at", MOMENT, nullable=False),
        sa.Column("forgotten_at", MOMENT),
        sa.Column("forgotten_by", sa.Text),
        sa.Column("forgotten_reason", sa.Text),
        sa.PrimaryKeyConstraint("namespace", "nodename", name=op.f("pk_workers")),
    )


def downgrade() -> None:
    for table in ("workers", "tokens", "idempotency_keys", "control_events", "holds", "namespaces"):
        op.drop_table(table)
    op.execute("drop function sluicegate_refuse_change()")
    op.execute(sa.schema.DropSequence(sa.Sequence("snapshot_beats")))
