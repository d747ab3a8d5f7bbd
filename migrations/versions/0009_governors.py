"""What holds by itself: governors as rows, the term in which they were judged, and what work has cost.

Code of revision 0008 knows none of it, and goes on without: it judges no governor, and
leaves the holds of others alone.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None
usable_from = "0006"

INSTANT = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "governors",
        sa.Column("namespace", sa.Text, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.Column("spec", JSONB, nullable=False),
        sa.Column("managed_by", sa.Text),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.Column("updated_at", INSTANT, nullable=False),
        sa.Column("updated_by", sa.Text, nullable=False),
        sa.Column("deleted_at", INSTANT),
        sa.Column("override", JSONB),
        sa.Column("decision", JSONB),
        sa.Column("memory", JSONB),
        sa.Column("judged_at", INSTANT),
        sa.PrimaryKeyConstraint("namespace", "kind", "name", name=op.f("pk_governors")),
    )
    op.create_table(
        "governor_rounds",
        sa.Column("namespace", sa.Text, nullable=False),
        sa.Column("term", sa.BigInteger, nullable=False),
        sa.Column("judged_at", INSTANT, nullable=False),
        sa.PrimaryKeyConstraint("namespace", name=op.f("pk_governor_rounds")),
    )
    op.create_table(
        "spend",
        sa.Column("namespace", sa.Text, nullable=False),
        sa.Column("key", sa.Text, nullable=False),
        sa.Column("amount", sa.BigInteger, nullable=False),
        sa.Column("currency", sa.Text, nullable=False),
        sa.Column("at", INSTANT, nullable=False),
        sa.Column("origin", sa.Text, nullable=False),
        sa.Column("budget", sa.Text),
        sa.Column("host", sa.Text),
        sa.Column("worker", sa.Text),
        sa.Column("queue", sa.Text),
        sa.Column("task", sa.Text),
        sa.Column("task_id", sa.Text),
        sa.Column("labels", JSONB, nullable=False),
        sa.PrimaryKeyConstraint("namespace", "key", name=op.f("pk_spend")),
        sa.CheckConstraint("origin in ('report', 'rate', 'adjust')", name=op.f("ck_spend_origin_is_known")),
    )
    op.create_index("ix_spend_namespace_at", "spend", ["namespace", "at"])
    op.create_index("ix_spend_namespace_task_id", "spend", ["namespace", "task_id"])


def downgrade() -> None:
    op.drop_table("spend")
    op.drop_table("governor_rounds")
    op.drop_table("governors")
